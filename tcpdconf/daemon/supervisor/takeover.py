"""Takes over the listening sockets of a running daemon, and stops it (`tcpdconf run --take-over`)."""

import os
import socket
from typing import Final, NoReturn

import tcpdconf
from tcpdconf.config import printable
from tcpdconf.daemon.control.client import ControlConnection, ControlError
from tcpdconf.daemon.process import log
from tcpdconf.daemon.supervisor import listeners

PROTOCOL: Final = 1
"""Numbers the protocol of a hand-over. A daemon that names none, as those before 0.2.0, speaks 1.

Raise it when a daemon of before would misunderstand what is sent. Keys that it may ignore do not count.
"""
_PATIENCE: Final = 30.0  # seconds to wait for a predecessor, which may be in the middle of a reload


def unknown(protocol: object, who: str) -> str:
    """Return the message about an unknown version of the protocol; `who` is the subject that uses it."""
    number, own = printable.escaped(str(protocol)[:20]), f"tcpdconf {tcpdconf.__version__} knows {PROTOCOL}"
    return f"{who} by protocol {number}, and {own}: stop one daemon and start the other instead"


class Predecessor:
    """Connects to the daemon to replace; `sockets` are its listening sockets, which both daemons now have.

    Raises:
        ControlError: no daemon runs there; or it refuses, for example because another one takes over; or one
            of the two does not know the other's protocol. A running daemon is not affected.
    """

    def __init__(self, runtime: str | None) -> None:
        self._connection = ControlConnection(runtime)
        answer = self._connection.ask({"command": "hand-over", "protocol": PROTOCOL}, _PATIENCE)
        if answer.get("protocol", 1) != PROTOCOL:
            self._refuse(answer["protocol"])
        sockets = [socket.socket(fileno=fd) for fd in self._connection.fds]
        units = answer.get("units") or [None] * len(sockets)  # an older daemon does not tell
        self.sockets = tuple(map(listeners.Passed, sockets, units))

    def _refuse(self, protocol: object) -> NoReturn:
        """Give the sockets back by hanging up.

        Raises:
            ControlError: always.
        """
        for fd in self._connection.fds:
            os.close(fd)
        with self._connection:
            raise ControlError(unknown(protocol, f"the daemon (pid {self._connection.pid}) hands over"))

    def dismiss(self, seconds: float) -> None:
        """Tell the daemon to stop; its programs may continue for some seconds."""
        with self._connection:
            try:
                self._connection.ask({"command": "stop", "drain": seconds})
            except ControlError as error:
                log.error(f"cannot stop the previous daemon: {error}")
        log.info("taken over", pid=self._connection.pid)
