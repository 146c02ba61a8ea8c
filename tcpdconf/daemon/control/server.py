"""Serves the daemon's sockets for commands: requests and answers, each as JSON in one line.

It runs in the supervisor's loop and never waits. Requests, answers, clients and their time are bounded. Each
request is logged with its caller. The supervisor implements the commands.
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
from tcpdconf.daemon.process import channel, log, loop, privileges, throttle

REQUEST: Final = 64 * 1024  # bytes
ANSWER: Final = 4 * 1024 * 1024
CLIENTS: Final = 16
SECONDS: Final = 10.0  # for a request to arrive, and for an answer to be read
_FDS: Final = 250  # descriptors with one byte; the kernel accepts 253 (unix(7))
_DEFECT: Final = "a defect of tcpdconf: see the log"
_BREATHER: Final = 1.0  # seconds without accepting after descriptors have run out
_READS: Final = frozenset({"status", "connections", "compare", "bans"})  # they change nothing
_NAME: Final = 40  # most characters of an unknown command's name in the log


class Reply(Protocol):
    """Answers one request, once, at once or later. Descriptors are duplicated.

    It never raises: an answer that cannot be made becomes an error, and a client may have gone.
    """

    @property
    def pid(self) -> int:
        """Return the pid of the process that connected; it must not have hung up."""

    @property
    def uid(self) -> int:
        """Return the user of that process."""

    def __call__(self, answer: Mapping[str, object], fds: Sequence[int] = ()) -> None:
        """Send the answer, with these descriptors."""

    def keep(self, gone: Callable[[], None]) -> None:
        """Remove the time limit for the client's next request; call `gone` when it has hung up."""


Command = Callable[[dict[str, Any], Reply], None]


class RunningError(Exception):
    """Reports that a daemon uses this runtime directory already; the text says which."""


class UnknownCommandError(LookupError):
    """Reports a command that a socket does not take; the text names those that it takes."""


def answer(reply: Reply, make: Callable[[], Mapping[str, object]]) -> None:
    """Answer with the result of `make`; if it raises, log a defect and answer with an error."""
    try:
        made = make()
    except Exception:  # noqa: BLE001 (a defect costs this answer only)
        log.crash("cannot answer")
        made = _error(_DEFECT)
    reply(made)


