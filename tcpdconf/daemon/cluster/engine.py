"""Speaks with the engine over one connection: TCP, TLS or a Unix socket, and the protocol RESP2.

hiredis parses the engine's answers. It bounds neither the length of an answer nor the number of its elements.
So this module bounds the bytes of an answer, and the process bounds its own memory.
"""

import collections
import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import hiredis

from tcpdconf.config import printable
from tcpdconf.config.model.values import EngineUrl
from tcpdconf.daemon.process import background_thread, log, loop

_PART: Final = 65536
_LONGEST: Final = 16 * 1024 * 1024  # most bytes of one answer
_AGAIN: Final = 1.0  # seconds after which a broken subscription is made again
_PATIENCE: Final = 5.0  # seconds in which a subscription must be made, and a PING on it answered
_SHOWN: Final = 100  # characters of an engine's error that are logged

Reply = Callable[[object], object]

_EXPLAINED: Final = {
    "WRONGPASS": "the engine refuses username and password",
    "NOAUTH": "the engine wants a password: set password_file",
    "NOPERM": "the engine does not permit this user what tcpdconf needs",
    "LOADING": "the engine is loading its data",
    "READONLY": "the engine is a replica that takes no writes",
    "MOVED": "the engine is part of a Redis Cluster, which is not supported",
    "ASK": "the engine is part of a Redis Cluster, which is not supported",
    "CROSSSLOT": "the engine is part of a Redis Cluster, which is not supported",
    "CLUSTERDOWN": "the engine is part of a Redis Cluster, which is not supported",
    "OOM": "the engine is out of memory",
    "MISCONF": "the engine cannot save its data and takes no writes",
    "MASTERDOWN": "the engine is a replica that has lost its master",
    "BUSY": "the engine runs a script of somebody else",
}

# errors about commands and keys that a script may not use: of Redis 7.0, and from Redis 7.2 on
_OF_A_SCRIPT: Final = ("can't run this command", "can't access at least one of the keys", "ACL failure")


class Access(NamedTuple):
    """Holds the address of the engine and the credentials for it."""

    url: EngineUrl
    username: str | None
    password: str | None
    tls: ssl.SSLContext | None


