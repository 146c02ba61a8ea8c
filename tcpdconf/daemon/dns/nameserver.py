"""One name server: questions to it, over UDP from ports that change and over TCP; messages back.

It moves messages and knows their ids; what they say, and when to give up, is the asker's business. All
sockets are connected: the kernel drops what comes from others, and tells when the server is not there.
"""

import contextlib
import errno
import functools
import socket
import struct
from collections.abc import Callable
from typing import Final, Protocol

from tcpdconf.config.model import values
from tcpdconf.daemon.dns import message as dns_message
from tcpdconf.daemon.dns import window
from tcpdconf.daemon.process import loop

# Questions from one source port. Those that are asked together share it, which halves what a question costs;
# who would guess an answer still has to hit the one port and the one id that are right for its question.
PER_PORT: Final = 16
_MISSES: Final = 3  # silences in a row that make a server a silent one
_PAUSE: Final = 30.0  # seconds after which a silent one is asked again
_LARGEST: Final = 65535  # octets of a message
_READ: Final = 64  # messages read before other events get their turn
# The message is lost here, as messages are; all else means that the server cannot be reached.
_LOST: Final = frozenset({errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_KIND: Final = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC

Drop = Callable[[], None]  # gives up one question that was sent; to be called once, whatever came


class Asker(Protocol):
    """Who asks a question, and is told what comes until it drops what it sent."""

    @property
    def section(self) -> bytes:
        """The question."""

    def received(self, server: "NameServer", data: bytes) -> None:
        """A message with the id of the question has come over UDP; there may be more."""

    def streamed(self, server: "NameServer", data: bytes) -> None:
        """A message has come over TCP, or b"" when none will."""

    def unreachable(self, server: "NameServer") -> None:
        """The server is not there."""


class NameServer:
    """One name server. `token` returns two octets that nobody can guess.

    `strays` counts the messages that answered nothing asked.
    """

    def __init__(self, events: loop.Loop, address: values.ServerAddress, token: Callable[[], bytes]) -> None:
        self._loop = events
        self._token = token
        self._family, self._address = _socket_address(address)
        self._port: _Port | None = None
        self._pace = window.Window(events)
        self._misses = 0
        self._retry_at = 0.0
        self.strays = 0

    @property
    def silent(self) -> bool:
        """Whether others are to be asked before it."""
        return self._misses >= _MISSES

    def heard(self) -> None:
        """Take note that it has said something."""
        self._misses = 0
        self._pace.answered()

    def missed(self, now: float) -> None:
        """Take note that it has not answered in time."""
        self._misses += 1
        self._retry_at = now + _PAUSE

    def due(self, now: float) -> bool:
        """Whether a silent server should be asked again; True once, then not for a while."""
        if not self.silent or now < self._retry_at:
            return False
        self._retry_at = now + _PAUSE
        return True

    def ask(self, asker: Asker) -> Drop | None:
        """Send a question over UDP; None when it was lost on the way out.

        Raises:
            OSError: the server cannot be reached.
        """
        try:
            if self._port is None or self._port.used_up:
                self._port = _Port(self, self._loop, self._connect(socket.SOCK_DGRAM))
        except OSError as error:
            if error.errno in _LOST:
                return None
            raise
        port = self._port
        number = port.add(asker, self._token)
        if self._pace.ready:
            port.send(number)
        else:
            self._pace.hold(functools.partial(port.send, number))
        return functools.partial(port.drop, number)

    def ask_stream(self, asker: Asker) -> Drop | None:
        """Send a question over TCP; otherwise as `ask`."""
        try:
            return _TcpStream(self, self._loop, self._connect(socket.SOCK_STREAM), asker, self._token()).close
        except OSError as error:
            if error.errno in _LOST:
                return None
            raise

    def _connect(self, kind: int) -> socket.socket:
        made = socket.socket(self._family, kind | _KIND)
        try:
            with contextlib.suppress(BlockingIOError):
                made.connect(self._address)
        except OSError:
            made.close()
            raise
        return made


class _Port:
    """A source port, chosen by the kernel at random. It is closed when no question from it waits."""

    def __init__(self, server: NameServer, events: loop.Loop, connected: socket.socket) -> None:
        self._server = server
        self._loop = events
        self._socket = connected
        self._waiting: dict[bytes, Asker] = {}
        self._left = PER_PORT
        events.watch(connected, self._receive)

    @property
    def used_up(self) -> bool:
        """Whether another port is needed for the next question."""
        return not self._left

    def add(self, asker: Asker, token: Callable[[], bytes]) -> bytes:
        """Expect answers to a question; returns its id."""
        number = token()
        while number in self._waiting:
            number = token()
        self._waiting[number] = asker
        self._left -= 1
        return number

    def send(self, number: bytes) -> None:
        """Send a question that was added, unless it was dropped."""
        asker = self._waiting.get(number)
        if asker is None:
            return
        try:
            self._socket.send(dns_message.message(number, asker.section))
        except OSError as error:
            if error.errno not in _LOST:  # it may be about one that was sent before
                self._left = 0
                self._loop.after(0, self._tell)

    def drop(self, number: bytes) -> None:
        """Expect no answer any more."""
        del self._waiting[number]
        if not self._waiting:
            self._left = 0
            self._loop.forget(self._socket)
            self._socket.close()

    def _receive(self) -> None:
        """Pass on what has come."""
        for _ in range(_READ):
            try:
                data = self._socket.recv(_LARGEST)
            except BlockingIOError:
                return
            except OSError:
                self._tell()
                return
            asker = self._waiting.get(data[:2])
            if asker is None:
                self._server.strays += 1
            else:
                asker.received(self._server, data)
                if not self._waiting:
                    return

    def _tell(self) -> None:
        """Tell all who wait that the server is not there."""
        self._left = 0
        for number, asker in list(self._waiting.items()):
            if number in self._waiting:  # one that was told before may have made others go
                asker.unreachable(self._server)


class _TcpStream:
    """One question over TCP (RFC 1035, 4.2.2)."""

    def __init__(
        self, server: NameServer, events: loop.Loop, connecting: socket.socket, asker: Asker, number: bytes
    ) -> None:
        self._server = server
        self._loop = events
        self._socket = connecting
        self._asker = asker
        self._number = number
        self._data = bytearray()
        events.watch(connecting, self._send, writing=True)

    def close(self) -> None:
        """End the connection, if it has not ended."""
        if self._socket.fileno() >= 0:
            self._loop.forget(self._socket)
            self._socket.close()

    def _send(self) -> None:
        message = dns_message.message(self._number, self._asker.section)
        try:
            self._socket.send(struct.pack("!H", len(message)) + message)  # a new connection has room for it
        except BlockingIOError:
            return
        except OSError:
            self.close()
            self._asker.unreachable(self._server)
            return
        self._loop.forget(self._socket)
        self._loop.watch(self._socket, self._receive)

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_LARGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._data += data
        end = 2 + int.from_bytes(self._data[:2], "big") if len(self._data) >= 2 else _LARGEST
        if not data or len(self._data) >= end:
            self.close()
            message = bytes(self._data[2:end])
            self._asker.streamed(self._server, message if data and message[:2] == self._number else b"")


def _socket_address(server: values.ServerAddress) -> tuple[int, tuple[str, int] | tuple[str, int, int, int]]:
    address, _, interface = server.address.partition("%")
    if ":" not in address:
        return socket.AF_INET, (address, server.port)
    return socket.AF_INET6, (address, server.port, 0, _interface(interface))


def _interface(name: str) -> int:
    """The number of a network interface; 0, with which nothing link-local is reached, where there is none."""
    if name.isdecimal():
        return int(name)
    try:
        return socket.if_nametoindex(name) if name else 0
    except OSError:
        return 0
