"""Word to the service manager (sd_notify(3)), when there is one; and sockets, for its store."""

import os
import socket
import time
from typing import Final

import sdnotify

_PATIENCE: Final = 1.0  # seconds for a service manager that does not read
_REST: Final = 10.0  # seconds for which it is not told anything after that


class Notifier:
    """Sends states to NOTIFY_SOCKET, read once; does nothing without it.

    Who does not read is not waited for again and again: it would keep the daemon from its work.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = sdnotify.SystemdNotifier().socket
        self._deaf_until = 0.0
        if self._socket is not None:
            self._socket.settimeout(_PATIENCE)

    def ready(self, status: str) -> None:
        """Every worker accepts."""
        self._say(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """The daemon has begun to take on its configuration again; `ready` says that it is done."""
        self._say(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The daemon has begun to stop."""
        self._say("STOPPING=1\nSTATUS=stopping")

    def store(self, name: str, end: socket.socket) -> None:
        """Let the service manager keep a socket, to pass it on when this daemon is started again."""
        self._say(f"FDSTORE=1\nFDNAME={name}", end.fileno())

    def forget(self, name: str) -> None:
        """Let it close what it keeps under this name."""
        self._say(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def watchdog(self) -> None:
        """All workers have answered."""
        self._say("WATCHDOG=1")

    def _say(self, state: str, *fds: int) -> None:
        if self._socket is None or time.monotonic() < self._deaf_until:
            return
        try:
            socket.send_fds(self._socket, [state.encode("utf-8", "replace")], fds)
        except TimeoutError:
            self._deaf_until = time.monotonic() + _REST
        except OSError:
            return  # as sd_notify(3) recommends: nobody there is no reason not to go on


def watchdog_seconds() -> float | None:
    """How often WATCHDOG is expected of this process, or None (sd_watchdog_enabled(3))."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 1_000_000 if text.isascii() and text.isdigit() and int(text) > 0 else None
