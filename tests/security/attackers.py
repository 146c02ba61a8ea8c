"""Clients of the attack in a box, hostile and honest ones, and the count of what became of them."""

import asyncio
import collections
import contextlib
import random
import socket
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from support import networks
from support.courier import courierhost

SERVER: Final = "192.0.2.1"
SMTP, PROXIED, IMAP = 25, 2525, 143  # in a namespace every port is free
GREETINGS: Final = (b"220 ", b"* OK")

_CHANCE: Final = random.Random(16)  # noqa: S311 (no secret)
_COMMANDS: Final = b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<alice@example.com>\r\nQUIT\r\n"
_VERSION_2: Final = b"\r\n\r\n\0\r\nQUIT\n"  # how a binary PROXY header begins


class Origin(NamedTuple):
    """Says where a client is: a process in its network, or None for the server's own, and its address."""

    network: int | None
    address: str


@dataclass
class Tally:
    """Counts the tries of clients of one kind, by what became of them; `delays` are those of greetings."""

    tried: int = 0
    outcomes: "collections.Counter[str]" = field(default_factory=collections.Counter)
    delays: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Return the median delay."""
        return statistics.median(self.delays)

    @property
    def late(self) -> float:
        """Return the delay that 95 % of the tries do not exceed."""
        return sorted(self.delays)[round(0.95 * (len(self.delays) - 1))]


class Conversation:
    """A client's end of a connection."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._rest = b""

    async def say(self, data: bytes) -> None:
        """Send data, even if nobody listens any more."""
        with contextlib.suppress(ConnectionError):
            await asyncio.get_running_loop().sock_sendall(self._end, data)

    async def line(self) -> bytes:
        """Read a line, or what there is of it when the connection ends."""
        while b"\n" not in self._rest:
            data = await self._read()
            if not data:
                break
            self._rest += data
        line, end, self._rest = self._rest.partition(b"\n")
        return line + end

    async def answer(self, tag: bytes) -> bool:
        """Read lines up to one that begins with `tag`; return whether there is one."""
        while line := await self.line():
            if line.startswith(tag):
                return True
        return False

    async def greeted(self) -> bool:
        """Read a line; return whether it is a greeting."""
        return (await self.line()).startswith(GREETINGS)

    async def hold(self) -> None:
        """Read until the server closes the connection."""
        while await self._read():
            pass

    async def _read(self) -> bytes:
        try:
            return await asyncio.get_running_loop().sock_recv(self._end, 4096)
        except (ConnectionError, TimeoutError):
            return b""


@contextlib.asynccontextmanager
async def connected(origin: Origin, port: int) -> AsyncIterator[Conversation]:
    """Connect to the server; from its own network by loopback."""
    with contextlib.nullcontext() if origin.network is None else networks.of(origin.network):
        end = socket.socket()  # which stays in this network
    with end:
        end.setblocking(False)
        end.bind((origin.address, 0))
        server = "127.0.0.1" if origin.network is None else SERVER
        await asyncio.get_running_loop().sock_connect(end, (server, port))
        yield Conversation(end)


Attack = Callable[[Origin], Awaitable[bool]]  # returns whether it was greeted


async def hold_smtp(origin: Origin) -> bool:
    """Hold a connection without sending a byte, as long as the server permits it."""
    return await _attack(origin, SMTP)


async def hold_imap(origin: Origin) -> bool:
    """Do the same to IMAP."""
    return await _attack(origin, IMAP)


async def talk_early(origin: Origin) -> bool:
    """Send all commands at once."""
    return await _attack(origin, SMTP, _COMMANDS)


async def lie(origin: Origin) -> bool:
    """Claim to be a proxy, for a client that may do everything."""
    return await _attack(origin, PROXIED, b"PROXY TCP4 127.0.0.1 127.0.0.1 40000 25\r\n" + _COMMANDS)


async def garble(origin: Origin) -> bool:
    """Send a wrong PROXY header."""
    begin = _CHANCE.choice([b"PROXY TCP4 ", b"PROXY ", _VERSION_2, b""])
    return await _attack(origin, PROXIED, begin + _CHANCE.randbytes(200))


