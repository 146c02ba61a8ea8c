"""Runs a service's logger, the process that reads its programs' standard error from a pipe."""

import contextlib
import fcntl
import os
import signal
from collections.abc import Mapping
from typing import Final, NamedTuple

from tcpdconf.config import dialect, host
from tcpdconf.config.model import tables
from tcpdconf.config.model.service import Service
from tcpdconf.daemon.process import channel, child, log, loop, privileges
from tcpdconf.policy import environ

_PIPE: Final = 1 << 20  # bytes that the pipe may hold, if the host allows so many (pipe(7))


class LoggerSettings(NamedTuple):
    """Holds the settings of a logger; a service whose settings differ needs a new logger."""

    argv: tuple[str, ...]
    identity: host.Identity
    environment: Mapping[str, str]
    detached: bool = False  # discard its own output, and ignore SIGHUP


class Logger:
    """Keeps a logger running until closed; the pipe outlives the process, so that no output is lost.

    `write` is the writing end for programs. `peek` is a second, non-blocking reading end, by which the worker
    measures how full the pipe is.

    Raises:
        OSError: no pipe is available.
    """

    def __init__(self, events: loop.Loop, name: str, order: LoggerSettings) -> None:
        self.order = order
        self.process = child.Child(events, f"logger of {name}", self._start)
        self._service = name
        self._read, self.write = os.pipe2(os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            fcntl.fcntl(self.write, fcntl.F_SETPIPE_SZ, _PIPE)
        try:
            # O_NONBLOCK belongs to an open file description, and the logger's end must block.
            self.peek = os.open(f"/proc/self/fd/{self._read}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            channel.close_all([self._read, self.write])
            raise

    def close(self) -> None:
        """Close the pipe, and do not restart the logger; it ends when the last program has."""
        self.process.finish()
        channel.close_all([self._read, self.write, self.peek])

    def _start(self) -> int:
        return child.fork(self._run, {self._read})

    def _run(self) -> int:
        os.setsid()  # the logger must not get signals for programs or from a terminal
        os.dup2(self._read, 0)
        log_fd = os.dup(2)  # closed when the logger runs
        if self.order.detached:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        elif os.path.samestat(os.fstat(0), os.fstat(2)):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the pipe must end when no program holds it
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the interpreter ignores these two
        privileges.become(self.order.identity)
        os.chdir("/")
        path = self.order.argv[0]
        try:
            os.execve(path, self.order.argv, environ.block(self.order.environment))  # noqa: S606 (as configured)
        except OSError as error:
            os.dup2(log_fd, 2)
            log.error(f"cannot run {path}: {error.strerror}", service=self._service, errno=error.errno)
        return 127


def order(
    service: Service, environment: Mapping[str, str], ways: dialect.Dialect = dialect.TOML
) -> LoggerSettings | None:
    """Return the settings of a service's logger, or None if the service has none.

    `environment` is the one that the daemon was started with.
    """
    stderr = service.stderr
    if not isinstance(stderr, tables.StderrLogger):
        return None
    name = stderr.name or os.path.basename(service.program[0])
    base = environ.base(service, dict(environment), {})
    return LoggerSettings((*stderr.logger, name), host.identity(service), base, ways.detaches_logger)
