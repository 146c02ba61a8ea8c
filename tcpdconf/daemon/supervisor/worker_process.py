"""A worker process as the supervisor sees it: its pid, and the channel to it."""

import os
import signal
from collections.abc import Callable
from typing import Any, Final

from tcpdconf.config import host
from tcpdconf.daemon.process import channel, child, log, loop, privileges
from tcpdconf.daemon.worker import main as worker

_AT_ONCE: Final = 16  # messages of a worker that are read before others get their turn, or the work of
_ENOUGH: Final = 200  # messages: a large one is the work of many
_UNIT: Final = 250  # bytes
_LEFT: Final = 100  # times as many that it can have left behind; a process that it has started may go on
# A worker answers; only one that is replaced says more, of the connections that it still has.
_BURST: Final = 20_000  # messages' work
_STEADY: Final = 500.0  # a second

Heard = Callable[["WorkerProcess", dict[str, Any]], None]


class WorkerProcess:
    """One worker, from its fork to its end. `heard` is called with each message that it sends.

    What it sends is not believed: a message that is none ends it, and so do messages without end.

    Raises:
        OSError: no process is to be had.
    """

    def __init__(self, events: loop.Loop, name: str, identity: host.Identity, heard: Heard) -> None:
        self.name = name
        self.number = 0  # of its latest preparation
        self.serves = False  # or has served, if it is being replaced
        self.missed = 0  # pings since its last answer
        self._over = False
        self._loop = events
        self._identity = identity
        self._heard = heard
        self._left = float(_BURST)
        self._done = 0
        self._read_at = loop.now()
        ours, theirs = channel.Channel.pair()
        ours.refuse_descriptors()
        try:
            self.pid = child.fork(lambda: self._work(theirs), {theirs.fileno()})
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._post: channel.Channel | None = ours
        events.watch(ours, self._readable)

    def tell(self, kind: str, fds: list[int] | tuple[()] = (), **content: object) -> None:
        """Send it a message; one that has ended, or does not read, is told nothing any more."""
        if self._post is None:
            return
        try:
            self._post.send(kind, fds, **content)
        except channel.ChannelError as error:
            self._give_up(error)

    def ping(self) -> None:
        """Ask it whether it is well."""
        self.missed += 1
        self.tell("ping")

    def forgive(self) -> None:
        """Count missed pings from the beginning."""
        self.missed = 0

    def kill(self) -> None:
        """End it at once; its programs live on."""
        if not self._over:
            os.kill(self.pid, signal.SIGKILL)

    def ended(self) -> None:
        """Take note of its end, which has been waited for: what it has said before still counts."""
        self._over = True
        try:
            for _ in range(_LEFT):
                if not self._listen():
                    break
        finally:
            self._drop_post()

    def _work(self, post: channel.Channel) -> int:
        os.setpgid(0, 0)  # the programs stay in this group, so that all of them can be signalled
        privileges.become(self._identity)
        return worker.main(post)

    def _readable(self) -> None:
        self._listen()

    def _listen(self) -> bool:
        """Read some messages; whether there may be more."""
        self._done = 0
        try:
            for _ in range(_AT_ONCE):
                if self._done > _ENOUGH:
                    break
                received = self._post.receive() if self._post is not None else None
                if self._post is None or received is None:
                    return False
                self.charge(1 + self._post.size // _UNIT)
                message, _ = received
                if message["kind"] == "pong":
                    self.forgive()
                else:
                    self._heard(self, message)
        except channel.ChannelError as error:
            self._give_up(error)
            return False
        return True

    def charge(self, messages: int) -> None:
        """Count what it has sent as the work of so many messages.

        Raises:
            ChannelError: it sends without end.
        """
        now = loop.now()
        self._done += messages
        self._left = min(_BURST, self._left + (now - self._read_at) * _STEADY) - messages
        self._read_at = now
        if self._left < 0:
            raise channel.ChannelError("messages without end")

    def _give_up(self, error: channel.ChannelError) -> None:
        """The worker has ended, or it is not to be trusted; either way it must not go on."""
        log.debug(f"channel to {self.name}: {error}")
        self.kill()  # before it sees that the channel is closed, and ends as if nothing were wrong
        self._drop_post()

    def _drop_post(self) -> None:
        if self._post is not None:
            self._loop.forget(self._post)
            self._post.close()
            self._post = None
