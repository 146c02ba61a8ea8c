"""Runs the worker process of one service: takes its assignment, serves, and stops when told to.

The supervisor forks it, and it has the service's identity before it reads anything. It ends at once when the
supervisor is gone. Its programs live on.

An assignment takes two steps. `prepare` does everything that can fail, while connections are served as
before. `commit` makes it take effect.
"""

import errno
import functools
import os
import signal
from typing import Final

from tcpdconf.daemon.messages import wire
from tcpdconf.daemon.messages import worker as messages
from tcpdconf.daemon.messages.assignment import Assignment, Failure
from tcpdconf.daemon.process import background_thread, channel, log, loop, procfs, signals
from tcpdconf.daemon.worker import books, ledger
from tcpdconf.daemon.worker.connections import Connections
from tcpdconf.daemon.worker.serving import ServingBuilder
from tcpdconf.policy import connection

_FAILURES: Final = 20  # most failures in a message, which has a limit
_LOOK: Final = 0.2  # seconds between two checks whether a worker that accepts no more is idle


def main(post: channel.Channel) -> int:
    """Serve until the supervisor says stop or is gone; return the exit status."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):  # only the supervisor stops a worker
        signal.signal(number, signal.SIG_IGN)
    try:
        return _Worker(post).run()
    finally:
        log.gather(None)


class _Worker:
    """Serves one service as the supervisor's messages say."""

    def __init__(self, post: channel.Channel) -> None:
        self._post = post
        self._loop = loop.Loop()
        self._arrived = signals.Signals((signal.SIGCHLD,))
        self._server: Connections | None = None
        self._built: ServingBuilder | None = None  # the assignment that is served
        self._prepared: ServingBuilder | None = None
        self._wanted = 0  # number of the preparation that is still wanted, or 0
        self._relay: books.RelayedBooks | None = None  # set once this worker is retired
        self._stopping = False
        self._status = 0

    def run(self) -> int:
        """Serve; return the exit status."""
        log.gather(self._loop.soon)
        self._loop.watch(self._arrived, self._children)
        self._loop.watch(self._post, self._messages)
        self._loop.run()
        return self._status

    def _messages(self) -> None:
        try:
            while (received := self._post.receive()) is not None:
                data, fds = received
                self._obey(wire.parsed(data, messages.TO_WORKER), fds)
        except channel.LostError as lost:
            self._miss_descriptors(wire.parsed(lost.data, messages.TO_WORKER))
        except channel.ChannelError:
            self._end()

    def _obey(self, message: messages.ToWorker, fds: list[int]) -> None:
        match message:
            case messages.Prepare(number):
                self._prepare(number, fds)
            case messages.Commit(workers) if self._prepared is not None:
                self._commit(self._prepared, workers)
            case messages.Discard():
                self._discard()
            case messages.Try(number):
                self._try(number, fds)
            case messages.Ping():
                self._send(messages.Pong())
            case messages.Stop(drain, seconds):
                self._stop(drain, seconds)
            case _ if self._server is not None:
                self._hear(self._server, message)
            case messages.Retire():
                self._end()

    def _hear(self, serving: Connections, message: messages.ToWorker) -> None:
        """Handle a message that only a worker which serves gets."""
        match message:
            case messages.Gone(ended):
                for pid, start, status in ended:
                    serving.children.adopted_ended(pid, start, status)
            case messages.Relayed(entries):
                for entry in entries:
                    _take_on(serving, entry)
            case messages.Recount():
                serving.children.recount()
            case messages.Retell() if self._relay is not None:
                for held in serving.children.running:
                    self._relay.tell(held)
            case messages.Retire(kept):
                self._retire(serving, kept)
            case messages.Report():
                self._report()
        self._end_when_idle()

    def _prepare(self, number: int, fds: list[int]) -> None:
        self._discard()
        self._wanted = number
        try:
            task = wire.unpickled(fds[0], Assignment)
        except OSError as error:
            channel.close_all(fds)
            self._lack(number, str(error))
            return
        os.close(fds[0])
        found = ServingBuilder(task, fds[1:], self._built)
        done = functools.partial(self._read, number, found)
        if self._server is None:  # no connection has to wait meanwhile
            found.read()
            done()
            return
        try:
            background_thread.run(self._loop, found.read, done)
        except (OSError, RuntimeError) as error:  # threads count as processes (RLIMIT_NPROC)
            found.close()
            self._lack(number, str(error))

    def _read(self, number: int, found: ServingBuilder) -> None:
        """Report whether the assignment can be served, if it is still wanted."""
        if found.complete and number == self._wanted:
            self._prepared = found
            self._send(messages.Prepared(number))
            return
        found.close()
        if number == self._wanted:
            self._fail(number, found.failures[:_FAILURES])

    def _miss_descriptors(self, message: messages.ToWorker) -> None:
        """Report that the assignment cannot be prepared, because its descriptors could not be received."""
        if isinstance(message, messages.Prepare | messages.Try):
            self._lack(message.number, os.strerror(errno.EMFILE))

    def _lack(self, number: int, what: str) -> None:
        """Report that the assignment cannot be prepared, because a resource has run out."""
        self._fail(number, [Failure((), f"its worker cannot prepare: {what}")])

    def _fail(self, number: int, failures: list[Failure]) -> None:
        self._send(messages.Failed(number, tuple(failures)))
        if self._server is None:
            self._end(1)

    def _commit(self, found: ServingBuilder, workers: tuple[int, ...]) -> None:
        log.set_level(found.task.config.daemon.log_level)
        held = found.ledger()
        if self._server is None:
            most = found.task.service.limits.max_connections
            lineage = procfs.Lineage(os.getppid(), workers)
            self._server = Connections(found.task.name, self._loop, ledger.Ledger(held, most), lineage)
        else:
            os.close(held)
        before, self._built, self._prepared = self._built, found, None
        self._server.serve(found.serving(self._loop), found.listeners(), found.listeners("inherited"))
        if before is not None:
            before.retire(found)
        self._send(messages.Committed(self._wanted))

    def _discard(self) -> None:
        self._wanted = 0
        if self._prepared is not None:
            self._prepared.close()
            self._prepared = None

    def _try(self, number: int, fds: list[int]) -> None:
        """Report whether the service could be served, and what its DNS lists answer; serve nothing."""
        found = ServingBuilder(wire.unpickled(fds[0], Assignment), fds[1:])
        log.set_level("error")  # the result of testing a list is reported, not logged
        found.read()
        found.try_program()
        asked = None if found.failures else found.asking(self._loop)
        if asked is None:
            self._tried(number, found.failures, [])
        else:
            asked.probe(functools.partial(self._tried, number, found.failures))

    def _tried(self, number: int, failures: list[Failure], lists: list[dict[str, str]]) -> None:
        self._send(messages.TryResult(number, tuple(failures), tuple(lists)))
        self._end()

    def _report(self) -> None:
        """Report the health of DNS lists and of host name lookups."""
        asked = None if self._built is None else self._built.lookups
        names = None if asked is None else asked.names_status()
        try:
            self._send(messages.Reported({} if asked is None else asked.status(), names))
        except channel.ChannelError:  # too many lists for one message
            self._send(messages.Reported({}, names))

    def _retire(self, serving: Connections, kept: tuple[int, ...]) -> None:
        """Leave new connections to another worker, and end when the last program of this one has."""
        self._relay = books.RelayedBooks(self._loop, self._post)
        serving.retire(self._relay, kept)
        self._send(messages.Retired())
        self._look()

    def _look(self) -> None:
        assert self._server is not None  # noqa: S101 (only a worker that has served gets here)
        if self._server.busy:
            self._loop.after(_LOOK, self._look)
        else:
            self._end()

    def _stop(self, drain: float, seconds: float) -> None:
        """Stop accepting; terminate programs after `drain` seconds, end `seconds` later or once idle."""
        self._stopping = True
        if self._server is not None and drain:
            self._server.drain()
            self._look()
        elif self._server is not None:
            self._server.close()
        self._send(messages.Stopped())
        self._loop.after(drain, functools.partial(self._terminate, seconds))
        self._end_when_idle()

    def _terminate(self, seconds: float) -> None:
        if self._server is not None:
            self._server.close()
            self._server.children.terminate()
        self._loop.after(seconds, self._end)

    def _children(self) -> None:
        self._arrived.take()
        if self._server is not None:
            self._server.children.reap()
        self._end_when_idle()

    def _end_when_idle(self) -> None:
        if self._stopping and (self._server is None or not self._server.busy):
            self._end()

    def _send(self, message: messages.FromWorker) -> None:
        self._post.send(wire.written(message))

    def _end(self, status: int = 0) -> None:
        self._status = status
        if self._relay is not None:
            self._relay.flush()
        self._loop.stop()


def _take_on(serving: Connections, entry: messages.Adopt | messages.Released | messages.Counted) -> None:
    """Apply an entry of a retired worker, which the supervisor has verified."""
    match entry:
        case messages.Adopt(program, start):
            peer = connection.endpoint(program.version, program.value, program.port)
            serving.adopt(program.pid, peer, program.started, start)
        case messages.Released(pid, started):
            serving.children.adopted_released(pid, started)
        case messages.Counted(name):
            serving.count(name)
