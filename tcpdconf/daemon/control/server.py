"""Serves control.sock for the daemon: commands and answers, each as JSON in one line.

It runs in the supervisor's loop and never waits. Requests, answers, clients and their time are bounded. Only
root and the daemon's own user are served. The supervisor implements the commands.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from tcpdconf.daemon.control import credentials, runtimedir
from tcpdconf.daemon.process import channel, log, loop

REQUEST: Final = 64 * 1024  # bytes
ANSWER: Final = 4 * 1024 * 1024
CLIENTS: Final = 16
SECONDS: Final = 10.0  # for a request to arrive, and for an answer to be read
_FDS: Final = 250  # descriptors with one byte; the kernel accepts 253 (unix(7))
_DEFECT: Final = "a defect of tcpdconf; see the log"
_BREATHER: Final = 1.0  # seconds without accepting after descriptors have run out


class Reply(Protocol):
    """Answers one request, once, at once or later. Descriptors are duplicated.

    It never raises: an answer that cannot be made becomes an error, and a client may have gone.
    """

    @property
    def pid(self) -> int:
        """Return the pid of the process that connected; it must not have hung up."""

    def __call__(self, answer: Mapping[str, object], fds: Sequence[int] = ()) -> None:
        """Send the answer, with these descriptors."""

    def keep(self, gone: Callable[[], None]) -> None:
        """Remove the time limit for the client's next request; call `gone` when it has hung up."""


Command = Callable[[dict[str, Any], Reply], None]


class RunningError(Exception):
    """Reports that a daemon uses this runtime directory already; the text says which."""


def answer(reply: Reply, make: Callable[[], Mapping[str, object]]) -> None:
    """Answer with the result of `make`; if it raises, log a defect and answer with an error."""
    try:
        made = make()
    except Exception:  # noqa: BLE001 (a defect costs this answer only)
        log.crash("cannot answer")
        made = _error(_DEFECT)
    reply(made)


