"""Clients by the thousand, each with what it was told: served, refused with a reason, or nothing."""

import collections
import errno
import random
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from support.running import daemons

PATIENCE: Final = 120.0  # seconds for a client to be answered while everything goes wrong on a busy machine


class Visit(NamedTuple):
    """One client to be: of which host and service, from where, what it says at once.

    It says no more, which it shows at once (`ends`) or when it is answered.
    """

    host: str
    service: str
    port: int
    source: str
    says: bytes = b""
    ends: bool = True


class Outcome(NamedTuple):
    """Holds the result of a client; `port` is the client's own."""

    visit: Visit
    port: int
    said: bytes
    seconds: float

    @property
    def what(self) -> str:
        """`served`, the reason of a refusal, or `nothing`."""
        if b"\0" in self.said:
            return "served"
        return self.said.decode().strip() or "nothing"


class _Client:
    def __init__(self, visit: Visit, end: socket.socket) -> None:
        self.visit = visit
        self.end = end
        self.began = time.monotonic()
        self.port = 0
        self.said = b""


class Crowd(threading.Thread):
    """Sends visitors, so many at a time, one `every` so many seconds; `seen` is called with each outcome."""

    def __init__(
        self,
        next_visit: Callable[[], Visit | None],
        seen: Callable[[Outcome], None],
        *,
        at_once: int,
        every: float = 0.0,
    ) -> None:
        super().__init__(daemon=True)
        self.sent: collections.Counter[str] = collections.Counter()
        self._next = next_visit
        self._seen = seen
        self._most = at_once
        self._every = every
        self._looked = 0.0
        self._selector = selectors.DefaultSelector()
        self._over = threading.Event()

    def finish(self) -> None:
        """Send nobody else, and wait until all have been answered."""
        self._over.set()
        self.join(PATIENCE + 10)
        assert not self.is_alive()

    def run(self) -> None:
        """Until it is told to stop, or there are no more visitors."""
        due = time.monotonic()
        more = True
        while more or self._selector.get_map():
            began = 0
            while (
                more and began < 50 and len(self._selector.get_map()) < self._most and time.monotonic() >= due
            ):
                began += 1
                visit = None if self._over.is_set() else self._next()
                more = visit is not None
                if visit is not None:
                    self._begin(visit)
                    due += self._every
            for key, events in self._selector.select(0.01):
                self._go_on(key.data, events)
            self._give_up()
        self._selector.close()

    def _begin(self, visit: Visit) -> None:
        end = socket.socket()
        end.setblocking(False)
        end.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT: ports are shared by addresses
        end.bind((visit.source, 0))
        if (error := end.connect_ex(("127.0.0.1", visit.port))) not in {0, errno.EINPROGRESS}:
            raise OSError(error, f"cannot connect to {visit.service}")
        self.sent[visit.service] += 1
        self._selector.register(end, selectors.EVENT_WRITE, _Client(visit, end))

    def _go_on(self, client: _Client, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                if client.end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    self._done(client)
                    return
                client.port = client.end.getsockname()[1]
                if client.visit.says:
                    client.end.send(client.visit.says)
                if client.visit.ends:
                    client.end.shutdown(socket.SHUT_WR)
                self._selector.modify(client.end, selectors.EVENT_READ, client)
                return
            data = client.end.recv(65536)
            if data and not client.visit.ends and not client.said:
                client.end.shutdown(socket.SHUT_WR)
        except OSError:
            data = b""
        client.said += data
        if not data:
            self._done(client)

    def _give_up(self) -> None:
        if (now := time.monotonic()) < self._looked + 1:
            return
        self._looked = now
        late = now - PATIENCE
        for client in [key.data for key in self._selector.get_map().values() if key.data.began < late]:
            client.said = b"late"
            self._done(client)

    def _done(self, client: _Client) -> None:
        self._selector.unregister(client.end)
        client.end.close()
        self._seen(Outcome(client.visit, client.port, client.said, time.monotonic() - client.began))


def environment(outcome: Outcome) -> dict[str, str]:
    """Return the environment of a served client's program."""
    return daemons.environment(outcome.said)


def someone(chance: random.Random, network: str, of: int) -> str:
    """An address of a network that is written with its first two octets."""
    number = chance.randrange(of)
    return f"{network}.{number // 250}.{number % 250 + 1}"
