"""Word to the service manager (sd_notify(3)), when there is one; and sockets, for its store.

Nothing here waits: what the manager does not take at once is sent again, in order, until it does.
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
_PATIENCE: Final = 5.0  # seconds for which a barrier is waited for, as sd_notify_barrier(3) recommends
_MOST: Final = 1000  # messages that wait
_FULL: Final = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})


class _Message(NamedTuple):
    """A message with descriptors of its own; a later `state` makes an earlier one that waits pointless."""

    text: str
    fds: list[int]
    state: bool


class Notifier:
    """Sends messages to NOTIFY_SOCKET, read once; does nothing without it."""

    def __init__(self, events: loop.Loop) -> None:
        self._loop = events
        self._socket: socket.socket | None = None
        if os.environ.get("NOTIFY_SOCKET"):
            self._socket = sdnotify.SystemdNotifier().socket
        self._waiting: collections.deque[_Message] = collections.deque()
        self._pausing = False  # until the manager is tried again
        if self._socket is not None:
            self._socket.setblocking(False)

    def close(self) -> None:
        """Say no more, and forget what waits."""
        while self._waiting:
            channel.close_all(self._waiting.popleft().fds)
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ready(self, status: str) -> None:
        """Say that every worker accepts."""
        self._say_state(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """Say that the daemon has begun to take on its configuration again; `ready` ends that."""
        self._say_state(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Say that the daemon has begun to stop."""
        self._say_state("STOPPING=1\nSTATUS=stopping")

    def store(self, name: str, end: socket.socket) -> None:
        """Let the service manager keep a socket, to pass it on when this daemon is started again."""
        self._say(f"FDSTORE=1\nFDNAME={name}", end.fileno())

    def forget(self, name: str) -> None:
        """Let it close what it keeps under this name."""
        self._say(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def barrier(self, then: Callable[[], None]) -> None:
        """Call `then` when everything said so far has been done, or the manager has had its time.

        The manager closes the descriptor that comes with the message (sd_notify_barrier(3)).
        """
        if self._socket is None:
            then()
            return
        try:
            read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:  # without a descriptor nobody can be waited for
            then()
            return
        _Barrier(self._loop, read, then)
        try:
            self._say("BARRIER=1", write)
        finally:
            os.close(write)

    def watchdog(self) -> None:
        """Say that the daemon is alive; what the manager has no time to hear now is no news later."""
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
        except OSError:  # the store does without: a restart binds the socket again
            return
        self._waiting.append(_Message(text, own, state))
        if len(self._waiting) > _MOST:
            channel.close_all(self._waiting.popleft().fds)
        if not self._pausing:
            self._send()

    def _send(self) -> None:
        """Send what waits, as far as the manager takes it."""
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
                # as sd_notify(3) recommends: nobody there is no reason not to go on
            self._waiting.popleft()
            channel.close_all(message.fds)


class _Barrier:
    """The reading end of a pipe, until nobody has the other one."""

    def __init__(self, events: loop.Loop, fd: int, then: Callable[[], None]) -> None:
        self._loop = events
        self._fd = fd
        self._then = then
        events.watch(self, self._over)
        self._timer = events.after(_PATIENCE, self._over)

    def fileno(self) -> int:
        """Readable at the end of the pipe."""
        return self._fd

    def _over(self) -> None:
        self._loop.cancel(self._timer)
        self._loop.forget(self)
        os.close(self._fd)
        self._then()


def watchdog_seconds() -> float | None:
    """How often WATCHDOG is expected of this process, or None (sd_watchdog_enabled(3))."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 1_000_000 if text.isascii() and text.isdigit() and int(text) > 0 else None
