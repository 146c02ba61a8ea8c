"""The running daemon whose place this one takes (`tcpdconf run --take-over`)."""

from typing import Final

from tcpdconf.daemon import controlclient, log

_PATIENCE: Final = 30.0  # seconds; it may be about to take on its configuration


class Predecessor:
    """A daemon that answers on control.sock; `sockets` are its listening ones, which both have from now on.

    Raises:
        ControlError: none runs there, or it gives nothing.
    """

    def __init__(self, runtime: str | None) -> None:
        self._connection = controlclient.Connection(runtime)
        self._connection.ask({"command": "hand-over"}, _PATIENCE)
        self.sockets = tuple(self._connection.fds)

    def dismiss(self, seconds: float) -> None:
        """Let it accept no more, and its programs go on for so long."""
        try:
            self._connection.ask({"command": "stop", "drain": seconds})
        except controlclient.ControlError as error:
            log.error(f"cannot stop the daemon before this one: {error}")
        log.info("taken over", pid=self._connection.pid)
