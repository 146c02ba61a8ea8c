"""Connects commands to a running daemon through control.sock, or some of them through guard.sock.

It imports little, so that commands start quickly.
"""

import contextlib
import errno
import json
import os
import select
import socket
import time
from types import TracebackType
from typing import Any, Final, Self

from tcpdconf.daemon.control import credentials, runtimedir

ANSWER: Final = 4 * 1024 * 1024  # bytes
_FDS: Final = 250
_PATIENCE: Final = 10.0  # seconds
_NOBODY: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ECONNREFUSED, errno.ENOTSOCK})


class ControlError(Exception):
    """Reports that there is no usable answer; the text says why."""


class ControlConnection:
    """Connects to the daemon with this runtime directory, for one or more requests.

    `pid` is the daemon's. `fds` are the descriptors that came with the answers; the caller closes them.
    """

    def __init__(self, directory: str | None, *, or_guard: bool = False) -> None:
        """Connect to the daemon; with `or_guard`, through guard.sock if this user may not use control.sock.

        Raises:
            ControlError: no daemon runs, or this user may not talk to it.
        """
        self.fds: list[int] = []
        if directory is None:
            raise ControlError("no daemon runs: neither --runtime-dir nor XDG_RUNTIME_DIR is set")
        self._end = socket.socket(socket.AF_UNIX)
        try:
            _connect(self._end, directory, or_guard=or_guard)
            self.pid = credentials.of(self._end).pid
            # opened before any request: a process that answers afterwards still has this pid
            self._process = _process(self.pid)
        except OSError as error:
            self._end.close()
            path = f"{directory}/{runtimedir.SOCKET}"
            if error.errno in _NOBODY:
                raise ControlError(f"no daemon runs: {path}: {error.strerror}") from error
            raise ControlError(f"cannot talk to the daemon: {path}: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.close()
        if isinstance(self._process, int):
            os.close(self._process)

    def ask(self, request: dict[str, Any], timeout: float = _PATIENCE) -> dict[str, Any]:
        """Send a request and return the answer, which must arrive within `timeout` seconds.

        Raises:
            ControlError: there is no answer, or it is an error; a rejected reload is no error.
        """
        try:
            self._end.settimeout(timeout)
            with contextlib.suppress(BrokenPipeError):  # the daemon may have said why before it hung up
                self._end.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise ControlError(
                f"the daemon (pid {self.pid}) closed the connection: {error.strerror}"
            ) from error
        answer = json.loads(self._line(time.monotonic() + timeout, timeout))
        if "error" in answer:
            raise ControlError(f"the daemon (pid {self.pid}) says: {answer['error']}")
        found: dict[str, Any] = answer
        return found

    def wait(self) -> None:
        """Return when the daemon has exited; it must have answered a request before.

        Raises:
            ControlError: this process cannot watch the daemon's exit.
        """
        if isinstance(self._process, OSError):
            raise ControlError(f"cannot wait for pid {self.pid}: {self._process.strerror}")
        select.select([self._process], [], [])

    def _line(self, end: float, timeout: float) -> bytes:
        found = b""
        while not found.endswith(b"\n"):
            left = end - time.monotonic()
            if left <= 0 or len(found) > ANSWER:
                raise ControlError(f"the daemon (pid {self.pid}) does not answer within {timeout:g} s")
            self._end.settimeout(left)
            with contextlib.suppress(TimeoutError):
                found += self._receive()
        return found

    def _receive(self) -> bytes:
        try:
            data, fds, _, _ = socket.recv_fds(self._end, 65536, _FDS)
        except TimeoutError:
            raise
        except OSError as error:
            raise ControlError(
                f"the daemon (pid {self.pid}) closed the connection: {error.strerror}"
            ) from error
        for fd in fds:
            os.set_inheritable(fd, False)  # recv_fds drops its flags, so MSG_CMSG_CLOEXEC cannot be used
        self.fds += fds
        if not data:
            raise ControlError(f"the daemon (pid {self.pid}) closed the connection")
        return data


def ask(
    directory: str | None, request: dict[str, Any], timeout: float = _PATIENCE, *, or_guard: bool = False
) -> dict[str, Any]:
    """Send one request to the daemon with this runtime directory and return the answer.

    Raises:
        ControlError: there is no answer, or it is an error; a rejected reload is no error.
    """
    with ControlConnection(directory, or_guard=or_guard) as connection:
        return connection.ask(request, timeout)


def _process(pid: int) -> int | OSError:
    """Return a descriptor for a process, or the error, which matters only to callers that wait for it."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        return error


def _connect(end: socket.socket, directory: str, *, or_guard: bool) -> None:
    opened = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        end.settimeout(_PATIENCE)
        try:
            end.connect(runtimedir.address(opened))
        except PermissionError:
            if not or_guard:
                raise
            try:
                end.connect(runtimedir.address(opened, runtimedir.GUARD))
            except OSError as error:
                if error.errno in _NOBODY:
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None
                raise
    finally:
        os.close(opened)
