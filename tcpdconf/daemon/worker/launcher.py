"""Starts the programs of connections that have been decided, and follows each start until its exec.

A connection has its program at once. Only while the host cannot start another process, or too many starts are
before their exec, connections wait here and are retried.
"""

import collections
import errno
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tcpdconf.daemon.process import log, loop, throttle
from tcpdconf.daemon.worker import connection as connections
from tcpdconf.daemon.worker.connection import Connection
from tcpdconf.policy.connection import Refused

_NO_PROCESS: Final = frozenset({errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
AT_ONCE: Final = 64  # most programs that are before their exec, a fraction of a millisecond each as a rule
_REST: Final = 0.1  # seconds before another try when no process can be started
PATIENCE: Final = 30.0  # seconds for which a connection waits for a process, or a process for its exec
# Seconds between two looks whether programs have been executed, of which nothing tells. A counter and a line
# of the log wait for it, so the first look comes soon; the pause grows while nothing new is started.
_LOOK: Final = 0.001
_LOOK_SELDOM: Final = 0.1
_TOO_LONG: Final = "its exec takes too long"


@dataclass(slots=True, eq=False)
class _Start:
    """Holds a program before its exec.

    Attributes:
        number: that of `Program.outcome`.
        waited: the seconds for which this process has seen it wait. By the clock it may be more, since both
            may have been stopped.
        killed: True once this process has killed it, because its exec takes too long.
    """

    connection: Connection
    number: int
    waited: float = 0.0
    killed: bool = False


class Launcher:
    """Starts the programs of one service's connections.

    Args:
        name: the service's name, for the log.
        events: the loop.
        started: called with each connection that has a process, and its pid. The program has the connection.
        executed: called later with each whose program has been executed.
        failed: called instead with each whose program could not be executed, and why. The client was told.
        refused: called with each that cannot have a process, and why.
        broken: called with each whose start has met a defect, while the exception is being handled.
        waits: called when connections begin or cease to wait for a process.
    """

    def __init__(
        self,
        name: str,
        events: loop.Loop,
        *,
        started: Callable[[Connection, int], None],
        executed: Callable[[Connection, int], None],
        failed: Callable[[Connection, int, Refused], None],
        refused: Callable[[Connection, Refused], None],
        broken: Callable[[Connection], None],
        waits: Callable[[], None],
    ) -> None:
        self._name = name
        self._loop = events
        self._started = started
        self._executed = executed
        self._failed = failed
        self._refused = refused
        self._broken = broken
        self._waits = waits
        self._starts: dict[int, _Start] = {}  # by pid, those before their exec
        self._killed = 0  # of them; they may not end before the kernel lets them
        self._pause = _LOOK
        self._looking = False  # `_look` will be called
        self._retrying = False  # `_rested` will be called
        self._waiting: collections.deque[Connection] = collections.deque()
        self._told = ""  # the last error that was logged: the same one is not logged again
        self._seldom = throttle.Seldom()

    @property
    def starved(self) -> bool:
        """True while connections wait because no other process can be started."""
        return bool(self._waiting)

    def renew(self) -> None:
        """Log the next error even if it is the last one again, since the configuration has changed."""
        self._told = ""

    def launch(self, connection: Connection) -> None:
        """Start the program of a connection, or let it wait for a process behind those that wait."""
        if self._waiting or not self._start(connection):
            connection.until = loop.now() + PATIENCE
            self._waiting.append(connection)
            self._retry_later()
            self._waits()

    def settle(self, pid: int) -> None:
        """Handle the exec of a program if it has taken place, or has failed."""
        start = self._starts.get(pid)
        if start is None:
            return
        connection = start.connection
        outcome = connection.serving.runner.outcome(start.number)
        if outcome == "pending":
            return
        del self._starts[pid]
        self._pause = _LOOK
        self._killed -= start.killed
        if start.killed:
            outcome = OSError(errno.ETIMEDOUT, _TOO_LONG)
        if outcome == "executed":
            self._told = ""
            self._executed(connection, pid)
        else:
            self._failed(connection, pid, self._cannot_run(connection, outcome))

    def give_up(self) -> list[Connection]:
        """Forget all connections that wait for a process, and return them."""
        left = [*self._waiting]
        self._waiting.clear()
        return left

    def _start(self, connection: Connection) -> bool:
        """Start the program; return False if that is not possible now, because no process is available.

        True also if the connection is refused, because the program cannot be run.
        """
        if len(self._starts) - self._killed >= AT_ONCE:  # `_look` retries
            return False
        try:
            pid, number = connection.serving.runner.start(connection.socket.fileno(), connection.variables)
        except OSError as error:
            if error.errno not in _NO_PROCESS:
                self._refuse(connection, error)
                return True
            if self._seldom.due("process", loop.now()):
                log.error(f"cannot start a program: {error.strerror}", service=self._name, retry=f"{_REST}s")
            return False
        except ValueError as error:
            self._refuse(connection, error)
            return True
        self._started(connection, pid)
        if number is None:
            self._told = ""
            self._executed(connection, pid)
            return True
        self._starts[pid] = _Start(connection, number)
        self._pause = _LOOK
        if not self._looking:
            self._looking = True
            self._loop.after(_LOOK, self._look)
        return True

    def _refuse(self, connection: Connection, error: OSError | ValueError) -> None:
        """Refuse a connection whose program cannot be run; with couriertcpd's `-stderr=socket` say why."""
        refused = self._cannot_run(connection, error)
        service, ways = connection.serving.service, connection.serving.ways
        if ways.tells_exec_error and service.stderr == "socket":
            reason = dict(refused.detail)["error"]
            connections.tell(connection.socket, f"{service.program[0]}: {reason}\n".encode())
        self._refused(connection, refused)

    def _cannot_run(self, connection: Connection, error: OSError | ValueError) -> Refused:
        """Log why a program cannot be run, unless that was logged last, and return it."""
        reason = (error.strerror or "") if isinstance(error, OSError) else str(error)
        text = f"cannot run {connection.serving.service.program[0]}: {reason}"
        if text != self._told:
            self._told = text
            log.error(text, service=self._name, errno=getattr(error, "errno", None))
        return Refused("spawn", (("error", reason),))

    def _look(self) -> None:
        """Look at all programs before their exec, and again after a while if some are left."""
        pause, self._pause = self._pause, min(2 * self._pause, _LOOK_SELDOM)
        for pid, start in [*self._starts.items()]:
            start.waited += pause
            self.settle(pid)
            if start.waited > PATIENCE and not start.killed and pid in self._starts:
                self._kill(pid, start)
        if self._waiting:
            self._retry()
        self._looking = bool(self._starts)
        if self._looking:
            self._loop.after(self._pause, self._look)

    def _kill(self, pid: int, start: _Start) -> None:
        """Kill a process that waits for its exec, as on a file system that does not answer.

        Until it ends, which the kernel may delay, it keeps its client and its slot, and no other one waits.
        """
        start.killed = True
        self._killed += 1
        self._cannot_run(start.connection, OSError(errno.ETIMEDOUT, _TOO_LONG))
        os.kill(pid, signal.SIGKILL)

    def _retry_later(self) -> None:
        if not self._retrying:
            self._retrying = True
            self._loop.after(_REST, self._rested)

    def _rested(self) -> None:
        self._retrying = False
        self._retry()

    def _retry(self) -> None:
        """Start the programs of connections that wait, until no process is available again."""
        while self._waiting:
            connection = self._waiting[0]
            try:
                if not self._start(connection):
                    if loop.now() < connection.until:
                        self._retry_later()
                        break
                    self._refuse(connection, OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)))
            except Exception:  # noqa: BLE001 (it costs this connection, not the others)
                self._broken(connection)
            self._waiting.popleft()
        self._waits()
