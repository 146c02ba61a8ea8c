"""Name servers for tests: one that says what a test tells it to, faults included, and a real rbldnsd."""

import contextlib
import dataclasses
import heapq
import itertools
import os
import pathlib
import selectors
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Final, Literal, NamedTuple, Self

import dns.flags
import dns.message
import dns.opcode
import dns.query
import dns.rcode
import dns.rdatatype
import dns.rrset
from support import peers
from support.running import daemons

from tcpdconf.config.model import values

Transport = Literal["udp", "tcp"]

# Ways to send what no resolver may believe: from another port or address than was asked, with another id
# or question, as a question, with another opcode.
Forgery = Literal["port", "address", "id", "question", "query", "opcode"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reply:
    """One message in answer to a question; to one that came over the other transport than `over`, none.

    A record is "A 127.0.0.2", of the name asked for, or "@other.example. A 127.0.0.2". `garbage` stands where
    one record was announced. `closed`: the connection is closed before the last octet.
    """

    rcode: str = "NOERROR"
    records: tuple[str, ...] = ()
    ttl: int = 300
    soa: int | None = None  # an SOA record with this minimum in the authority section
    authoritative: bool = True
    truncated: bool = False  # over UDP: no records, and the bit that says so
    garbage: bytes | None = None
    forged: Forgery | None = None
    over: Transport | None = None
    delay: float = 0.0  # seconds
    drip: float = 0.0  # seconds before each octet over TCP
    closed: bool = False


NOT_FOUND: Final = Reply(rcode="NXDOMAIN", soa=60)


class Asked(NamedTuple):
    """A question that has come."""

    name: str
    type: str
    transport: Transport
    number: int
    port: int


class Server:
    """A server on a free port, from entering to leaving.

    `asked` are the questions so far. What was not scripted with `says` is answered NXDOMAIN.
    """

    def __init__(self, address: str = "127.0.0.1") -> None:
        self._family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._host = address
        self._script: dict[tuple[str, str], tuple[Reply, ...]] = {}
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self.asked: list[Asked] = []
        self.lose = 0  # datagrams that are still to be lost

    def says(self, name: str, kind: str, *replies: Reply) -> None:
        """Answer this question with these messages (none: be silent). "*.zone" is for all names below."""
        self._script[name, kind] = replies

    @property
    def address(self) -> values.ServerAddress:
        """Return its address."""
        return values.ServerAddress(self._host, self._udp.getsockname()[1])

    def __enter__(self) -> Self:
        self._udp, self._tcp = _pair(self._family, self._host)
        self._elsewhere = {
            "port": _bound(self._family, self._host),
            "address": _bound(self._family, "127.0.0.99" if self._family == socket.AF_INET else self._host),
        }
        self._wake, self._woken = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._udp, selectors.EVENT_READ, self._datagram)
        self._selector.register(self._tcp, selectors.EVENT_READ, self._accept)
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wake.close()
        self._thread.join(daemons.SECONDS)
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr] # all of them are sockets
        for other in self._elsewhere.values():
            other.close()
        self._selector.close()

    def _run(self) -> None:
        while True:
            wait = max(0.0, self._due[0][0] - time.monotonic()) if self._due else None
            for key, _ in self._selector.select(wait):
                if key.data is None:
                    return
                key.data(key.fileobj)
            while self._due and self._due[0][0] <= time.monotonic():
                heapq.heappop(self._due)[2]()

    def _after(self, seconds: float, act: Callable[[], object]) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), act))

    def _datagram(self, udp: socket.socket) -> None:
        data, peer = udp.recvfrom(65535)
        question = dns.message.from_wire(data)
        replies = self._replies(question, "udp", peer[1])
        if self.lose:
            self.lose -= 1
            return
        for reply in replies:
            message = _message(question, reply, "udp")
            sender = self._elsewhere.get(reply.forged or "", udp)
            if reply.delay:
                self._after(reply.delay, lambda sender=sender, message=message: sender.sendto(message, peer))  # type: ignore[misc]
            else:
                sender.sendto(message, peer)

    def _accept(self, tcp: socket.socket) -> None:
        client, _ = tcp.accept()
        self._selector.register(client, selectors.EVENT_READ, self._stream)

    def _stream(self, client: socket.socket) -> None:
        try:
            data = client.recv(65535)  # a question is one segment on the loopback
        except ConnectionResetError:
            data = b""
        if not data:
            self._leave(client)
            return
        question = dns.message.from_wire(data[2:])
        for reply in self._replies(question, "tcp", client.getpeername()[1]):
            message = _message(question, reply, "tcp")
            octets = struct.pack("!H", len(message)) + message
            if reply.closed:
                octets = octets[:-1]
            self._after(reply.delay, lambda octets=octets, reply=reply: self._send(client, octets, reply))  # type: ignore[misc]

    def _send(self, client: socket.socket, octets: bytes, reply: Reply) -> None:
        if client.fileno() < 0:
            return
        count = 1 if reply.drip else len(octets)
        try:
            client.sendall(octets[:count])
        except OSError:  # who asked has gone
            return
        if octets[count:]:
            self._after(reply.drip, lambda: self._send(client, octets[count:], reply))
        elif reply.closed:
            self._leave(client)

    def _leave(self, client: socket.socket) -> None:
        self._selector.unregister(client)
        client.close()

    def _replies(self, question: dns.message.Message, transport: Transport, port: int) -> list[Reply]:
        name = question.question[0].name.to_text(omit_final_dot=True)
        kind = dns.rdatatype.to_text(question.question[0].rdtype)
        self.asked.append(Asked(name, kind, transport, question.id, port))
        labels = name.split(".")
        names = [name, *("*." + ".".join(labels[start:]) for start in range(1, len(labels)))]
        found = next((self._script[n, kind] for n in names if (n, kind) in self._script), (NOT_FOUND,))
        return [reply for reply in found if reply.over in {None, transport}]


