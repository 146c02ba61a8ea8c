"""Starts the programs of connections that have been decided.

Programs of connections that become ready in one turn of the loop are started together, by two threads
(`program.Starter`). While the host cannot start another process, connections wait here and are retried.
"""

import collections
import errno
import functools
from collections.abc import Callable
from typing import Final

from tcpdconf.daemon.process import log, loop, throttle
from tcpdconf.daemon.worker import connection as connections
from tcpdconf.daemon.worker import program
from tcpdconf.daemon.worker.connection import Connection
from tcpdconf.policy.connection import Refused

_NO_PROCESS: Final = frozenset({errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_REST: Final = 0.1  # seconds before another try when no process can be started
_PATIENCE: Final = 30.0  # seconds for which a connection waits for a process
_TOGETHER: Final = 32  # programs started at once: until then each connection keeps its descriptor


class Launcher:
    """Starts the programs of one service's connections.

    Args:
        name: the service's name, for the log.
        events: the loop, which calls `start` at the end of a turn.
        started: called with each connection that has a program, and its pid.
        refused: called with each that cannot have one, and why.
        broken: called with each whose start has met a defect, while the exception is being handled.
        waits: called when connections begin or cease to wait for a process.
    """

    def __init__(
        self,
        name: str,
        events: loop.Loop,
        *,
        started: Callable[[Connection, int], None],
        refused: Callable[[Connection, Refused], None],
        broken: Callable[[Connection], None],
        waits: Callable[[], None],
    ) -> None:
        self._name = name
        self._loop = events
        self._started = started
        self._refused = refused
        self._broken = broken
        self._waits = waits
        self._starter = program.Starter()
        self._ready: list[Connection] = []
        self._waiting: collections.deque[Connection] = collections.deque()
        self._told = ""  # the last error that was logged: the same one is not logged again
        self._seldom = throttle.Seldom()

    @property
    def starved(self) -> bool:
        """True while connections wait because the host cannot start another process."""
        return bool(self._waiting)

    def renew(self) -> None:
        """Log the next error even if it is the last one again, since the configuration has changed."""
        self._told = ""

    def launch(self, connection: Connection) -> None:
        """Start the program of a connection by the end of this turn of the loop."""
        connection.until = loop.now() + _PATIENCE
        if not self._ready:
            self._loop.soon(self.start)
        self._ready.append(connection)
        if len(self._ready) == _TOGETHER:
            self.start()

    def start(self) -> bool:
        """Start the programs of all connections that are ready; return whether there was any."""
        ready, self._ready = self._ready, []
        starts = [
            functools.partial(each.serving.runner.start, each.socket.fileno(), each.variables)
            for each in ready
        ]
        for place, started in self._starter.start(starts):
            try:
                self._settle(ready[place], started)
            except Exception:  # noqa: BLE001 (it costs this connection, not the others)
                self._broken(ready[place])
        return bool(ready)

    def give_up(self) -> list[Connection]:
        """Forget all connections that are ready or wait, and return them."""
        left = [*self._waiting, *self._ready]
        self._waiting.clear()
        self._ready.clear()
        return left

    def _settle(self, connection: Connection, started: program.Started) -> None:
        """Handle the outcome of one start: a pid, or the exception."""
        if isinstance(started, int):
            self._told = ""
            self._started(connection, started)
        elif isinstance(started, OSError) and started.errno in _NO_PROCESS and loop.now() < connection.until:
            self._wait(connection, started)
        elif isinstance(started, OSError | ValueError):
            self._cannot_run(connection, started)
        else:
            raise started

    def _cannot_run(self, connection: Connection, error: OSError | ValueError) -> None:
        service, ways = connection.serving.service, connection.serving.ways
        reason = error.strerror if isinstance(error, OSError) else str(error)
        text = f"cannot run {service.program[0]}: {reason}"
        if text != self._told:
            self._told = text
            log.error(text, service=self._name, errno=getattr(error, "errno", None))
        if ways.tells_exec_error and service.stderr == "socket":
            connections.tell(connection.socket, f"{service.program[0]}: {reason}\n".encode())
        self._refused(connection, Refused("spawn", (("error", reason),)))

    def _wait(self, connection: Connection, error: OSError) -> None:
        """Keep a connection, and retry it soon, because no process can be started."""
        if self._seldom.due("process", loop.now()):
            log.error(f"cannot start a program: {error.strerror}", service=self._name, retry=f"{_REST}s")
        if not self._waiting:
            self._loop.after(_REST, self._retry)
        self._waiting.append(connection)
        self._waits()

    def _retry(self) -> None:
        self._ready[:0] = self._waiting
        self._waiting.clear()
        self.start()
        self._waits()
