"""A worker process as the supervisor sees it: its pid, and the channel to it."""

import os
import signal
from collections.abc import Callable, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

from tcpdconf.config import host
from tcpdconf.daemon.messages import wire
from tcpdconf.daemon.messages import worker as worker_messages
from tcpdconf.daemon.messages.assignment import Failure
from tcpdconf.daemon.messages.worker import FromWorker, Ping, Pong, Reported, ToWorker, TryResult
from tcpdconf.daemon.process import channel, child, log, loop, privileges
from tcpdconf.daemon.worker import main as worker

_AT_ONCE: Final = 16  # messages of a worker that are read before others get their turn, or the work of
_ENOUGH: Final = 200  # messages: a large one is the work of many
_UNIT: Final = 250  # bytes
_LEFT: Final = 100  # times as many that it can have left behind; a process that it has started may go on
# A worker answers; only one that is replaced says more, of the connections that it still has.
_BURST: Final = 20_000  # messages' work
_STEADY: Final = 500.0  # a second

Observed = TypeVar("Observed")
Heard = Callable[["WorkerProcess", FromWorker], None]


class Observer(Generic[Observed]):
    """Who is told what becomes of services (`ManagedService`).

    Each method does nothing unless a subclass says more.
    """

    def prepared(self, each: Observed) -> None:
        """Take note that it can be served with what was asked for."""

    def failed(self, each: Observed, failures: Sequence[Failure]) -> None:
        """Take note that it cannot be served with what was asked for, and why."""

    def serves(self, each: Observed, *, first: bool) -> None:
        """Take note that its worker serves: the `first` time, or with something else than before."""

    def broken(self, each: Observed, failures: Sequence[Failure]) -> None:
        """Take note that no worker can be started again, and why."""

    def stopped(self, each: Observed) -> None:
        """Take note that it accepts no more, or that its worker has ended."""

    def tried(self, each: Observed, result: TryResult) -> None:
        """Take note of what trying it has come to."""

    def reported(self, each: Observed, report: Reported) -> None:
        """Take note of how its lists and names are, as its worker says."""


class ProcessSettings(NamedTuple):
    """What a worker is once and for all."""

    identity: host.Identity
    directory: str
    umask: int | None


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

    def tell(self, message: ToWorker, fds: Sequence[int] = ()) -> None:
        """Send it a message; one that has ended, or does not read, is told nothing any more."""
        if self._post is None:
            return
        try:
            self._post.send(wire.written(message), fds)
        except channel.ChannelError as error:
            self._give_up(error)

    def ping(self) -> None:
        """Ask it whether it is well."""
        self.missed += 1
        self.tell(Ping())

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
                data, _ = received
                self.charge(1 + len(data) // _UNIT)
                message = wire.parsed(data, worker_messages.FROM_WORKER)
                if isinstance(message, Pong):
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
