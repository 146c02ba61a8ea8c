"""Asks the cluster process or the broker on behalf of a worker, and reports the worker's connections to it.

A connection waits for one answer, and for no longer than the deadline. All other records need no answer:
those of one turn of the loop are sent together.
"""

import collections
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from tcpdconf.daemon.cluster import layout, records
from tcpdconf.daemon.cluster.records import Answer, Request
from tcpdconf.daemon.messages import cluster as messages
from tcpdconf.daemon.messages import wire
from tcpdconf.daemon.process import channel, log, loop
from tcpdconf.policy.connection import Endpoint

_FAILURES: Final = 3  # requests in a row without an answer, after which the process is not asked
_PING: Final = 1.0  # seconds between two pings of a process that does not answer
_QUEUE: Final = 20_000  # most records that wait for the process
_PENALTIES: Final = 100  # most penalties that are published in a second
_DATAGRAMS: Final = 16  # most datagrams read in one turn
REFUSED: Final = -1
"""Stands for the ticket of a connection that was refused, and counts for nothing."""

Address = tuple[int, int]


class _Asked:
    """Holds an unanswered request; `then` is None once its connection no longer waits."""

    __slots__ = ("address", "gone", "then", "timer")

    def __init__(self, address: Address, then: Callable[[Answer], None], timer: int) -> None:
        self.address = address
        self.then: Callable[[Answer], None] | None = then
        self.timer = timer
        self.gone = False  # the connection has ended


