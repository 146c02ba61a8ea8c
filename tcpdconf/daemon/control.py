"""control.sock: the daemon's side. Commands come in and are answered, each as JSON in one line.

It is part of the supervisor's loop and never waits: requests, answers, clients and their time are bounded,
and only root and the daemon's own user are heard. What the commands do is the supervisor's business.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from tcpdconf.daemon import channel, log, loop, runtimedir

REQUEST: Final = 64 * 1024  # bytes
ANSWER: Final = 4 * 1024 * 1024
CLIENTS: Final = 16
SECONDS: Final = 10.0  # for a request to come, and for an answer to be read
_FDS: Final = 250  # descriptors with one byte; the kernel takes 253 (unix(7))
_BREATHER: Final = 1.0  # seconds without accepting, when descriptors have run out
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid (unix(7), SO_PEERCRED)


class Reply(Protocol):
    """Answers a request, at once or later, once. Descriptors are duplicated. `pid` is the client's."""

    @property
    def pid(self) -> int:
        """The process that connected."""

    def __call__(self, answer: Mapping[str, object], fds: Sequence[int] = ()) -> None:
        """Answer it."""

    def keep(self, gone: Callable[[], None]) -> None:
        """Let the client take its time for the next request; call `gone` when it has hung up."""


Command = Callable[[dict[str, Any], Reply], None]


class RunningError(Exception):
    """A daemon has this runtime directory already; the text says which."""


class Credentials(NamedTuple):
    """Who is at the other end of a socket."""

    pid: int
    uid: int
    gid: int


def credentials(end: socket.socket) -> Credentials:
    """Who connected, or for who connected: who listens."""
    data = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return Credentials(*_CREDENTIALS.unpack(data))