class Control:
    """Serves the socket and its clients; calls one of `commands` with each request.

    With `replace` it replaces the socket of a daemon that still runs.

    Raises:
        RunningError: a daemon listens there already.
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
        """Stop accepting, and remove the socket unless another daemon has replaced it.

        Connected clients stay: one that waits for the daemon's exit sees it.
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
        try:
            if credentials.of(end).uid not in {0, os.geteuid()}:
                client.refuse("only root and the user of the daemon are answered")
            elif len(self._clients) >= CLIENTS:
                client.refuse("too many clients")
            else:
                self._clients.add(client)
                client.read_on()
        except Exception:
            client.close()
            raise

    def _accept_again(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.watch(self._listener, self._accept)
            self._accepting = True


class _Client:
    """Serves one client: reads a request, waits for its answer, or writes it.

    In each state the client's hang-up is noticed, and its descriptors and its place become free.
    """

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
        self._waiting = False  # True while a command has yet to answer
        self._last = False  # True if nothing is read after this answer
        self._gone: Callable[[], None] | None = None  # set for a client without time limit
        self._timer: int | None = None

    @property
    def pid(self) -> int:
        """Return the pid of the process that connected."""
        return credentials.of(self._end).pid

    def __call__(self, answer: Mapping[str, object], fds: Sequence[int] = ()) -> None:
        """Send the answer to the client's request."""
        self._answer(answer, fds)

    def keep(self, gone: Callable[[], None]) -> None:
        """Remove the time limit for the next request; call `gone` when the client has hung up."""
        self._gone = gone

    def close(self) -> None:
        """Close the connection and release all that belongs to it."""
        self._forget()
        self._waiting = False
        self._drop_descriptors()
        self._end.close()
        self._ended(self)
        if self._gone is not None:
            self._gone()

    def read_on(self) -> None:
        """Wait for a request, or handle one that has arrived already."""
        if b"\n" in self._in:
            self._loop.after(0, self._request)
        elif not self._watched:
            self._watch(
                lambda: self._loop.watch(self._end, self._read),
                seconds=SECONDS if self._gone is None else None,
            )

    def refuse(self, why: str) -> None:
        """Answer with an error, and close the connection."""
        self._forget()
        self._last = True
        self._waiting = True
        self._answer(_error(why))

    def _read(self) -> None:
        try:
            data = self._end.recv(REQUEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._in += data
        if b"\n" in self._in:
            self._request()
        elif len(self._in) > REQUEST:
            self.refuse(f"a request has at most {REQUEST} bytes")

    def _request(self) -> None:
        """Run the next request's command; nothing is read from this client until it is answered."""
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
            self._answer(_error(f'a request is an object with a "command": {known}'))
        else:
            self._obey(command, request)

    def _obey(self, command: Command, request: dict[str, Any]) -> None:
        try:
            command(request, self)
        except Exception:  # noqa: BLE001 (a defect costs this answer, not the daemon)
            log.crash("cannot answer")
            self._answer(_error(_DEFECT))
        if self._waiting:
            self._watch(lambda: self._loop.watch_end(self._end, self.close))

    def _answer(self, answer: Mapping[str, object], fds: Sequence[int] = ()) -> None:
        if not self._waiting:
            return
        self._forget()
        self._waiting = False
        self._out = memoryview(_line(answer))
        try:
            self._duplicate(fds)
        except OSError as error:
            self._out = memoryview(
                _line(_error(f"cannot hand over {len(fds)} descriptors: {error.strerror}"))
            )
        self._write()

    def _duplicate(self, fds: Sequence[int]) -> None:
        """Duplicate descriptors until they are sent: all of them, or none."""
        try:
            for fd in fds:
                self._fds.append(os.dup(fd))
        except OSError:
            self._drop_descriptors()
            raise

    def _write(self) -> None:
        try:
            while self._out:
                self._out = self._out[self._send() :]
        except BlockingIOError:
            if not self._watched:
                self._watch(lambda: self._loop.watch(self._end, self._write, writing=True), seconds=SECONDS)
            return
        except OSError:
            self.close()
            return
        self._forget()
        if self._last:
            self.close()
        else:
            self.read_on()

    def _send(self) -> int:
        """Send as much as possible; the descriptors go with the first bytes."""
        if not self._fds:
            return self._end.send(self._out)
        sent = socket.send_fds(self._end, [self._out[:1]], self._fds[:_FDS])
        channel.close_all(self._fds[:_FDS])
        del self._fds[:_FDS]
        return sent

    def _watch(self, begin: Callable[[], None], *, seconds: float | None = None) -> None:
        """Watch the socket; close it if the kernel cannot, or after `seconds`."""
        try:
            begin()
        except OSError:
            self.close()
            return
        self._watched = True
        if seconds is not None:
            self._timer = self._loop.after(seconds, self.close)

    def _forget(self) -> None:
        if self._watched:
            self._watched = False
            self._loop.forget(self._end)
        if self._timer is not None:
            self._loop.cancel(self._timer)
            self._timer = None

    def _drop_descriptors(self) -> None:
        channel.close_all(self._fds)
        self._fds.clear()


def _error(why: str) -> dict[str, object]:
    return {"ok": False, "error": why}


def _line(answer: Mapping[str, object]) -> bytes:
    """Return an answer as one line, or an error in place of one that cannot be encoded or is too large."""
    try:
        data = json.dumps(answer).encode() + b"\n"
    except (TypeError, ValueError, RecursionError):
        log.crash("cannot answer")
        return _line(_error(_DEFECT))
    return data if len(data) <= ANSWER else _line(_error(f"an answer of {len(data)} bytes"))


def _listen(directory: int, path: str, replace: bool) -> socket.socket:
    """Return the listening socket, which is moved into place only once it listens."""
    fcntl.flock(directory, fcntl.LOCK_EX)  # puts two daemons that start at once in order
    try:
        if not replace:
            _require_free(directory, path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        new = f".{runtimedir.SOCKET}.{os.getpid()}"
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new, dir_fd=directory)
            mask = os.umask(0o177)  # chmod(2) would look the name up again, which may be a link by then
            try:
                listener.bind(runtimedir.address(directory, new))
            finally:
                os.umask(mask)
            listener.listen(CLIENTS)
            os.rename(new, runtimedir.SOCKET, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            listener.close()
            with contextlib.suppress(OSError):
                os.unlink(new, dir_fd=directory)
            raise
        return listener
    finally:
        fcntl.flock(directory, fcntl.LOCK_UN)


def _require_free(directory: int, path: str) -> None:
    """Check that no daemon listens on a socket that exists already.

    Raises:
        RunningError: one does.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(runtimedir.address(directory))
            pid = f"pid {credentials.of(probe).pid}"
        except BlockingIOError:  # its queue is full
            pid = "a daemon"
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ECONNREFUSED, errno.ENOTSOCK}:
                return
            raise
    raise RunningError(f"{pid} runs with {path}/{runtimedir.SOCKET} already; see --runtime-dir")