class ClusterShare:
    """Counts the connections of one worker over all hosts.

    A new share does not ask until it has a channel (`use`) and the process reports that the engine answers.
    `lost` is called when the channel has failed, `penalised` with the penalties of other hosts.
    """

    def __init__(
        self,
        events: loop.Loop,
        held: Iterable[Endpoint],
        deadline: float,
        *,
        lost: Callable[[], None],
        penalised: Callable[[Sequence[messages.NetworkPenalty]], None],
    ) -> None:
        self._loop = events
        self._deadline = deadline
        self._lost = lost
        self._penalised = penalised
        self._held: dict[Address, int] = {}  # by address: connections that the process must count
        for peer in held:
            self._add((peer.version, peer.value), 1)
        self._limits: list[layout.Described] = []
        self._socket: socket.socket | None = None
        self._writer: socket.socket | None = None
        self._writing = False
        self._serving = False  # the process asks the engine
        self._numbers = 0
        self._asked: dict[int, _Asked] = {}
        self._late: dict[Address, list[int]] = {}  # unanswered requests of connections that are served
        self._out: collections.deque[bytes] = collections.deque()  # datagrams
        self._gathered: list[bytes] = []  # records of this turn
        self._due = False
        self._unheard = 0  # requests in a row without an answer
        self._second = 0.0  # end of the second in which `_penalties` counts
        self._penalties = 0
        self._stale = False  # True if records were dropped, so that all counts must be sent again

    def settle(self, limits: Sequence[layout.Described], deadline: float) -> None:
        """Count for these limits from now on."""
        self._deadline = deadline
        if list(limits) != self._limits:
            self._limits = list(limits)
            if self._socket is not None:
                self._publish()

    def use(self, fd: int) -> None:
        """Use this channel to a new process from now on, and send it all counts."""
        self._drop()
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)
        self._writer = self._socket.dup()
        self._loop.watch(self._socket, self._readable)
        self._publish()

    def close(self) -> None:
        """Close the channel; waiting connections are decided without the engine."""
        self._drop()

    @property
    def asks(self) -> bool:
        """True while connections wait for the engine."""
        return self._serving and self._unheard < _FAILURES

    def ask(self, peer: Endpoint, most: int | None, then: Callable[[Answer], None]) -> int:
        """Ask whether one more connection may be served, and call `then` later; return a ticket.

        The connection counts from now on, unless it is refused. After `release`, `then` is not called.
        """
        self._numbers = self._numbers + 1 & 0xFFFFFFFF or 1
        number, address = self._numbers, (peer.version, peer.value)
        timer = self._loop.after(self._deadline, lambda: self._expire(number))
        self._asked[number] = _Asked(address, then, timer)
        self._add(address, 1)
        self._put(Request("take", peer.version, peer.value, number, most or 0))
        return number

    def hold(self, peer: Endpoint) -> None:
        """Count a connection without asking."""
        self._add((peer.version, peer.value), 1)
        self._put(Request("hold", peer.version, peer.value, 0, 1))

    def release(self, peer: Endpoint, ticket: int = 0) -> None:
        """Stop counting a connection; `ticket` is the result of `ask`, if it may be unanswered."""
        if ticket == REFUSED:
            return
        address = peer.version, peer.value
        self._add(address, -1)
        asked = self._asked.get(ticket)
        if asked is None and address in self._late:  # its release must not be sent before its answer
            ticket = self._late[address][-1]
            asked = self._asked.get(ticket)
        if asked is None:
            self._put(Request("release", peer.version, peer.value, 0, 1))
            return
        self._loop.cancel(asked.timer)
        if asked.then is None:
            self._no_longer_late(address, ticket)
        asked.then, asked.gone = None, True

    def penalise(self, penalty: messages.NetworkPenalty) -> None:
        """Publish a penalty to the other hosts, unless too many were published in this second."""
        now = loop.now()
        if now >= self._second:
            self._second, self._penalties = now + 1, 0
        self._penalties += 1
        if self._socket is not None and self._penalties <= _PENALTIES:
            self._out.append(wire.written(messages.Penalised((penalty,))))
            self._write()

    def described(self, answer: Answer) -> layout.Described | None:
        """Return the limit that an answer names."""
        index = answer.limit if answer.verdict == "refused" else answer.limit - 1
        return self._limits[index] if 0 <= index < len(self._limits) else None

    def _add(self, address: Address, change: int) -> None:
        held = self._held.get(address, 0) + change
        if held > 0:
            self._held[address] = held
        else:
            self._held.pop(address, None)

    def _no_longer_late(self, address: Address, number: int) -> None:
        self._late[address].remove(number)
        if not self._late[address]:
            del self._late[address]

    # from the process

    def _readable(self) -> None:
        assert self._socket is not None  # noqa: S101 (for the type)
        for _ in range(_DATAGRAMS):
            try:
                data = self._socket.recv(channel.LARGEST)
                if not data:
                    self._give_up("closed")
                    return
                if data[:1] == b"{":
                    self._penalised(wire.parsed(data, messages.TO_WORKER).penalties)
                    continue
                for answer in records.answers(data):
                    self._handle(answer)
            except BlockingIOError:
                return
            except OSError as error:
                self._give_up(str(error.strerror))
                return
            except wire.MalformedError as error:
                self._give_up(str(error))
                return
            if self._socket is None:
                return

    def _handle(self, answer: Answer) -> None:
        self._unheard = 0
        match answer.verdict:
            case "serving" | "absent":
                self._serving = answer.verdict == "serving"
            case "pong":
                pass
            case _:
                self._answered(answer)
        if self._stale:
            self._publish()

    def _answered(self, answer: Answer) -> None:
        asked = self._asked.pop(answer.number, None)
        if asked is None:
            return
        version, value = asked.address
        if asked.then is not None:
            self._loop.cancel(asked.timer)
            if answer.verdict == "refused":
                self._add(asked.address, -1)
            asked.then(answer)
        elif asked.gone:
            if answer.verdict != "refused":
                self._put(Request("release", version, value, 0, 1))
        else:
            self._no_longer_late(asked.address, answer.number)
            if answer.verdict == "refused":  # too late: the connection is served, so it counts
                self._put(Request("hold", version, value, 0, 1))

    def _expire(self, number: int) -> None:
        """Have a connection decided without the engine, because its deadline has passed."""
        asked = self._asked.get(number)
        if asked is None or asked.then is None:
            return
        then, asked.then = asked.then, None
        self._late.setdefault(asked.address, []).append(number)
        self._unheard += 1
        if self._unheard == _FAILURES:
            self._ping()
        then(Answer("unknown", number))

    def _ping(self) -> None:
        """Ping a process that does not answer, once a second, until it answers."""
        if self._unheard >= _FAILURES and self._socket is not None:
            self._put(Request("ping", 4, 0, 0, 0))
            self._loop.after(_PING, self._ping)

    # to the process

    def _put(self, request: Request) -> None:
        if self._socket is None or self._stale:
            return  # all counts are sent later
        self._gathered.append(request.packed())
        if not self._due:
            self._due = True
            self._loop.soon(self._flush)

    def _publish(self) -> None:
        """Send the layout and all counts, which replace those that the process had."""
        self._forget_requests()
        self._stale = False
        self._gathered.clear()
        self._out.clear()
        limits = tuple(each.limit for each in self._limits)
        if not limits:
            return
        self._out.append(wire.written(messages.Layout(limits)))
        self._gathered = [
            Request("hold", version, value, 0, count).packed()
            for (version, value), count in self._held.items()
        ]
        self._flush()

    def _flush(self) -> None:
        self._due = False
        for first in range(0, len(self._gathered), records.AT_ONCE):
            self._out.append(b"".join(self._gathered[first : first + records.AT_ONCE]))
        self._gathered.clear()
        self._write()

    def _write(self) -> None:
        if self._socket is None or self._writer is None:
            return
        try:
            while self._out:
                self._socket.send(self._out[0])
                self._out.popleft()
        except BlockingIOError:
            pass
        except OSError as error:
            self._give_up(str(error.strerror))
            return
        if bool(self._out) != self._writing:
            self._writing = bool(self._out)
            if self._writing:
                self._loop.watch(self._writer, self._write, writing=True)
            else:
                self._loop.forget(self._writer)
        if len(self._out) > _QUEUE // 10 and self._unheard >= _FAILURES:
            self._out.clear()
            self._stale = True

    def _give_up(self, why: str) -> None:
        log.debug(f"channel to the cluster process: {why}")
        self._drop()
        self._lost()

    def _drop(self) -> None:
        if self._writer is not None and self._writing:
            self._loop.forget(self._writer)
        if self._socket is not None:
            self._loop.forget(self._socket)
            self._socket.close()
        if self._writer is not None:
            self._writer.close()
        self._socket = self._writer = None
        self._serving = self._writing = self._stale = False
        self._unheard = 0
        self._out.clear()
        self._gathered.clear()
        self._forget_requests()

    def _forget_requests(self) -> None:
        """Have waiting connections decided without the engine; they are reported as held."""
        asked, self._asked = self._asked, {}
        self._late.clear()
        for number, each in asked.items():
            self._loop.cancel(each.timer)
            if each.then is not None:
                each.then(Answer("unknown", number))
