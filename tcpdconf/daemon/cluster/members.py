"""Keeps the workers' channels for the cluster process or the broker, and what those workers hold."""

import collections
import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from tcpdconf.daemon.cluster import records
from tcpdconf.daemon.cluster.records import Answer, Request
from tcpdconf.daemon.cluster.tally import Address, Holder, Tally
from tcpdconf.daemon.messages import cluster as messages
from tcpdconf.daemon.messages import wire
from tcpdconf.daemon.process import channel, log, loop

_GRACE: Final = 2.0  # seconds in which a successor takes over what an ended worker held
_PENDING: Final = 5000  # unanswered requests of one worker, at most
_ADDRESSES: Final = 1_000_000  # of one worker, at most
_ASK: Final = Answer("serving")
_DATAGRAMS: Final = 4  # read from one worker in one turn, of up to 400 records each


class Take:
    """Holds one request of a worker: may one more connection of this address be served?"""

    __slots__ = ("address", "at", "generation", "member", "most", "number")

    def __init__(self, member: "Member", number: int, address: Address, most: int, at: float) -> None:
        self.member = member
        self.generation = member.generation
        self.number = number
        self.address = address
        self.most = most
        self.at = at

    @property
    def is_wanted(self) -> bool:
        """True unless its worker has ended, or begun anew and told of its connection as one that it holds."""
        return self.member.is_attached and self.generation == self.member.generation


class Member:
    """Implements one worker's channel. A worker that sends something malformed loses it.

    A `brokered` one always asks: services of other users count together with it, and it cannot see them.
    """

    def __init__(
        self, service: str, post: channel.Channel, holder: Holder, members: "Members", *, brokered: bool
    ) -> None:
        self.service = service
        self.brokered = brokered
        self.holder = holder
        self.takes: collections.deque[Take] = collections.deque()  # not sent to the engine yet
        self.pending = 0  # takes that are not answered
        self.generation = 0  # changes with each layout
        self.is_attached = True
        self._post = post
        self._members = members

    def fileno(self) -> int:
        """Return the descriptor of the channel."""
        return self._post.fileno()

    def read(self) -> None:
        """Read what has come, at most a few datagrams."""
        try:
            for _ in range(_DATAGRAMS):
                received = self._post.receive()
                if received is None:
                    return
                data, _ = received
                if data[:1] == b"{":
                    message = wire.parsed(data, messages.FROM_WORKER)
                    if isinstance(message, messages.Layout):
                        self._begin(message)
                    else:
                        self._members.penalised(self.service, message)
                else:
                    for request in records.requests(data):
                        self._handle(request)
        except channel.ChannelError as error:
            if str(error) != "closed":
                log.warning(f"a worker of {self.service} loses its channel: {error}")
            self._members.remove(self)

    def _begin(self, layout: messages.Layout) -> None:
        """Begin anew: the worker tells of all its connections after its layout."""
        self.generation += 1
        self.takes.clear()
        former, self.holder = self.holder, self._members.holder(self.holder.space)
        self.holder.lay_out(layout.limits)
        self._members.leave_behind(self.service, former)

    def _handle(self, request: Request) -> None:
        address = request.version, request.value
        if not self.holder.limits:
            raise wire.MalformedError("no layout")
        match request.verb:
            case "take":
                if self.pending >= _PENDING or len(self.holder.held) >= _ADDRESSES:
                    raise channel.ChannelError("requests without end")
                self.pending += 1
                self._members.asked(Take(self, request.number, address, request.connections, loop.now()))
            case "hold":
                if len(self.holder.held) >= _ADDRESSES:
                    raise channel.ChannelError("addresses without end")
                self._members.hand_over(self, address, request.connections)
                self._members.changed()
            case "release":
                self.holder.add(address, -request.connections)
                self._members.changed()
            case "ping":
                self.send([Answer("pong", request.number)])

    def send(self, answers: Iterable[Answer]) -> None:
        """Send answers; a worker that does not read loses its channel."""
        try:
            for part in _parts(answers):
                self._post.send(b"".join(each.packed() for each in part))
        except channel.ChannelError:
            self._members.remove(self)

    def tell(self, message: messages.PenalisedElsewhere) -> None:
        """Tell penalties of other hosts; drop them if the worker does not read now."""
        with contextlib.suppress(channel.ChannelError):
            self._post.send(wire.written(message))

    def close(self) -> None:
        """Close the channel."""
        self._post.close()


class Members:
    """Keeps the members of one daemon.

    `asked` is called with each take, `changed` after counts have changed, and `penalised` with the penalties
    of a service.
    """

    def __init__(
        self, events: loop.Loop, tally: Tally, asked: Callable[[Take], None], changed: Callable[[], None]
    ) -> None:
        self.all: list[Member] = []
        self.asked = asked
        self.changed = changed
        self.penalised: Callable[[str, messages.Penalised], None] = lambda *_: None
        self._loop = events
        self._tally = tally
        self._left: dict[str, list[Holder]] = {}  # what ended workers of a service held
        self._next = 0

    def add(
        self, service: str, space: str, post: channel.Channel, state: Answer, *, brokered: bool = False
    ) -> None:
        """Serve a worker of a service, and tell it first whether the engine is asked."""
        post.refuse_descriptors()
        member = Member(service, post, self.holder(space), self, brokered=brokered)
        self.all.append(member)
        self._loop.watch(member, member.read)
        member.send([_ASK if brokered else state])

    def remove(self, member: Member) -> None:
        """Forget a worker."""
        if member not in self.all:
            return
        self.all.remove(member)
        self._loop.forget(member)
        member.close()
        member.takes.clear()
        member.is_attached = False
        self.leave_behind(member.service, member.holder)

    def holder(self, space: str) -> Holder:
        """Return a holder of nothing."""
        return Holder(self._tally, space)

    def leave_behind(self, service: str, holder: Holder) -> None:
        """Count what a worker held for another moment, until it is told again (`hand_over`)."""
        if holder.held:
            self._left.setdefault(service, []).append(holder)
            self._loop.after(_GRACE, lambda: self._let_go(service, holder))

    def _let_go(self, service: str, holder: Holder) -> None:
        self._left[service].remove(holder)
        if not self._left[service]:
            del self._left[service]
        holder.clear()
        self.changed()

    def hand_over(self, member: Member, address: Address, count: int) -> None:
        """Count connections that exist already, and no longer for an ended worker that may have had them."""
        left = count
        for holder in self._left.get(member.service, ()):
            if holder.space == member.holder.space:
                left += holder.add(address, -left)
        member.holder.add(address, count)

    def next_takes(self, most: int) -> Iterator[Take]:
        """Yield takes, one of each worker in turn, so that no worker keeps the others waiting."""
        waiting = [each for each in self.all if each.takes]
        while waiting and most:
            self._next %= len(waiting)
            member = waiting[self._next]
            yield member.takes.popleft()
            most -= 1
            if member.takes:
                self._next += 1
            else:
                waiting.remove(member)

    def tell_all(self, answer: Answer) -> None:
        """Tell every worker whether the engine is asked."""
        for each in list(self.all):
            if not each.brokered:
                each.send([answer])

    @property
    def connections(self) -> tuple[int, int]:
        """Return the numbers of connections, and of addresses summed over the workers."""
        count = sum(sum(each.holder.held.values()) for each in self.all)
        return count, sum(len(each.holder.held) for each in self.all)


def _parts(answers: Iterable[Answer]) -> Iterator[list[Answer]]:
    part: list[Answer] = []
    for each in answers:
        part.append(each)
        if len(part) == records.AT_ONCE:
            yield part
            part = []
    if part:
        yield part
