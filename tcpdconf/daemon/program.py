"""Starts a service's program with a connection as its standard input and output.

posix_spawn shares the daemon's memory until the exec (vfork), so that its cost does not grow with the
daemon's size. It leaves directory, umask and identity as they are: those are the worker's own already.
Descriptors other than 0, 1 and 2 are closed by the exec, since nothing here is inheritable (PEP 446).
"""

import errno
import os
import signal
import stat
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, TypedDict

from tcpdconf.config import tables
from tcpdconf.daemon import files
from tcpdconf.policy import dialect, environ

# setrlimit(2) has to happen between fork and exec. posix_spawn cannot, a real fork costs more than this exec
# of a small program, and setting a limit from outside after the start would be a race.
PRLIMIT: Final = "/usr/bin/prlimit"

_DEFAULTED: Final = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
# what couriertcpd sets itself, and what the interpreter ignores
_OWN: Final = (
    signal.SIGCHLD,
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGPIPE,
    signal.SIGTERM,
    signal.SIGXFSZ,
)


class _Signals(TypedDict, total=False):
    """What posix_spawn is told about them."""

    setsigdef: Iterable[int]
    setsigmask: Iterable[int]


class Program:
    """One service's program, ready to be started any number of times.

    `stderr` is what standard error is: "socket" for the connection, "inherit" for the daemon's own.
    """

    def __init__(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        stderr: files.Owned | Literal["socket", "inherit"],
        rlimits: tables.Rlimits,
        ways: dialect.Dialect = dialect.TOML,
    ) -> None:
        self._argv = [environ.encoded(word) for word in (*_limited(rlimits), *argv)]
        self._environment = environ.block(environment)
        self._stderr = stderr
        self._signals: _Signals = {"setsigdef": _DEFAULTED, "setsigmask": ()}
        if ways.keeps_signals:
            self._signals = {"setsigdef": _OWN}
        self._behind_prlimit = argv[0] if _limited(rlimits) else None

    def start(self, connection: int, variables: Mapping[str, str]) -> int:
        """Start the program on a connection; returns its pid.

        Raises:
            OSError: it cannot be run (ENOENT, EACCES, ENOEXEC, E2BIG, ...), or no process is to be had
                now (EAGAIN, ENOMEM).
        """
        if self._behind_prlimit is not None:
            check(self._behind_prlimit)  # prlimit(1) could only tell standard error
        environment = self._environment | environ.block(variables)
        actions = [(os.POSIX_SPAWN_DUP2, connection, 0), (os.POSIX_SPAWN_DUP2, connection, 1)]
        if self._stderr != "inherit":
            stderr = connection if self._stderr == "socket" else self._stderr.fileno()
            actions.append((os.POSIX_SPAWN_DUP2, stderr, 2))
        return os.posix_spawn(
            self._argv[0],
            self._argv,
            environment,
            file_actions=actions,
            **self._signals,
        )


def _limited(rlimits: tables.Rlimits) -> list[str]:
    """The command that sets the limits, to stand before the program's; nothing without limits."""
    wanted = rlimits.model_dump(exclude_none=True, mode="json")
    options = [f"--{name}={size}:{size}" for name, size in wanted.items()]
    return [PRLIMIT, *options, "--"] if options else []


def check(path: str) -> None:
    """Raise what an exec of the path would, as far as its name and mode tell."""
    if not stat.S_ISREG(os.stat(path).st_mode) or not os.access(path, os.X_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