def _message(question: dns.message.Message, reply: Reply, transport: Transport) -> bytes:
    made = dns.message.make_response(question, recursion_available=reply.authoritative)
    made.set_rcode(dns.rcode.from_text(reply.rcode))
    made.flags |= dns.flags.AA if reply.authoritative else 0
    name = question.question[0].name.to_text()
    if reply.truncated and transport == "udp":
        made.flags |= dns.flags.TC
    else:
        made.answer = [_record(record, name, reply.ttl) for record in reply.records]
    if reply.soa is not None:
        soa = f"ns.{name} host.{name} 1 3600 600 86400 {reply.soa}"
        made.authority = [dns.rrset.from_text(name, reply.ttl, "IN", "SOA", soa)]
    octets = bytearray(made.to_wire(max_size=65535))
    if reply.garbage is not None:
        octets[6:8] = b"\0\1"  # the number of answers
        octets += reply.garbage
    return bytes(_forged(octets, reply.forged))


def _record(text: str, name: str, ttl: int) -> dns.rrset.RRset:
    owner, kind, *data = text.split() if text.startswith("@") else [name, *text.split()]
    return dns.rrset.from_text(owner.removeprefix("@"), ttl, "IN", kind, " ".join(data))


def _forged(octets: bytearray, forgery: Forgery | None) -> bytearray:
    match forgery:
        case "id":
            octets[0] ^= 0x55
        case "question":
            octets[13] = ord("~")  # the first letter of the name
        case "query":
            octets[2] &= 0x7F
        case "opcode":
            octets[2] |= dns.opcode.STATUS << 3
    return octets


def _pair(family: socket.AddressFamily, host: str) -> tuple[socket.socket, socket.socket]:
    """A UDP socket and a listening TCP socket on the same free port."""
    while True:
        tcp = socket.create_server((host, 0), family=family)
        udp = socket.socket(family, socket.SOCK_DGRAM)
        try:
            udp.bind(tcp.getsockname()[:2])
        except OSError:
            tcp.close()
            udp.close()
            continue
        return udp, tcp


def _bound(family: socket.AddressFamily, host: str) -> socket.socket:
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.bind((host, 0))
    return made


def nowhere() -> values.ServerAddress:
    """A server that is not there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return values.ServerAddress("127.0.0.1", probe.getsockname()[1])


class Rbldnsd:
    """A real rbldnsd that serves zones, each of a type and with data: {"list.example": ("ip4set", "...")}."""

    def __init__(self, zones: Mapping[str, tuple[str, str]], port: int | None = None) -> None:
        peers.need("rbldnsd")
        self._zones = zones
        self.address = values.ServerAddress("127.0.0.1", port or daemons.free_port())

    def __enter__(self) -> Self:
        # it refuses to be root, and another user does not get into pytest's folders
        self._folder = tempfile.TemporaryDirectory()
        folder = pathlib.Path(self._folder.name)
        folder.chmod(0o755)
        for zone, (_, data) in self._zones.items():
            (folder / zone).write_text(data)
        self._process = subprocess.Popen(
            [
                *("rbldnsd", "-n", "-b", f"{self.address.address}/{self.address.port}", "-w", folder),
                *(("-u", "nobody") if os.geteuid() == 0 else ()),
                *(f"{zone}:{kind}:{zone}" for zone, (kind, _) in self._zones.items()),
            ],
            env={"PATH": "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._process.stdout is not None
        said = ""
        while line := self._process.stdout.readline():
            said += line
            if " started " in line:
                return self
        self.__exit__(None, None, None)
        raise AssertionError(said)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.communicate()
        self._folder.cleanup()

    def change(self, zone: str, data: str) -> None:
        """Serve other data, of another length: rbldnsd reads a file again if its time or its size differs."""
        (pathlib.Path(self._folder.name) / zone).write_text(data)
        self._process.send_signal(signal.SIGHUP)

    def lists(self, address: str, zone: str) -> bool:
        """Return whether an IPv4 address is in a zone, as it is served now."""
        name = f"{'.'.join(reversed(address.split('.')))}.{zone}."
        asked = dns.message.make_query(name, "A")
        return bool(dns.query.udp(asked, self.address.address, timeout=10, port=self.address.port).answer)

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """Let it answer nothing."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)
