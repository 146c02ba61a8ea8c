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
from collections.abc import Sequence
from typing import Final

from tcpdconf.daemon.guard import ban_table
from tcpdconf.daemon.messages import wire
from tcpdconf.daemon.messages import worker as messages
from tcpdconf.daemon.messages.assignment import Assignment, Failure
from tcpdconf.daemon.process import background_thread, channel, log, loop, procfs, signals
from tcpdconf.daemon.worker import books, ledger
from tcpdconf.daemon.worker.connections import Connections
from tcpdconf.daemon.worker.serving import ServingBuilder
from tcpdconf.policy import connection

_FAILURES: Final = 20  # most failures in a message, which has a limit
_RETRY: Final = 1.0  # seconds before a channel that could not be received is asked for again
_CHECK: Final = 0.2  # seconds between two checks whether a worker that accepts no more is idle


def main(post: channel.Channel, unmet: Sequence[Failure] = ()) -> int:
    """Serve until the supervisor says stop or is gone; return the exit status.

    `unmet` says which settings of this process could not be applied: it then reports that it cannot serve.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):  # only the supervisor stops a worker
        signal.signal(number, signal.SIG_IGN)
    try:
        return _Worker(post, unmet).run()
    finally:
        log.gather(None)
        log.leave_journal()


class _Worker:
    """Serves one service as the supervisor's messages say."""

    def __init__(self, post: channel.Channel, unmet: Sequence[Failure]) -> None:
        self._post = post
        self._unmet = unmet
        self._loop = loop.Loop()
        self._arrived = signals.Signals((signal.SIGCHLD,))
        self._server: Connections | None = None
        self._built: ServingBuilder | None = None  # the assignment that is served
        self._prepared: ServingBuilder | None = None
        self._bans: ban_table.Reader | None = None
        self._link: int | None = None  # a channel to the cluster process, until something is served
        self._wanted = 0  # number of the preparation that is still wanted, or 0
        self._relay: books.RelayedBooks | None = None  # set once this worker is retired
        self._leaving = False  # True once this worker accepts no more and ends with its last connection
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
                self._handle(wire.parsed(data, messages.TO_WORKER), fds)
        except channel.LostError as lost:
            message = wire.parsed(lost.data, messages.TO_WORKER)
            if isinstance(message, messages.Prepare | messages.Try):
                self._lack(message.number, os.strerror(errno.EMFILE))
            elif isinstance(message, messages.BanTable):  # a successor gets the bans from the start
                self._end(1)
            elif isinstance(message, messages.ClusterLink):
                self._loop.after(_RETRY, lambda: self._send(messages.ClusterLost()))
        except channel.ChannelError:
            self._end()

    def _handle(self, message: messages.ToWorker, fds: list[int]) -> None:  # noqa: C901 (a case for each)
        match message:
            case messages.Prepare(number):
                self._prepare(number, fds)
            case messages.Commit(workers) if self._prepared is not None:
                self._commit(self._prepared, workers)
            case messages.Discard():
                self._discard()
            case messages.Try(number):
                self._try(number, fds)
            case messages.Ping() | messages.Report():
                self._answer(message)
            case messages.BanTable() | messages.LogFile():
                self._take_file(message, fds)
            case messages.ClusterLink():
                self._take_link(fds)
            case messages.Stop(drain, seconds):
                self._stop(drain, seconds)
            case _ if self._server is not None:
                self._handle_serving(self._server, message)
            case messages.Retire():
                self._end()

    def _answer(self, message: messages.Ping | messages.Report) -> None:
        """Report, or answer a ping, which also is the time to record what this process uses."""
        if isinstance(message, messages.Report):
            self._report(message.about)
            return
        self._send(messages.Pong())
        if self._server is not None:
            self._server.measure_itself()

    def _take_file(self, message: messages.BanTable | messages.LogFile, fds: list[int]) -> None:
        """Refuse clients by another table of banned networks, or write to another standard error.

        Programs that are started from now on have that standard error too.
        """
        (fd,) = fds
        try:
            if isinstance(message, messages.LogFile):
                log.redirect(fd)
            else:
                self._bans = ban_table.Reader(fd)
        finally:
            os.close(fd)
        if self._server is not None:
            self._server.bans = self._bans

    def _take_link(self, fds: list[int]) -> None:
        """Speak with the cluster process through another channel; keep it if nothing is served yet."""
        (fd,) = fds
        if self._server is not None:
            self._server.link(fd)
            return
        if self._link is not None:
            os.close(self._link)
        self._link = fd

    def _handle_serving(self, serving: Connections, message: messages.ToWorker) -> None:
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
            case messages.Leave():
                serving.leave()
                self._leave()
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
        found.failures.extend(self._unmet)
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

    def _lack(self, number: int, what: str) -> None:
        """Report that the assignment cannot be prepared, because a resource has run out."""
        self._fail(number, [Failure((), f"its worker cannot prepare: {what}")])

    def _fail(self, number: int, failures: list[Failure]) -> None:
        self._send(messages.Failed(number, tuple(failures)))
        if self._server is None:
            self._end(1)

    def _commit(self, found: ServingBuilder, workers: tuple[int, ...]) -> None:
        daemon = found.task.config.daemon
        log.set_level(found.task.service.log_level or daemon.log_level)
        log.set_format("plain" if found.task.ways.plain_log else daemon.log_format, self._loop.after)
        held = found.ledger()
        if self._server is None:
            most = found.task.service.limits.max_connections
            lineage = procfs.Lineage(os.getppid(), workers)
            try:
                kept = ledger.Ledger(held, most)
            except ledger.LedgerError as error:
                log.error(str(error), service=found.task.name)
                self._end(1)
                return
            self._server = Connections(found.task.name, self._loop, kept, lineage)
            self._server.bans = self._bans
            self._server.link_lost = lambda: self._send(messages.ClusterLost())
            if self._link is not None:
                fd, self._link = self._link, None
                self._server.link(fd)
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
        found.failures.extend(self._unmet)
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

    def _report(self, about: Sequence[messages.Address]) -> None:
        """Report the health of DNS lists and of host name lookups, the penalties, and who is refused."""
        asked = None if self._built is None else self._built.lookups
        names = None if asked is None else asked.names_status()
        penalties = None if self._server is None else self._server.offences.status(about)
        refused = () if self._server is None else self._server.refusals.addresses()
        try:
            self._send(messages.Reported({} if asked is None else asked.status(), names, penalties, refused))
        except channel.ChannelError:  # too many lists for one message
            self._send(messages.Reported({}, names, penalties, refused))

    def _retire(self, serving: Connections, kept: tuple[int, ...]) -> None:
        """Leave new connections to another worker, and end when the last program of this one has."""
        self._relay = books.RelayedBooks(self._loop, self._post)
        serving.retire(self._relay, kept)
        self._send(messages.Retired())
        self._leave()

    def _stop(self, drain: float, seconds: float) -> None:
        """Stop accepting; terminate programs after `drain` seconds, end `seconds` later or once idle."""
        if self._server is not None and drain:
            self._server.drain()
        elif self._server is not None:
            self._server.close()
        self._send(messages.Stopped())
        self._loop.after(drain, functools.partial(self._terminate, seconds))
        self._leave()

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

    def _leave(self) -> None:
        """End once idle. A message or the end of a program may show it; for all else, look now and then."""
        self._leaving = True
        self._end_when_idle()
        self._loop.after(_CHECK, self._leave)

    def _end_when_idle(self) -> None:
        if self._leaving and (self._server is None or not self._server.busy):
            self._end()

    def _send(self, message: messages.FromWorker) -> None:
        self._post.send(wire.written(message))

    def _end(self, status: int = 0) -> None:
        self._status = status
        if self._relay is not None:
            self._relay.flush()
        if self._server is not None:
            self._server.log_suppressed()
        self._loop.stop()


def _take_on(
    serving: Connections, entry: messages.Adopt | messages.Released | messages.Counted | messages.Observed
) -> None:
    """Apply an entry of a retired worker, which the supervisor has verified."""
    match entry:
        case messages.Adopt(program, start):
            peer = connection.endpoint(program.version, program.value, program.port)
            until = ledger.NEVER if program.until is None else program.until
            serving.adopt(program.pid, peer, program.started, start, until)
        case messages.Released(pid, started):
            serving.children.adopted_released(pid, started)
        case messages.Counted(name):
            serving.count(name)
        case messages.Observed(measure, seconds):
            serving.observe(measure, seconds)
