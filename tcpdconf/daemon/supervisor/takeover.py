"""Takes over the listening sockets of a running daemon, and stops it (`tcpdconf run --take-over`)."""

import socket
from typing import Final

from tcpdconf.daemon.control.client import ControlConnection, ControlError
from tcpdconf.daemon.process import log
from tcpdconf.daemon.supervisor import listeners

_PATIENCE: Final = 30.0  # seconds; it may be in the middle of a reload


class Predecessor:
    """Connects to the daemon to replace; `sockets` are its listening ones, which both have from now on.

    Raises:
        ControlError: no daemon runs there, or it refuses, for example because another one takes over.
    """

    def __init__(self, runtime: str | None) -> None:
        self._connection = ControlConnection(runtime)
        answer = self._connection.ask({"command": "hand-over"}, _PATIENCE)
        sockets = [socket.socket(fileno=fd) for fd in self._connection.fds]
        units = answer.get("units") or [None] * len(sockets)  # an older daemon does not tell
        self.sockets = tuple(map(listeners.Passed, sockets, units))

    def dismiss(self, seconds: float) -> None:
        """Tell the daemon to stop; its programs may go on for so many seconds."""
        with self._connection:
            try:
                self._connection.ask({"command": "stop", "drain": seconds})
            except ControlError as error:
                log.error(f"cannot stop the daemon before this one: {error}")
        log.info("taken over", pid=self._connection.pid)