class Engine:
    """Implements one connection. `opened` is called once it is logged in.

    `closed` is called once, with the reason, unless the owner has called `close`. `told` is called with each
    message that the engine pushes to a subscriber.
    """

    def __init__(
        self,
        events: loop.Loop,
        access: Access,
        opened: Callable[[], None],
        closed: Callable[[str], None],
        told: Reply | None = None,
    ) -> None:
        self._loop = events
        self._access = access
        self._opened = opened
        self._closed = closed
        self._told = told
        self._reader = hiredis.Reader()
        self._unread = 0  # bytes of an incomplete answer
        self._awaiting: collections.deque[Reply] = collections.deque()
        self._socket: socket.socket | None = None
        self._writer: socket.socket | None = None  # watched while `_out` waits
        self._connected = False
        self._out = bytearray()
        self._tls: ssl.SSLObject | None = None
        self._in_bio, self._out_bio = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._secure = False  # True once the handshake of TLS is complete
        self._over = False
        self._found: list[tuple[int, tuple[Any, ...]]] | str = "no address"
        host = access.url.host
        if host is None:
            events.soon(lambda: self._connect(socket.AF_UNIX, access.url.path or ""))
        elif ":" in host:
            events.soon(lambda: self._connect(socket.AF_INET6, (host, access.url.port)))
        elif host.replace(".", "").isdigit():
            events.soon(lambda: self._connect(socket.AF_INET, (host, access.url.port)))
        else:
            try:
                background_thread.run(events, self._resolve, self._resolved)
            except (OSError, RuntimeError) as error:
                self._fail(f"cannot look up {host}: {error}")

    def send(self, *command: str | int | bytes, then: Reply) -> None:
        """Send a command; `then` is called with the answer, which may be a `hiredis.ReplyError`."""
        self._awaiting.append(then)
        self._write(hiredis.pack_command(command))  # type: ignore[arg-type]

    def close(self) -> None:
        """Close the connection; no callback is called afterwards."""
        if self._over:
            return
        self._over = True
        self._awaiting.clear()
        for each in (self._writer, self._socket):
            if each is not None:
                with contextlib.suppress(KeyError):
                    self._loop.forget(each)
                each.close()

    def _fail(self, why: str) -> None:
        if not self._over:
            self.close()
            self._closed(why)

    def _resolve(self) -> None:
        """Look the host up, in a thread."""
        url = self._access.url
        try:
            self._found = [
                (family, address)
                for family, _, _, _, address in socket.getaddrinfo(
                    url.host, url.port, type=socket.SOCK_STREAM
                )
            ]
        except OSError as error:
            self._found = error.strerror or str(error)

    def _resolved(self) -> None:
        if isinstance(self._found, str) or not self._found:
            self._fail(f"cannot look up {self._access.url.host}: {self._found}")
        elif not self._over:
            # if the resolver rotates its answers, an address that fails is last the next time
            self._connect(*self._found[0])

    def _connect(self, family: int, address: str | tuple[Any, ...]) -> None:
        if self._over:
            return
        try:
            self._socket = sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            sock.setblocking(False)
            if family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._writer = sock.dup()
        except OSError as error:
            self._fail(str(error.strerror))
            return
        try:
            sock.connect(address)
        except BlockingIOError:
            if family == socket.AF_UNIX:  # the backlog is full, and no event reports free room
                self._fail("the engine takes no connection")
                return
        except OSError as error:
            self._fail(f"cannot connect: {error.strerror}")
            return
        self._loop.watch(self._writer, self._writable, writing=True)

    def _writable(self) -> None:
        assert self._socket is not None  # noqa: S101 (for the type)
        assert self._writer is not None  # noqa: S101
        if self._connected:
            self._flush()
            return
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._fail(f"cannot connect: {os.strerror(error)}")
            return
        self._connected = True
        self._loop.forget(self._writer)
        self._loop.watch(self._socket, self._readable)
        if self._access.tls is not None:
            url = self._access.url
            self._tls = self._access.tls.wrap_bio(self._in_bio, self._out_bio, server_hostname=url.host)
            self._shake_hands()
        else:
            self._log_in()

    def _shake_hands(self) -> bool:
        """Continue the TLS handshake; return whether it is complete."""
        assert self._tls is not None  # noqa: S101 (for the type)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._push(self._out_bio.read())
            return False
        except ssl.SSLCertVerificationError as error:
            self._fail(f"cannot verify the engine's certificate: {error.verify_message}")
            return False
        except ssl.SSLError as error:
            self._fail(f"no TLS with the engine: {error.reason or 'a protocol error'}")
            return False
        self._secure = True
        self._push(self._out_bio.read())
        self._log_in()
        return True

    def _log_in(self) -> None:
        user, password = self._access.username, self._access.password
        if password is not None:
            who = ("default" if user is None else user, password)
            self.send("AUTH", *who, then=self._logged_in)
        else:
            self.send("PING", then=self._logged_in)

    def _logged_in(self, reply: object) -> None:
        database = self._access.url.database
        if isinstance(reply, hiredis.ReplyError):
            self._fail(explained(reply))
        elif database:
            self.send("SELECT", database, then=self._selected)
        else:
            self._opened()

    def _selected(self, reply: object) -> None:
        if isinstance(reply, hiredis.ReplyError):
            self._fail(explained(reply))
        else:
            self._opened()

    def _write(self, data: bytes) -> None:
        if self._over:
            return
        if self._tls is None:
            self._push(data)
        else:
            self._tls.write(data)
            self._push(self._out_bio.read())

    def _push(self, data: bytes) -> None:
        if not data or self._over:
            return
        waits = bool(self._out)
        self._out += data
        if not waits:
            self._flush(first=True)

    def _flush(self, *, first: bool = False) -> None:
        assert self._socket is not None  # noqa: S101 (for the type)
        assert self._writer is not None  # noqa: S101
        try:
            sent = self._socket.send(self._out)
            del self._out[:sent]
        except BlockingIOError:
            pass
        except OSError as error:
            self._fail(f"the connection broke: {error.strerror}")
            return
        if first and self._out:
            self._loop.watch(self._writer, self._writable, writing=True)
        elif not first and not self._out:
            self._loop.forget(self._writer)

    def _readable(self) -> None:
        assert self._socket is not None  # noqa: S101 (for the type)
        try:
            data = self._socket.recv(_PART)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(f"the connection broke: {error.strerror}")
            return
        if not data:
            self._fail("the engine closed the connection")
            return
        try:
            if self._tls is None:
                self._feed(data)
                return
            self._in_bio.write(data)
            if not (self._secure or self._shake_hands()):
                return
            with contextlib.suppress(ssl.SSLWantReadError):
                while plain := self._tls.read(_PART):
                    self._feed(plain)
                self._fail("the engine closed the connection")
            self._push(self._out_bio.read())
        except ssl.SSLError as error:
            self._fail(f"TLS with the engine broke: {error.reason or 'a protocol error'}")
        except (hiredis.HiredisError, MemoryError, RecursionError, ValueError):
            self._fail("the engine says something that is not the protocol of Redis")

    def _feed(self, data: bytes) -> None:
        """Parse received bytes, and handle the complete answers."""
        self._unread += len(data)
        self._reader.feed(data)
        while not self._over:
            reply = self._reader.gets()
            if reply is False:
                if self._unread > _LONGEST:
                    self._fail("the engine says too much")
                return
            self._unread = 0
            if self._told is not None and isinstance(reply, list) and reply[:1] == [b"message"]:
                self._told(reply)
            elif self._awaiting:
                self._awaiting.popleft()(reply)
            else:
                self._fail("the engine answers what nobody has asked")


