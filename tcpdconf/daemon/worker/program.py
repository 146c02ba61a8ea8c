"""Starts a service's program with a connection as its standard input and output.

Directory, umask and identity of the program are the worker's. The exec closes descriptors other than 0, 1
and 2, since nothing here is inheritable (PEP 446). There are two ways to start a program (`spawn`), and
a class for each.
"""

import errno
import os
import resource
import signal
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple, Protocol

from tcpdconf.config import dialect
from tcpdconf.config.model import tables
from tcpdconf.daemon.process import signals, spawn
from tcpdconf.policy import environ

# posix_spawn cannot set limits between fork and exec, a real fork costs more than this exec of a small
# program, and setting a limit from outside after the start would be a race.
PRLIMIT: Final = "/usr/bin/prlimit"

# signals that couriertcpd sets itself, and those that the interpreter ignores
_OWN: Final = (
    signal.SIGCHLD,
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGPIPE,
    signal.SIGTERM,
    signal.SIGXFSZ,
)

Stderr = int | Literal["socket", "inherit"]
Started = tuple[int, int | None]
"""The pid, and the number to ask `Program.outcome` for; None if the program has been executed."""


class Setting(NamedTuple):
    """Describes a service's program.

    Attributes:
        environment: the variables of every program; those of a connection override them.
        stderr: what the program gets as standard error: "socket" for the connection, "inherit" for the
            daemon's own, or a descriptor, which the `Program` owns from now on.
        told: what a client is told if the program cannot be executed.
        tells_reason: tell it the error after that.
    """

    argv: Sequence[str]
    environment: Mapping[str, str]
    stderr: Stderr
    rlimits: tables.Rlimits = tables.Rlimits()
    ways: dialect.Dialect = dialect.TOML
    told: bytes = b""
    tells_reason: bool = False


class Program(Protocol):
    """Starts one service's program any number of times."""

    def start(self, connection: int, variables: dict[str, str]) -> Started:
        """Start the program on a connection.

        Raises:
            OSError: no process can be started now (EAGAIN, ENOMEM, ...), or the program cannot be executed
                (ENOENT, EACCES, ENOEXEC, E2BIG, ...), if that is known at once.
            ValueError: a variable contains a NUL.
        """

    def outcome(self, number: int) -> OSError | Literal["pending", "executed"]:
        """Return what has become of a start; ask until it is no longer "pending", and then no more.

        With an error, the client has been told.
        """

    def close(self) -> None:
        """Close the descriptor for standard error, if there is one; start nothing afterwards."""


def make(setting: Setting) -> Program:
    """Return the program, which is started natively if this process can do that.

    Raises:
        UnknownWayError: it cannot be started as the environment wishes.
        ValueError: an argument or variable contains a NUL.
    """
    return NativeProgram(setting) if spawn.way() == "native" else PortableProgram(setting)


class _Owner:
    """Owns the descriptor for the standard error of a program, if there is one."""

    def __init__(self, stderr: Stderr) -> None:
        self._stderr = stderr

    def close(self) -> None:
        """Close the descriptor for standard error, if there is one; start nothing afterwards."""
        if isinstance(self._stderr, int):
            os.close(self._stderr)
            self._stderr = "inherit"


class NativeProgram(_Owner):
    """Starts a program without waiting for its exec. The child tells the client of an error."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting.stderr)
        self._path = setting.argv[0]
        numbers = {"socket": spawn.native.CONNECTION, "inherit": spawn.native.INHERIT}
        ignored, caught = signals.dispositions()
        keeps = setting.ways.keeps_signals
        self._order = spawn.native.order(
            _joined(environ.encoded(word) for word in setting.argv),
            _joined(environ.entries(setting.environment).values()),
            tuple(setting.environment),
            setting.stderr if isinstance(setting.stderr, int) else numbers[setting.stderr],
            signals.mask(_OWN) | caught if keeps else ignored | caught,
            keeps,
            tuple(_limits(setting.rlimits)),
            setting.told,
            setting.tells_reason,
        )
        self._start = spawn.native.start

    def start(self, connection: int, variables: dict[str, str]) -> Started:
        """Start the program on a connection."""
        return self._start(self._order, connection, variables)

    def outcome(self, number: int) -> OSError | Literal["pending", "executed"]:
        """Return what has become of a start."""
        found = spawn.native.outcome(number)
        if found is None:
            return "pending"
        code, limit = found
        if code == 0:
            return "executed"
        text = os.strerror(code)
        if limit >= 0:
            text = f"cannot set the limit {_NAMES[limit]}: {text}"
        return OSError(code, text, self._path)


class PortableProgram(_Owner):
    """Starts a program with posix_spawn(3), and waits for its exec."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting.stderr)
        limited = _prefix(setting.rlimits)
        words = [environ.encoded(word) for word in (*limited, *setting.argv)]
        self._path, self._argv = words[0], spawn.Words(words)
        self._environment = environ.entries(setting.environment)
        keeps = setting.ways.keeps_signals
        defaulted = _OWN if keeps else signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
        self._signals = spawn.SpawnAttributes(defaulted, unblocked=not keeps)
        self._behind_prlimit = setting.argv[0] if limited else None

    def start(self, connection: int, variables: dict[str, str]) -> Started:
        """Start the program on a connection."""
        if self._behind_prlimit is not None:
            check(self._behind_prlimit)  # prlimit(1) reports an error only on standard error
        environment = spawn.Words([*(self._environment | environ.entries(variables)).values()])
        fds = [connection, connection]
        if self._stderr != "inherit":
            fds.append(connection if self._stderr == "socket" else self._stderr)
        return spawn.start(self._path, self._argv, environment, fds, self._signals), None

    def outcome(self, number: int) -> OSError | Literal["pending", "executed"]:  # noqa: ARG002 (a `Program`)
        """Return "executed": `start` waits for it."""
        return "executed"


def _joined(words: Iterable[bytes]) -> bytes:
    """Return strings with a NUL after each.

    Raises:
        ValueError: a string contains a NUL.
    """
    found = list(words)
    if b"\0" in b"".join(found):
        raise ValueError("embedded null byte")
    return b"".join(word + b"\0" for word in found)


_INFINITY: Final = 2**64 - 1  # the kernel's RLIM_INFINITY; that of `resource` is -1
_RESOURCES: Final = {
    name: getattr(resource, f"RLIMIT_{name.strip('_').upper()}") for name in tables.Rlimits.model_fields
}
_NAMES: Final = {number: name.strip("_") for name, number in _RESOURCES.items()}


def _limits(rlimits: tables.Rlimits) -> Iterator[tuple[int, int]]:
    """Yield the numbers of the limited resources and their values (setrlimit(2))."""
    for name, number in _RESOURCES.items():
        value = getattr(rlimits, name)
        if value is not None:
            yield number, value & _INFINITY


def _prefix(rlimits: tables.Rlimits) -> list[str]:
    """Return the command prefix that sets the limits, or an empty list without limits."""
    wanted = rlimits.model_dump(exclude_none=True, mode="json")
    options = [f"--{name}={size}:{size}" for name, size in wanted.items()]
    return [PRLIMIT, *options, "--"] if options else []


def check(path: str) -> None:
    """Check that the path names an executable file.

    Raises:
        OSError: an exec would fail, as far as the path and its mode show.
    """
    if not stat.S_ISREG(os.stat(path).st_mode) or not os.access(path, os.X_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
