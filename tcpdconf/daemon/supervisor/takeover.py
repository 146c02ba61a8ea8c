"""The running daemon whose place this one takes (`tcpdconf run --take-over`)."""

import socket
from typing import Final

from tcpdconf.daemon.control.client import ControlConnection, ControlError
from tcpdconf.daemon.process import log
from tcpdconf.daemon.supervisor import listeners

_PATIENCE: Final = 30.0  # seconds; it may be about to take on its configuration


class Predecessor:
    """A daemon that answers on control.sock; `sockets` are its listening ones, which both have from now on.

    Raises:
        ControlError: none runs there, or it gives nothing: it does to one successor at a time.
    """

    def __init__(self, runtime: str | None) -> None:
        self._connection = ControlConnection(runtime)
        answer = self._connection.ask({"command": "hand-over"}, _PATIENCE)
        sockets = [socket.socket(fileno=fd) for fd in self._connection.fds]
        units = answer.get("units") or [None] * len(sockets)  # an older daemon does not tell
        self.sockets = tuple(map(listeners.Passed, sockets, units))

    def dismiss(self, seconds: float) -> None:
        """Let it accept no more, and its programs go on for so long."""
        with self._connection:
            try:
                self._connection.ask({"command": "stop", "drain": seconds})
            except ControlError as error:
                log.error(f"cannot stop the daemon before this one: {error}")
        log.info("taken over", pid=self._connection.pid)
