"""Exchanges messages with one name server, over UDP from changing ports and over TCP.

It matches messages by id; the asker reads them and decides when to give up. All sockets are connected: the
kernel then drops datagrams from other hosts and reports an unreachable server.
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

# Questions from one source port. Questions asked together share it, which halves the cost of each. To forge
# an answer, an attacker must still guess the one port and the one id that are right for its question.
PER_PORT: Final = 16
_MISSES: Final = 3  # questions in a row without an answer that make a server silent
_PAUSE: Final = 30.0  # seconds after which a silent server is tried again
_LARGEST: Final = 65535  # octets of a message
_READ: Final = 64  # messages read before other events get their turn
# These lose the message here, as on the network; all others mean that the server cannot be reached.
_LOST: Final = frozenset({errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_KIND: Final = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC

Drop = Callable[[], None]  # gives up one question that was sent; must be called once, even after an answer


class Asker(Protocol):
    """Receives the messages about one question until it drops what it sent."""

    @property
    def section(self) -> bytes:
        """Return the question section."""

    def received(self, server: "NameServer", data: bytes) -> None:
        """Take a message with the question's id that arrived over UDP; more may follow."""

    def streamed(self, server: "NameServer", data: bytes) -> None:
        """Take a message that arrived over TCP, or b"" if none will."""

    def unreachable(self, server: "NameServer") -> None:
        """Take note that the server cannot be reached."""


class NameServer:
    """Sends questions to one name server and passes on its messages.

    `token` returns two octets that nobody can guess. `strays` counts messages that match no question.
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
        """True while other servers should be asked first."""
        return self._misses >= _MISSES

    def heard(self) -> None:
        """Record that the server has answered."""
        self._misses = 0
        self._pace.answered()

    def missed(self, now: float) -> None:
        """Record that the server has not answered in time."""
        self._misses += 1
        self._retry_at = now + _PAUSE

    def due(self, now: float) -> bool:
        """Return whether to ask a silent server again; True once, then False for a while."""
        if not self.silent or now < self._retry_at:
            return False
        self._retry_at = now + _PAUSE
        return True

    def ask(self, asker: Asker) -> Drop | None:
        """Send a question over UDP; return None if it was lost before it left this host.

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
        """Send a question over TCP; results and errors are as for `ask`."""
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
    """Sends questions from one source port, which the kernel chooses at random.

    It is closed when no question from it is waiting.
    """

    def __init__(self, server: NameServer, events: loop.Loop, connected: socket.socket) -> None:
        self._server = server
        self._loop = events
        self._socket = connected
        self._waiting: dict[bytes, Asker] = {}
        self._left = PER_PORT
        events.watch(connected, self._receive)

    @property
    def used_up(self) -> bool:
        """True when the next question needs another port."""
        return not self._left

    def add(self, asker: Asker, token: Callable[[], bytes]) -> bytes:
        """Expect answers to a question; return its id."""
        number = token()
        while number in self._waiting:
            number = token()
        self._waiting[number] = asker
        self._left -= 1
        return number

    def send(self, number: bytes) -> None:
        """Send a question that was added, unless it was dropped meanwhile."""
        asker = self._waiting.get(number)
        if asker is None:
            return
        try:
            self._socket.send(dns_message.message(number, asker.section))
        except OSError as error:
            if error.errno not in _LOST:  # the error may belong to an earlier question
                self._left = 0
                self._loop.after(0, self._tell_unreachable)

    def drop(self, number: bytes) -> None:
        """Expect no more answers to a question."""
        del self._waiting[number]
        if not self._waiting:
            self._left = 0
            self._loop.forget(self._socket)
            self._socket.close()

    def _receive(self) -> None:
        """Pass received messages on to their askers."""
        for _ in range(_READ):
            try:
                data = self._socket.recv(_LARGEST)
            except BlockingIOError:
                return
            except OSError:
                self._tell_unreachable()
                return
            asker = self._waiting.get(data[:2])
            if asker is None:
                self._server.strays += 1
            else:
                asker.received(self._server, data)
                if not self._waiting:
                    return

    def _tell_unreachable(self) -> None:
        """Tell all waiting askers that the server cannot be reached."""
        self._left = 0
        for number, asker in list(self._waiting.items()):
            if number in self._waiting:  # an asker told before may have dropped others
                asker.unreachable(self._server)


class _TcpStream:
    """Asks one question over TCP (RFC 1035, 4.2.2)."""

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
        """Close the connection, if it is open."""
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
    """Return the index of a network interface; 0, which reaches no link-local address, if there is none."""
    if name.isdecimal():
        return int(name)
    try:
        return socket.if_nametoindex(name) if name else 0
    except OSError:
        return 0
