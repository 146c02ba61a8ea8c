"""Forks a worker process, exchanges messages with it, and kills it if it misbehaves."""

import os
import signal
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from tcpdconf.daemon.messages import wire
from tcpdconf.daemon.messages import worker as worker_messages
from tcpdconf.daemon.messages.assignment import Failure
from tcpdconf.daemon.messages.worker import FromWorker, Ping, Pong, Report, Reported, ToWorker, TryResult
from tcpdconf.daemon.process import channel, log, loop
from tcpdconf.daemon.process.helpers.child_channel import ChildChannel
from tcpdconf.daemon.supervisor import process_settings
from tcpdconf.daemon.supervisor.process_settings import ProcessSettings
from tcpdconf.daemon.worker import main as worker

_AT_ONCE: Final = 16  # most messages read from a worker in one turn
_ENOUGH: Final = 200  # units of work after which a turn ends
_UNIT: Final = 250  # bytes of a message that count as one unit of work
_LEFT: Final = 100  # most turns to read an ended worker's messages; a program of it might send for ever
# Workers mostly send answers. Only a retired worker sends more, about the connections that it still has.
_BURST: Final = 20_000  # units of work that a worker may cause at once
_STEADY: Final = 500.0  # units a second
_ASKED: Final = 1 + channel.LARGEST // _UNIT  # units of a report, which are granted when it is asked for

Observed = TypeVar("Observed")
Heard = Callable[["WorkerProcess", FromWorker], None]


class Observer(Generic[Observed]):
    """Receives the events of services (`ManagedService`).

    Each method does nothing unless a subclass overrides it.
    """

    def prepared(self, each: Observed) -> None:
        """Handle a service that has prepared the requested setup."""

    def failed(self, each: Observed, failures: Sequence[Failure]) -> None:
        """Handle a service that cannot be served with the requested setup; `failures` say why."""

    def serves(self, each: Observed, *, first: bool) -> None:
        """Handle a service whose worker serves, for the `first` time or with a new setup."""

    def broken(self, each: Observed, failures: Sequence[Failure]) -> None:
        """Handle a service whose worker cannot be restarted now; `failures` say why."""

    def stopped(self, each: Observed) -> None:
        """Handle a service that no longer accepts, or whose worker has ended."""

    def tried(self, each: Observed, result: TryResult) -> None:
        """Handle the result of trying a service."""

    def reported(self, each: Observed, report: Reported) -> None:
        """Handle a worker's report of its lists, names, penalties and refused addresses."""


class WorkerProcess:
    """Runs one worker, from its fork to its exit. `heard` is called with each message that it sends.

    The supervisor does not trust a worker: it kills one that sends malformed messages, or too many.

    Raises:
        OSError: no process or descriptor is available.
    """

    def __init__(self, events: loop.Loop, name: str, settings: ProcessSettings, heard: Heard) -> None:
        self.name = name
        self.serves = False  # stays True when it is replaced
        self.missed = 0  # pings since its last answer
        self._over = False
        self._settings = settings
        self._heard = heard
        self._left = float(_BURST)
        self._done = 0
        self._read_at = loop.now()
        self._channel = ChildChannel(events, self._receive)
        self.pid = self._channel.fork(self._serve)

    def tell(self, message: ToWorker, fds: Sequence[int] = ()) -> None:
        """Send a message; drop it if the worker has ended, and kill a worker that does not read."""
        if self._channel.end is None:
            return
        if isinstance(message, Report):
            self._left += _ASKED
        try:
            self._channel.end.send(wire.written(message), fds)
        except channel.ChannelError as error:
            self._give_up(error)

    def ping(self) -> None:
        """Send a ping, and count it as missed until an answer comes."""
        self.missed += 1
        self.tell(Ping())

    def forgive(self) -> None:
        """Reset the count of missed pings."""
        self.missed = 0

    def kill(self) -> None:
        """Kill the worker; its programs continue."""
        if not self._over:
            os.kill(self.pid, signal.SIGKILL)

    def ended(self) -> None:
        """Handle the exit of the worker, after waitpid(2); messages that it sent before still count."""
        self._over = True
        try:
            for _ in range(_LEFT):
                if not self._receive():
                    break
        finally:
            self._channel.close()

    def _serve(self, post: channel.Channel) -> int:
        os.setpgid(0, 0)  # the programs stay in this group, so that one call signals them all
        return worker.main(post, process_settings.apply(self._settings))

    def _receive(self) -> bool:
        """Read some messages; return whether there may be more."""
        self._done = 0
        try:
            for _ in range(_AT_ONCE):
                if self._done > _ENOUGH:
                    break
                received = self._channel.receive()
                if received is None:
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
        """Charge the worker for some units of work; a unit is the work of one small message.

        Raises:
            ChannelError: the worker sends too much.
        """
        now = loop.now()
        self._done += messages
        self._left = min(_BURST, self._left + (now - self._read_at) * _STEADY) - messages
        self._read_at = now
        if self._left < 0:
            raise channel.ChannelError("messages without end")

    def _give_up(self, error: channel.ChannelError) -> None:
        """Kill the worker: its channel is closed, or it misbehaves."""
        log.debug(f"channel to {self.name}: {error}")
        self.kill()  # first, or the worker sees the closed channel and exits normally
        self._channel.close()
