"""Sends messages and sockets to the service manager, if there is one (sd_notify(3)).

Nothing here blocks: a message that the manager does not take at once is sent again, in order, until it does.
"""

import collections
import errno
import os
import socket
import time
from collections.abc import Callable
from typing import Final, NamedTuple

import sdnotify

from tcpdconf.daemon.process import channel, loop

_AGAIN: Final = 0.1  # seconds between two attempts while the manager does not read
_PATIENCE: Final = 5.0  # most seconds to wait for a barrier, as sd_notify_barrier(3) recommends
_MOST: Final = 1000  # most messages that may wait
_FULL: Final = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})


class _Message(NamedTuple):
    """Holds a message with descriptors of its own; a later `state` replaces an earlier one that waits."""

    text: str
    fds: list[int]
    state: bool


class Notifier:
    """Sends messages to NOTIFY_SOCKET, which is read once; does nothing if it is not set."""

    def __init__(self, events: loop.Loop) -> None:
        self._loop = events
        self._socket: socket.socket | None = None
        if os.environ.get("NOTIFY_SOCKET"):
            self._socket = sdnotify.SystemdNotifier().socket
        self._waiting: collections.deque[_Message] = collections.deque()
        self._pausing = False  # until the next attempt
        if self._socket is not None:
            self._socket.setblocking(False)

    def close(self) -> None:
        """Drop the messages that wait, and send no more."""
        while self._waiting:
            channel.close_all(self._waiting.popleft().fds)
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ready(self, status: str) -> None:
        """Report that every worker accepts."""
        self._say_state(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """Report that a reload has begun; `ready` ends it."""
        self._say_state(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Report that the daemon has begun to stop."""
        self._say_state("STOPPING=1\nSTATUS=stopping")

    def store(self, name: str, end: socket.socket) -> None:
        """Have the service manager keep a socket, to pass it on when the daemon is started again."""
        self._say(f"FDSTORE=1\nFDNAME={name}", end.fileno())

    def forget(self, name: str) -> None:
        """Have the service manager close the sockets that it keeps under this name."""
        self._say(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def barrier(self, then: Callable[[], None]) -> None:
        """Call `then` once the manager has handled all earlier messages, or after five seconds.

        The manager then closes the descriptor that comes with the message (sd_notify_barrier(3)).
        """
        if self._socket is None:
            then()
            return
        try:
            read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:  # without a descriptor there is no way to wait
            then()
            return
        _Barrier(self._loop, read, then)
        try:
            self._say("BARRIER=1", write)
        finally:
            os.close(write)

    def watchdog(self) -> None:
        """Report that the daemon is alive, unless messages wait: a late report is worthless."""
        if not self._waiting:
            self._say_state("WATCHDOG=1")

    def _say_state(self, text: str) -> None:
        self._waiting = collections.deque(each for each in self._waiting if not each.state)
        self._say(text, state=True)

    def _say(self, text: str, *fds: int, state: bool = False) -> None:
        if self._socket is None:
            return
        try:
            own = [os.dup(fd) for fd in fds]
        except OSError:  # without this socket in the store, a restart binds it again
            return
        self._waiting.append(_Message(text, own, state))
        if len(self._waiting) > _MOST:
            channel.close_all(self._waiting.popleft().fds)
        if not self._pausing:
            self._send()

    def _send(self) -> None:
        """Send the messages that wait, as far as the manager takes them."""
        self._pausing = False
        while self._waiting and self._socket is not None:
            message = self._waiting[0]
            try:
                socket.send_fds(self._socket, [message.text.encode("utf-8", "replace")], message.fds)
            except OSError as error:
                if error.errno in _FULL:
                    self._pausing = True
                    self._loop.after(_AGAIN, self._send)
                    return
                # as sd_notify(3) recommends, go on without a manager
            self._waiting.popleft()
            channel.close_all(message.fds)


class _Barrier:
    """Watches the reading end of a pipe until all writing ends are closed, and calls `then`."""

    def __init__(self, events: loop.Loop, fd: int, then: Callable[[], None]) -> None:
        self._loop = events
        self._fd = fd
        self._then = then
        events.watch(self, self._over)
        self._timer = events.after(_PATIENCE, self._over)

    def fileno(self) -> int:
        """Return the descriptor, which becomes readable when the pipe has no writer."""
        return self._fd

    def _over(self) -> None:
        self._loop.cancel(self._timer)
        self._loop.forget(self)
        os.close(self._fd)
        self._then()


def watchdog_seconds() -> float | None:
    """Return the watchdog limit of this process in seconds, or None (sd_watchdog_enabled(3))."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 1_000_000 if text.isascii() and text.isdigit() and int(text) > 0 else None