class Subscription:
    """Keeps a connection on which the engine pushes messages; RESP2 requires a separate one.

    `subscribed` is called once for each name and connection: earlier messages may have been missed. `told` is
    called with each message. A connection that ends, or on which the engine does not answer, is replaced.
    """

    def __init__(
        self,
        events: loop.Loop,
        access: Access,
        names: Sequence[str],
        subscribed: Callable[[], None],
        told: Reply,
    ) -> None:
        self._loop = events
        self._access = access
        self._names = names
        self._subscribed = subscribed
        self._told = told
        self._connect()

    def close(self) -> None:
        """End the subscription; no callback is called afterwards."""
        self._loop.cancel(self._timer)
        self._engine.close()

    def _connect(self) -> None:
        self._answered = False  # since the last check
        self._timer = self._loop.after(_PATIENCE, self._check)
        self._engine = Engine(self._loop, self._access, self._opened, self._lost, self._told)

    def _lost(self, _: str) -> None:
        self._loop.cancel(self._timer)
        self._timer = self._loop.after(_AGAIN, self._connect)

    def _opened(self) -> None:
        self._answered = True
        for name in self._names:
            self._engine.send("SUBSCRIBE", name, then=self._ready)

    def _ready(self, reply: object) -> None:
        self._heard(reply)
        self._subscribed()

    def _heard(self, reply: object) -> None:
        """Note an answer. Without the right to subscribe there are no messages, and no other harm."""
        self._answered = True
        if isinstance(reply, hiredis.ReplyError):
            log.debug(f"cannot subscribe: {explained(reply)}")

    def _check(self) -> None:
        """Replace the connection if nothing was answered since the last check, or ask for an answer."""
        if not self._answered:
            self._engine.close()
            self._connect()
            return
        self._answered = False
        self._timer = self._loop.after(_PATIENCE, self._check)
        self._engine.send("PING", then=self._heard)


def explained(error: object) -> str:
    """Return an error of the engine as text for people."""
    text = printable.replaced(str(error)[:_SHOWN])
    word = "NOPERM" if any(each in text for each in _OF_A_SCRIPT) else text.partition(" ")[0]
    known = _EXPLAINED.get(word)
    return f"the engine answers: {text}" if known is None else known