async def _attack(origin: Origin, port: int, data: bytes = b"") -> bool:
    async with connected(origin, port) as talk:
        if data:
            await talk.say(data)
        greeted = await talk.greeted()
        await talk.hold()
        return greeted


async def guess(origin: Origin) -> bool:
    """Try a password; Courier takes five seconds to refuse it."""
    async with connected(origin, IMAP) as talk:
        greeted = await talk.greeted()
        await talk.say(f"1 LOGIN {courierhost.USER} guess\r\n".encode())
        await talk.answer(b"1 NO")
        return greeted


async def again(tally: Tally, attack: Attack, origin: Origin, pause: float) -> None:
    """Attack the server again and again, until cancelled."""
    await asyncio.sleep(_CHANCE.uniform(0, pause))
    while True:
        tally.tried += 1
        try:
            greeted = await attack(origin)
        except OSError:
            greeted = False
        tally.outcomes["greeted" if greeted else "refused"] += 1
        await asyncio.sleep(_CHANCE.uniform(0.5 * pause, 1.5 * pause))


class Honest(NamedTuple):
    """Describes an honest client: where it is, what it connects to, and the client that its proxy names."""

    origin: Origin
    port: int
    behind_proxy: str | None = None

    @property
    def address(self) -> str:
        """Return its own address."""
        return self.behind_proxy or self.origin.address


async def regularly(tally: Tally, client: Honest, seconds: float, patience: float) -> None:
    """Be served about once a second, for this time; wait for each service as long as `patience`."""
    end = time.monotonic() + seconds
    await asyncio.sleep(_CHANCE.uniform(0, 1))
    while time.monotonic() < end:
        tally.tried += 1
        before = len(tally.delays)
        try:
            async with asyncio.timeout(patience):
                outcome = await _served(tally, client)
        except TimeoutError:
            outcome = "gave up"
        except OSError:
            outcome = "refused"
        if len(tally.delays) == before and outcome == "gave up":
            tally.delays.append(patience)
        tally.outcomes[outcome] += 1
        await asyncio.sleep(_CHANCE.uniform(0.8, 1.2))


async def _served(tally: Tally, client: Honest) -> str:
    """Do what a client comes for; return how that ended."""
    began = time.monotonic()
    async with connected(client.origin, client.port) as talk:
        if client.behind_proxy is not None:
            await talk.say(f"PROXY TCP4 {client.behind_proxy} {SERVER} 40000 25\r\n".encode())
        if not await talk.greeted():
            return "refused"
        tally.delays.append(time.monotonic() - began)
        done = await (_log_in(talk) if client.port == IMAP else _leave_smtp(talk))
        return "served" if done else "broken off"


async def _leave_smtp(talk: Conversation) -> bool:
    await talk.say(b"QUIT\r\n")
    return await talk.answer(b"221 ")


async def _log_in(talk: Conversation) -> bool:
    await talk.say(f"1 LOGIN {courierhost.USER} {courierhost.PASSWORD}\r\n".encode())
    if not await talk.answer(b"1 OK"):
        return False
    await talk.say(b"2 LOGOUT\r\n")
    return await talk.answer(b"2 OK")


async def vanish(stack: contextlib.AsyncExitStack, origins: list[Origin]) -> None:
    """Log in from each place and wait for mail, as telephones do; then their link goes down.

    Their sockets are closed with `stack`.
    """
    for origin in origins:
        talk = await stack.enter_async_context(connected(origin, IMAP))
        assert await talk.greeted()
        await talk.say(f"1 LOGIN {courierhost.USER} {courierhost.PASSWORD}\r\n".encode())
        assert await talk.answer(b"1 OK")
        await talk.say(b"2 SELECT INBOX\r\n3 IDLE\r\n")
        assert await talk.answer(b"+ ")
    assert origins[0].network is not None
    with networks.of(origins[0].network):
        networks.ip("link set there down")
