"""Word to the service manager (sd_notify(3)), when there is one; and sockets, for its store."""

import contextlib
import os
import socket
import time
from typing import Final

import sdnotify

_PATIENCE: Final = 1.0  # seconds for a service manager that does not read; then it is not told


class Notifier:
    """Sends states to NOTIFY_SOCKET, read once; does nothing without it."""

    def __init__(self) -> None:
        self._socket = sdnotify.SystemdNotifier()
        if self._socket.socket is not None:
            self._socket.socket.settimeout(_PATIENCE)

    def ready(self, status: str) -> None:
        """Every worker accepts."""
        self._socket.notify(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """The daemon has begun to take on its configuration again; `ready` says that it is done."""
        self._socket.notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def status(self, text: str) -> None:
        """One line on what the daemon is doing."""
        self._socket.notify(f"STATUS={text}")

    def stopping(self) -> None:
        """The daemon has begun to stop."""
        self._socket.notify("STOPPING=1\nSTATUS=stopping")

    def store(self, name: str, end: socket.socket) -> None:
        """Let the service manager keep a socket, to pass it on when this daemon is started again."""
        if self._socket.socket is not None:
            with contextlib.suppress(OSError):
                said = f"FDSTORE=1\nFDNAME={name}".encode()
                socket.send_fds(self._socket.socket, [said], [end.fileno()])

    def forget(self, name: str) -> None:
        """Let it close what it keeps under this name."""
        self._socket.notify(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def watchdog(self) -> None:
        """All workers have answered."""
        self._socket.notify("WATCHDOG=1")


def watchdog_seconds() -> float | None:
    """How often WATCHDOG is expected of this process, or None (sd_watchdog_enabled(3))."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 1_000_000 if text.isascii() and text.isdigit() and int(text) > 0 else None
