"""A service's logger: the process that reads its programs' standard error, and the pipe between them."""

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

_PIPE: Final = 1 << 20  # bytes that may wait, where the host allows so many (pipe(7))


class LoggerSettings(NamedTuple):
    """What makes one logger another than that of a service before."""

    argv: tuple[str, ...]
    identity: host.Identity
    environment: Mapping[str, str]
    detached: bool = False  # its own output is thrown away, and SIGHUP ignored


class Logger:
    """Kept running as long as it is wanted; the pipe outlives the process, so that nothing written is lost.

    `write` is for programs; `peek` is its reading end once more, not blocking, for who looks how full it is.

    Raises:
        OSError: no pipe is to be had.
    """

    def __init__(self, events: loop.Loop, name: str, order: LoggerSettings) -> None:
        self.order = order
        self.process = child.Child(events, f"logger of {name}", self._start)
        self._service = name
        self._read, self.write = os.pipe2(os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            fcntl.fcntl(self.write, fcntl.F_SETPIPE_SZ, _PIPE)
        try:
            # O_NONBLOCK belongs to an open file, not to a descriptor: the logger's end must go on blocking.
            self.peek = os.open(f"/proc/self/fd/{self._read}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            channel.close_all([self._read, self.write])
            raise

    def close(self) -> None:
        """Let it end: it does when the last program has."""
        self.process.finish()
        channel.close_all([self._read, self.write, self.peek])

    def _start(self) -> int:
        return child.fork(self._run, {self._read})

    def _run(self) -> int:
        os.setsid()  # what is sent to programs or typed at a terminal is not meant for the logger
        os.dup2(self._read, 0)
        log_fd = os.dup(2)  # closed when the logger runs
        if self.order.detached:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        elif os.path.samestat(os.fstat(0), os.fstat(2)):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what it reads must end when nobody else writes
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # which the interpreter ignores
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
    """The logger that a service wants; `environment` is the daemon's own as it was started."""
    stderr = service.stderr
    if not isinstance(stderr, tables.StderrLogger):
        return None
    name = stderr.name or os.path.basename(service.program[0])
    base = environ.base(service, dict(environment), {})
    return LoggerSettings((*stderr.logger, name), host.identity(service), base, ways.detaches_logger)