class Control:
    """The socket and its clients; `commands` are called with the request.

    With `replace` it takes the place of a daemon that still runs.

    Raises:
        RunningError: a daemon answers there.
        OSError: the socket cannot be made.
    """

    def __init__(
        self, events: loop.Loop, directory: str, commands: Mapping[str, Command], *, replace: bool = False
    ) -> None:
        self._loop = events
        self._commands = commands
        self._clients: set[_Client] = set()
        self._directory = runtimedir.open_(directory)
        try:
            self._listener = _listen(self._directory, directory, replace)
        except BaseException:
            os.close(self._directory)
            raise
        self._inode = os.stat(runtimedir.SOCKET, dir_fd=self._directory).st_ino
        self._accepting = True
        events.watch(self._listener, self._accept)

    def close(self) -> None:
        """Accept no more, and remove the socket unless another daemon has replaced it.

        Clients that are connected stay: who waits for the end of the daemon sees it.
        """
        if self._accepting:
            self._loop.forget(self._listener)
        self._accepting = False
        self._listener.close()
        with contextlib.suppress(OSError):
            if os.stat(runtimedir.SOCKET, dir_fd=self._directory).st_ino == self._inode:
                os.unlink(runtimedir.SOCKET, dir_fd=self._directory)
        os.close(self._directory)

    def _accept(self) -> None:
        try:
            end, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError:
            self._loop.forget(self._listener)
            self._accepting = False
            self._loop.after(_BREATHER, self._accept_again)
            return
        client = _Client(self._loop, end, self._commands, self._clients.discard)
        if credentials(end).uid not in {0, os.geteuid()}:
            client.refuse("only root and the user of the daemon are answered")
        elif len(self._clients) >= CLIENTS:
            client.refuse("too many clients")
        else:
            self._clients.add(client)
            client.read_on()

    def _accept_again(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.watch(self._listener, self._accept)
            self._accepting = True


class _Client:
    """One client: it is read from, or waits for its answer, or is written to."""

    def __init__(
        self,
        events: loop.Loop,
        end: socket.socket,
        commands: Mapping[str, Command],
        ended: Callable[["_Client"], None],
    ) -> None:
        end.setblocking(False)
        self._loop = events
        self._end = end
        self._commands = commands
        self._ended = ended
        self._in = b""
        self._out = memoryview(b"")
        self._fds: list[int] = []
        self._watched = False
        self._waiting = False  # for the answer of a command
        self._last = False  # nothing is read after this answer
        self._gone: Callable[[], None] | None = None  # of a client that has no time limit
        self._timer: int | None = None

    @property
    def pid(self) -> int:
        """The process that connected."""
        return credentials(self._end).pid

    def __call__(self, answer: Mapping[str, object], fds: Sequence[int] = ()) -> None:
        """Answer the request that it waits for."""
        self._answer(answer, fds)

    def keep(self, gone: Callable[[], None]) -> None:
        """Let it take its time for the next request; call `gone` when it has hung up."""
        self._gone = gone

    def read_on(self) -> None:
        """Wait for a request, or take the one that has come already."""
        if b"\n" in self._in:
            self._loop.after(0, self._request)
        else:
            self._watch(self._read)

    def refuse(self, why: str) -> None:
        """Answer with an error, and end it."""
        self._forget()
        self._last = True
        self._waiting = True
        self._answer({"ok": False, "error": why})

    def _read(self) -> None:
        try:
            data = self._end.recv(REQUEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close()
            return
        self._in += data
        if b"\n" in self._in:
            self._request()
        elif len(self._in) > REQUEST:
            self.refuse(f"a request has at most {REQUEST} bytes")

    def _request(self) -> None:
        """Obey the next request; nothing is read from this client until it is answered."""
        self._forget()
        line, _, self._in = self._in.partition(b"\n")
        self._waiting = True
        try:
            request = json.loads(line)
            command = self._commands[request["command"]]
        except (ValueError, RecursionError):
            self.refuse("a request is JSON in one line")
        except (KeyError, TypeError):
            known = ", ".join(self._commands)
            self._answer({"ok": False, "error": f'a request is an object with a "command": {known}'})
        else:
            self._obey(command, request)

    def _obey(self, command: Command, request: dict[str, Any]) -> None:
        try:
            command(request, self)
        except Exception:  # noqa: BLE001 (a defect costs this answer, not the daemon)
            log.crash("cannot answer")
            self._answer({"ok": False, "error": "a defect of tcpdconf; see the log"})

    def _answer(self, answer: Mapping[str, object], fds: Sequence[int] = ()) -> None:
        if not self._waiting:
            return
        self._waiting = False
        data = json.dumps(answer).encode() + b"\n"
        if len(data) > ANSWER:
            data = json.dumps({"ok": False, "error": f"an answer of {len(data)} bytes"}).encode() + b"\n"
        self._out = memoryview(data)
        self._fds = [os.dup(fd) for fd in fds]
        self._write()

    def _write(self) -> None:
        try:
            while self._out:
                self._out = self._out[self._send() :]
        except BlockingIOError:
            if not self._watched:
                self._watch(self._write, writing=True)
            return
        except OSError:
            self._close()
            return
        self._forget()
        if self._last:
            self._close()
        else:
            self.read_on()

    def _send(self) -> int:
        """Send what goes; the descriptors go with the first bytes."""
        if not self._fds:
            return self._end.send(self._out)
        sent = socket.send_fds(self._end, [self._out[:1]], self._fds[:_FDS])
        channel.close_all(self._fds[:_FDS])
        del self._fds[:_FDS]
        return sent

    def _watch(self, callback: Callable[[], None], *, writing: bool = False) -> None:
        if not self._watched:
            self._watched = True
            self._loop.watch(self._end, callback, writing=writing)
            if writing or self._gone is None:
                self._timer = self._loop.after(SECONDS, self._close)

    def _forget(self) -> None:
        if self._watched:
            self._watched = False
            self._loop.forget(self._end)
        if self._timer is not None:
            self._loop.cancel(self._timer)
            self._timer = None

    def _close(self) -> None:
        self._forget()
        self._waiting = False
        channel.close_all(self._fds)
        self._fds = []
        self._end.close()
        self._ended(self)
        if self._gone is not None:
            self._gone()


def _listen(directory: int, path: str, replace: bool) -> socket.socket:
    """The listening socket, in place: whoever sees it gets an answer."""
    fcntl.flock(directory, fcntl.LOCK_EX)  # of two that start at once, one is the second
    try:
        if not replace:
            _require_free(directory, path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        new = f".{runtimedir.SOCKET}.{os.getpid()}"
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new, dir_fd=directory)
            listener.bind(runtimedir.address(directory, new))
            os.chmod(new, 0o600, dir_fd=directory)
            listener.listen(CLIENTS)
            os.rename(new, runtimedir.SOCKET, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            listener.close()
            raise
        return listener
    finally:
        fcntl.flock(directory, fcntl.LOCK_UN)


def _require_free(directory: int, path: str) -> None:
    """See to it that nobody answers on a socket that is there already.

    Raises:
        RunningError: somebody does.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(runtimedir.address(directory))
            pid = f"pid {credentials(probe).pid}"
        except BlockingIOError:  # its queue is full
            pid = "a daemon"
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ECONNREFUSED, errno.ENOTSOCK}:
                return
            raise
    raise RunningError(f"{pid} runs with {path}/{runtimedir.SOCKET} already; see --runtime-dir")