class Control:
    """Serves one socket and its clients; calls one of `commands` with each request.

    The socket has mode 0600 and serves only root and the daemon's own user. With a `group` (a number) it
    belongs to that group, has mode 0660, and serves everyone whom this mode lets in. With `replace` it
    replaces a socket at which a daemon still listens.

    Raises:
        RunningError: a daemon listens there already.
        OSError: the socket cannot be made.
    """

    def __init__(
        self,
        events: loop.Loop,
        directory: str,
        commands: Mapping[str, Command],
        *,
        name: str = runtimedir.SOCKET,
        group: int | None = None,
        replace: bool = False,
    ) -> None:
        self._loop = events
        self._commands = commands
        self._name = name
        self._group = group
        self._clients: set[_Client] = set()
        self._throttle = throttle.Throttle(events.after, self._log_suppressed)
        self._directory = runtimedir.open_(directory)
        try:
            self._listener = _listen(self._directory, directory, name, group, replace=replace)
        except BaseException:
            os.close(self._directory)
            raise
        self._inode = os.stat(name, dir_fd=self._directory).st_ino
        self._accepting = True
        events.watch(self._listener, self._accept)

    @property
    def reachable(self) -> bool:
        """True if the directory's mode lets the socket's group through."""
        found = os.fstat(self._directory)
        return bool(found.st_mode & (0o010 if found.st_gid == self._group else 0o001))

    def close(self, *, dismiss: bool = False) -> None:
        """Stop accepting, and remove the socket unless another one has replaced it.

        Connected clients stay: one that waits for the daemon's exit sees it. With `dismiss`, each is closed
        once it has the answer that it waits for.
        """
        if self._accepting:
            self._loop.forget(self._listener)
        self._accepting = False
        with contextlib.suppress(OSError):
            # while the listener is open no other socket can get its inode
            if os.stat(self._name, dir_fd=self._directory).st_ino == self._inode:
                os.unlink(self._name, dir_fd=self._directory)
        self._listener.close()
        os.close(self._directory)
        for client in list(self._clients) if dismiss else ():
            client.dismiss()

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
        client = _Client(self._loop, end, self._find, self._clients.discard)
        try:
            if self._group is None and credentials.of(end).uid not in {0, os.geteuid()}:
                client.refuse("permission denied: commands are for root and the daemon's user")
            elif len(self._clients) >= CLIENTS:
                client.refuse("too many clients")
            else:
                self._clients.add(client)
                client.read_on()
        except Exception:
            client.close()
            raise

    def _find(self, name: object, end: socket.socket) -> Command:
        """Return the command that a client asks for, and log the request with its caller.

        Raises:
            UnknownCommandError: this socket takes no such command.
        """
        who = credentials.of(end)
        fields = {"socket": self._name, "uid": who.uid, "pid": who.pid}
        if isinstance(name, str) and name in self._commands:
            log.write("debug" if name in _READS else "info", "command", name=name, **fields)
            return self._commands[name]
        held_back = self._throttle.pass_("refused", loop.now())
        if held_back is not None:
            unlogged = {"unlogged": held_back} if held_back else {}
            shown = name[:_NAME] if isinstance(name, str) else ""
            log.write("notice", "command refused", name=shown, **fields, **unlogged)
        raise UnknownCommandError(", ".join(self._commands))

    def _log_suppressed(self, _: str, count: int) -> None:
        log.write("notice", "suppressed", socket=self._name, line="command refused", unlogged=count)

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
        find: Callable[[object, socket.socket], Command],
        ended: Callable[["_Client"], None],
    ) -> None:
        end.setblocking(False)
        self._loop = events
        self._end = end
        self._find = find
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

    @property
    def uid(self) -> int:
        """Return the user of that process."""
        return credentials.of(self._end).uid

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

    def dismiss(self) -> None:
        """Close the connection, once the client has the answer that it waits for."""
        self._last = True
        if not self._waiting and not self._out:
            self.close()

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
            self.refuse(f"the request is too long: at most {REQUEST} bytes")

    def _request(self) -> None:
        """Run the next request's command; nothing is read from this client until it is answered."""
        self._forget()
        line, _, self._in = self._in.partition(b"\n")
        self._waiting = True
        try:
            request = json.loads(line)
            name = request.get("command") if isinstance(request, dict) else None
            command = self._find(name, self._end)
        except (ValueError, RecursionError):
            self.refuse("the request must be one line of JSON")
        except UnknownCommandError as error:
            self._answer(_error(f'the request must be an object with one of these as "command": {error}'))
        else:
            self._run_command(command, request)

    def _run_command(self, command: Command, request: dict[str, Any]) -> None:
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


def _listen(directory: int, path: str, name: str, group: int | None, *, replace: bool) -> socket.socket:
    """Return the listening socket, which is moved into place only once it listens."""
    fcntl.flock(directory, fcntl.LOCK_EX)  # puts two daemons that start at once in order
    try:
        if not replace:
            _require_free(directory, path, name)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        new = f".{name}.{os.getpid()}"
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new, dir_fd=directory)
            # chmod(2) would look the name up again, which may be a link by then
            mask = os.umask(0o177 if group is None else 0o117)
            try:
                listener.bind(runtimedir.address(directory, new))
            finally:
                os.umask(mask)
            if group is not None:
                with privileges.in_group(group):
                    os.chown(new, -1, group, dir_fd=directory, follow_symlinks=False)
            listener.listen(CLIENTS)
            os.rename(new, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            listener.close()
            with contextlib.suppress(OSError):
                os.unlink(new, dir_fd=directory)
            raise
        return listener
    finally:
        fcntl.flock(directory, fcntl.LOCK_UN)


def _require_free(directory: int, path: str, name: str) -> None:
    """Check that no daemon listens on a socket that exists already.

    Raises:
        RunningError: one does.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(runtimedir.address(directory, name))
            pid = f"pid {credentials.of(probe).pid}"
        except BlockingIOError:  # its queue is full
            pid = "a daemon"
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ECONNREFUSED, errno.ENOTSOCK}:
                return
            raise
    raise RunningError(f"{pid} already uses {path}/{name}: name another --runtime-dir")
