"""Starts a service's program with a connection as its standard input and output.

posix_spawn shares the daemon's memory until the exec (vfork), so that its cost does not grow with the
daemon's size. It leaves directory, umask and identity as they are, since the worker has those already. The
exec closes descriptors other than 0, 1 and 2, since nothing here is inheritable (PEP 446).

The calling thread is blocked until the exec. A second thread therefore shares the work when there are several
programs to start, so that more than one processor is busy.
"""

import collections
import errno
import os
import queue
import signal
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from tcpdconf.config import dialect
from tcpdconf.config.model import tables
from tcpdconf.daemon.process import background_thread, spawn
from tcpdconf.policy import environ

# setrlimit(2) has to happen between fork and exec. posix_spawn cannot, a real fork costs more than this exec
# of a small program, and setting a limit from outside after the start would be a race.
PRLIMIT: Final = "/usr/bin/prlimit"

_DEFAULTED: Final = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
# signals that couriertcpd sets itself, and those that the interpreter ignores
_OWN: Final = (
    signal.SIGCHLD,
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGPIPE,
    signal.SIGTERM,
    signal.SIGXFSZ,
)


class Program:
    """Starts one service's program any number of times.

    `stderr` says what the program gets as standard error: "socket" for the connection, "inherit" for the
    daemon's own, or a descriptor, which this object owns from now on.

    Raises:
        ValueError: an argument contains a NUL.
    """

    def __init__(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        stderr: int | Literal["socket", "inherit"],
        rlimits: tables.Rlimits,
        ways: dialect.Dialect = dialect.TOML,
    ) -> None:
        words = [environ.encoded(word) for word in (*_limited(rlimits), *argv)]
        self._path, self._argv = words[0], spawn.Words(words)
        self._environment = environ.entries(environment)
        self._stderr = stderr
        self._signals = spawn.SpawnAttributes(
            _OWN if ways.keeps_signals else _DEFAULTED, unblocked=not ways.keeps_signals
        )
        self._behind_prlimit = argv[0] if _limited(rlimits) else None

    def start(self, connection: int, variables: Mapping[str, str]) -> int:
        """Start the program on a connection; return its pid.

        Raises:
            OSError: the program cannot be run (ENOENT, EACCES, ENOEXEC, E2BIG, ...), or no process can be
                started now (EAGAIN, ENOMEM).
            ValueError: a variable contains a NUL.
        """
        if self._behind_prlimit is not None:
            check(self._behind_prlimit)  # prlimit(1) reports an error only on standard error
        environment = spawn.Words([*(self._environment | environ.entries(variables)).values()])
        fds = [connection, connection]
        if self._stderr != "inherit":
            fds.append(connection if self._stderr == "socket" else self._stderr)
        return spawn.start(self._path, self._argv, environment, fds, self._signals)

    def close(self) -> None:
        """Close the descriptor for standard error, if there is one; start nothing afterwards."""
        if isinstance(self._stderr, int):
            os.close(self._stderr)
            self._stderr = "inherit"


Started = int | Exception  # a pid, or the error
_Start = Callable[[], int]  # starts a program, returns its pid


class Starter:
    """Starts programs, with a second thread once there are several to start."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._helped = False

    def start(self, starts: Sequence[_Start]) -> Iterator[tuple[int, Started]]:
        """Call each of `starts`; yield (index, pid or exception) in completion order.

        Exhaust the iterator: it makes the calls.
        """
        work = _Work(collections.deque(enumerate(starts)), collections.deque(), queue.SimpleQueue())
        helped = len(starts) > 1 and self._has_help()
        if helped:
            self._orders.put(work)
        while work.go_on():
            yield from work.news()
        if helped:
            work.finished.get()
            yield from work.news()

    def _has_help(self) -> bool:
        """Start the second thread unless it runs; return whether it does."""
        if not self._helped:
            self._helped = True  # set first: the thread resets it when it ends
            try:
                background_thread.start(self._help)
            except (RuntimeError, MemoryError):
                self._helped = False
        return self._helped

    def _help(self) -> None:
        try:
            while True:
                work = self._orders.get()
                try:
                    while work.go_on():
                        pass
                finally:
                    work.finished.put(None)
        finally:
            self._helped = False


class _Work(NamedTuple):
    """Holds the starts that are left, which two threads share, and the results of the others.

    `finished` gets one entry when the second thread has nothing left to do.
    """

    left: collections.deque[tuple[int, _Start]]
    done: collections.deque[tuple[int, Started]]
    finished: queue.SimpleQueue[None]

    def go_on(self) -> bool:
        """Start one more program; return False if none was left."""
        try:
            place, start = self.left.popleft()
        except IndexError:
            return False
        try:
            self.done.append((place, start()))
        except Exception as error:  # noqa: BLE001 (the other programs are still started)
            self.done.append((place, error))
        return True

    def news(self) -> Iterator[tuple[int, Started]]:
        """Yield the results that have not been yielded yet."""
        while self.done:
            yield self.done.popleft()


def _limited(rlimits: tables.Rlimits) -> list[str]:
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
