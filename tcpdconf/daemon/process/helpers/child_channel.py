"""Forks a process with a channel to it."""

from collections.abc import Callable
from typing import Final

from tcpdconf.daemon.process import channel, child, loop


class ChildChannel:
    """Holds this process's end of a channel to a process that it has forked, from `fork` until `close`.

    `readable` is called when a message may have come. Only a child that `sends_descriptors` may do so.
    """

    def __init__(
        self, events: loop.Loop, readable: Callable[[], object], *, sends_descriptors: bool = False
    ) -> None:
        self.end: channel.Channel | None = None
        self._loop: Final = events
        self._readable: Final = readable
        self._sends_descriptors: Final = sends_descriptors

    def fork(self, run: Callable[[channel.Channel], int]) -> int:
        """Fork a process that calls `run` with the other end of a new channel; return its pid.

        The channel to the process before is closed.

        Raises:
            OSError: no process or descriptor is available.
        """
        self.close()
        ours, theirs = channel.Channel.pair()
        if not self._sends_descriptors:
            ours.refuse_descriptors()
        try:
            pid = child.fork(lambda: run(theirs), {theirs.fileno()})
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self.end = ours
        self._loop.watch(ours, self._readable)
        return pid

    def receive(self) -> tuple[bytes, list[int]] | None:
        """Return the next message and its descriptors, or None if none is complete, or there is no channel.

        Raises:
            ChannelError: as `Channel.receive`.
        """
        return None if self.end is None else self.end.receive()

    def close(self) -> None:
        """Close the channel, if there is one."""
        if self.end is not None:
            self._loop.forget(self.end)
            self.end.close()
            self.end = None
