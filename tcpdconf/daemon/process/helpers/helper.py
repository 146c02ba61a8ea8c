"""Keeps a helper process of the supervisor running, and replaces or ends it."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Final

from tcpdconf.daemon.process import channel, child, log, loop
from tcpdconf.daemon.process.helpers.child_channel import ChildChannel

_AT_ONCE: Final = 16  # messages read in one turn
_LOOK: Final = 0.005  # seconds between two looks for the exit of a process


class Helper:
    """Keeps one process running from `begin` to `end`: it is started again when it exits (`child.Child`).

    `start` forks it and returns its pid.
    """

    def __init__(self, events: loop.Loop, name: str, start: Callable[[], int]) -> None:
        self.name: Final = name
        self._loop: Final = events
        self._start: Final = start
        self._process: child.Child | None = None
        self._killed: set[int] = set()  # processes that were replaced and have not been waited for

    @property
    def wanted(self) -> bool:
        """True from `begin` to `end`, even while it is being started again."""
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """The pid of the process, or None if it does not run."""
        return None if self._process is None else self._process.pid

    @property
    def failures(self) -> int:
        """The number of exits and failed starts since `begin`."""
        return 0 if self._process is None else self._process.failures

    def begin(self) -> None:
        """Start a process."""
        self._process = child.Child(self._loop, self.name, self._start)
        self._process.start()

    def end(self) -> None:
        """Kill the process, if there is one."""
        former, self._process = self._process, None
        self._disconnect()
        if former is None:
            return
        former.finish()
        if former.pid is not None:
            os.kill(former.pid, signal.SIGKILL)
            self._killed.add(former.pid)

    def renew(self) -> None:
        """Replace the process, if there is one, by one that logs as this process does now."""
        if self.wanted:
            self.end()
            self.begin()

    def kill(self) -> None:
        """Kill a process that misbehaves; a new one is started."""
        self._disconnect()
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)

    def ended(self, pid: int, status: int) -> bool:
        """Record the exit of a process; return True if it was this one, or one that it has replaced."""
        if pid in self._killed:
            self._killed.discard(pid)
            return True
        if self._process is None or self._process.pid != pid:
            return False
        self._disconnect()
        self._process.ended(status)
        return True

    def close(self, seconds: float = 0.0) -> None:
        """End the process and wait for its exit; it has so many seconds to exit by itself."""
        if self._process is not None and self._process.pid is not None:
            self._process.finish()
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                if os.waitpid(self._process.pid, os.WNOHANG)[0]:
                    self._process.pid = None
                    break
                time.sleep(_LOOK)
        self.end()
        for pid in self._killed:
            os.waitpid(pid, 0)
        self._killed.clear()

    def _disconnect(self) -> None:
        """Close what leads to the process."""


class ConnectedHelper(Helper):
    """Keeps a process with a channel to it, to which workers get channels of their own.

    `start` calls `fork`. `heard` is called with each message of the process; a ChannelError from it means
    that the process misbehaves. `disconnected` is called when the channel was closed. `title` is the name of
    the process in a sentence.
    """

    def __init__(
        self,
        events: loop.Loop,
        name: str,
        title: str,
        start: Callable[[], int],
        *,
        heard: Callable[[bytes], None],
        disconnected: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(events, name, start)
        self._title: Final = title
        self._heard: Final = heard
        self._disconnected: Final = disconnected
        self._channel: Final = ChildChannel(events, self._read)

    @property
    def connected(self) -> bool:
        """True while there is a channel to a process."""
        return self._channel.end is not None

    def fork(self, run: Callable[[channel.Channel], int]) -> int:
        """Fork a process that calls `run` with its end of the channel; return its pid.

        Raises:
            OSError: no process or descriptor is available.
        """
        return self._channel.fork(run)

    def tell(self, message: bytes, fds: Sequence[int] = ()) -> None:
        """Send a message, unless there is no process; a process that does not read is killed."""
        if self._channel.end is None:
            return
        try:
            self._channel.end.send(message, fds)
        except channel.ChannelError as error:
            self._give_up(error)

    def attach(self, message: bytes, service: str) -> int | None:
        """Send `message` with one end of a new channel; return the other one, which the caller closes.

        Return None if there is no process, or no descriptor is available.
        """
        if not self.connected:
            return None
        try:
            ours, theirs = channel.Channel.pair()
        except OSError as error:
            log.error(f"cannot make a channel to {self._title}: {error.strerror}", service=service)
            return None
        fd = ours.detach()
        try:
            self.tell(message, [fd])
        finally:
            os.close(fd)
        return theirs.detach()

    def _read(self) -> None:
        try:
            for _ in range(_AT_ONCE):
                received = self._channel.receive()
                if received is None:
                    return
                self._heard(received[0])
        except channel.ChannelError as error:
            self._give_up(error)

    def _give_up(self, error: channel.ChannelError) -> None:
        log.debug(f"channel to {self.name}: {error}")
        self.kill()

    def _disconnect(self) -> None:
        self._channel.close()
        self._disconnected()
