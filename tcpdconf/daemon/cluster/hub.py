"""Asks the engine on behalf of one daemon's workers, and sends it their counts.

Clients wait for the answers only while the breaker is closed. Counts are sent whenever a connection is open.
"""

import collections
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import hiredis

from tcpdconf.daemon.cluster import scripts
from tcpdconf.daemon.cluster.engine import Access, Engine, explained
from tcpdconf.daemon.cluster.exchange import AT_ONCE, CHANGES, Exchange, MalformedAnswerError
from tcpdconf.daemon.cluster.hosts import Description, Leases
from tcpdconf.daemon.cluster.members import Members, Take
from tcpdconf.daemon.cluster.mirror import Mirror
from tcpdconf.daemon.cluster.records import Answer
from tcpdconf.daemon.cluster.tally import Decisions, Tally
from tcpdconf.daemon.messages import cluster as messages
from tcpdconf.daemon.messages.measures import CLUSTER_BOUNDS, Times
from tcpdconf.daemon.process import log, loop
from tcpdconf.policy.access import table as access_table
from tcpdconf.policy.breaker import Breaker

_RENEW: Final = 5.0  # seconds between two renewals of the lease
_PROBE: Final = 1.0  # seconds between two probes, and between two attempts to connect
_PATIENCE: Final = 5.0  # seconds without any answer after which the connection is given up
_BATCH: Final = 0.005  # seconds for which released connections are gathered
_SHARE: Final = 1 / 300  # fraction of the counts that is sent again each second
_NO_ENGINE: Final = "it has not answered yet"
_NOT_IN_TIME: Final = "it has not answered in time yet"


class Place(NamedTuple):
    """Identifies this process to the other hosts; `life` is a random number.

    `alone` is False while another daemon of this host may run: the daemon that this one replaces.
    """

    about: Description
    life: str
    alone: bool


@dataclass(slots=True)
class _Figures:
    """Counts what became of connections, and the times in which the engine answered."""

    asked: int = 0
    admitted: int = 0
    refused: int = 0
    unanswered: int = 0
    times: Times = field(default_factory=lambda: Times(CLUSTER_BOUNDS))


class Hub:
    """Keeps the connection, the breaker, the lease and the counts.

    `changed` is called with each status, `tell` with messages about bans for the supervisor.
    """

    def __init__(
        self,
        events: loop.Loop,
        access: Access,
        *,
        prefix: str,
        deadline: float,
        place: Place,
        changed: Callable[[messages.Status], None],
        tell: Callable[[messages.FromCluster], None] = lambda _: None,
        lease: float = scripts.LEASE,
    ) -> None:
        self._loop = events
        self._access = access
        self._prefix = prefix
        self._deadline = deadline
        self._place = place
        self._changed = changed
        self._lease_length = lease
        self._leases = Leases(place.life, lease)
        self._tally = Tally()
        self._decisions = Decisions(self._tally)
        self.members = Members(events, self._tally, self._asked, self._told_later)
        self.mirror = Mirror(
            events,
            access,
            prefix,
            about=place.about,
            clock=self._leases.engine_time,
            tell=tell,
            penalise=self._penalise,
        )
        self.members.penalised = self.mirror.penalised
        self._breaker = Breaker()
        self._engine: Engine | None = None
        self._turn = 0
        self._leased = False  # the engine has confirmed this turn's lease
        self._ready = False  # the scripts are loaded and work
        self._exchange: Exchange | None = None  # the request on its way
        self._sent = 0.0  # when it was sent
        self._queue: collections.OrderedDict[Take, None] = (
            collections.OrderedDict()
        )  # unanswered takes, in their order
        self._answered: set[Take] = set()  # takes on their way whose deadline has passed
        self._due = False  # True if a call of `_pump` is scheduled
        self._timer: int | None = None  # the timer of the oldest take
        self._waiting: int | None = None  # the timer of released connections
        self._renewing = -1  # the timer of the next renewal
        self._heard = 0.0  # when the engine answered last
        self._probed = False  # a probe is on its way
        self._tidy = False  # True once leases of earlier processes of this host are removed
        self._why = _NO_ENGINE
        self._logged: bool | None = None  # the state in the last log line: True if the engine answers
        self._figures = _Figures()
        self._last: messages.Status | None = None

    def start(self) -> None:
        """Connect, and keep connected."""
        self._connect()
        self._loop.after(_PROBE, self._tick)

    def leave(self, done: Callable[[], None]) -> None:
        """Give up the lease, so that this daemon counts for nothing, and call `done`."""
        if self._engine is None or not self._ready:
            done()
            return
        self._engine.send("HDEL", f"{self._prefix}leases", self._place.life, then=lambda _: done())
        self._loop.after(self._deadline * 5, done)

    @property
    def serving(self) -> Answer:
        """The message to workers that says whether to ask the engine."""
        return Answer("absent" if self._breaker.open else "serving")

    def _penalise(self, service: str, message: messages.Penalised) -> None:
        """Tell the workers of a service of penalties on other hosts."""
        for member in self.members.all:
            if member.service == service:
                member.tell(messages.PenalisedElsewhere(message.penalties))

    def ask(self, asked: messages.Ask, then: Callable[[messages.Told], None]) -> None:
        """Ask how many connections the other hosts have from an address's networks."""
        if self._engine is None or self._breaker.open:
            then(messages.Told(asked.number, None))
            return
        found: list[dict[str, int] | None] = []

        def take(reply: object) -> None:
            found.append(self._leases.others(reply))
            if len(found) == len(asked.prefixes):
                counts = tuple(one for one in found if one is not None)
                complete = len(counts) == len(found)
                then(messages.Told(asked.number, counts if complete else None))

        bits = access_table.BITS[asked.version]
        for prefix in asked.prefixes:
            network = scripts.network(asked.version, prefix, asked.value >> bits - prefix)
            self._engine.send("HGETALL", f"{self._prefix}c:{asked.space}:{network}", then=take)
        if not asked.prefixes:
            then(messages.Told(asked.number, ()))

    # The connection.

    def _connect(self) -> None:
        self._turn += 1
        self._leased = self._ready = False
        self._heard = loop.now()
        turn = self._turn
        self._engine = Engine(self._loop, self._access, self._opened, lambda why: self._lost(turn, why))

    def _opened(self) -> None:
        """Load the scripts, take the lease, and test that counts can be written."""
        assert self._engine is not None  # noqa: S101 (for the type)
        self._engine.send("SCRIPT", "LOAD", scripts.LEASE_SCRIPT, then=self._expected)
        self._engine.send("SCRIPT", "LOAD", scripts.EXCHANGE_SCRIPT, then=self._expected)
        self._renew()
        command = Exchange(self._tally, (), ()).command(self._prefix, self._place.life, self._turn)
        self._engine.send(*command, then=self._tried)

    def _expected(self, reply: object) -> bool:
        """Record an answer; after an error close the connection, and connect again later."""
        self._heard = loop.now()
        if isinstance(reply, hiredis.ReplyError):
            self._give_up(explained(reply))
            return False
        return True

    def _tried(self, reply: object) -> None:
        if self._expected(reply):
            self._ready = True
            self._why = _NOT_IN_TIME
            self._tally.change_all()
            assert self._engine is not None  # noqa: S101 (it has answered)
            self.mirror.up(self._engine)
            self._probe()
            self._pump_soon()

    def _give_up(self, why: str) -> None:
        if self._engine is not None:
            self._engine.close()
            self._lost(self._turn, why)

    def _lost(self, turn: int, why: str) -> None:
        """Handle the end of a connection; `_tick` makes another one."""
        if turn != self._turn:
            return
        if self._exchange is not None:  # whether the engine has carried it out is unknown
            self._tally.changed.update(dict.fromkeys(self._exchange.counts))
        self._engine, self._exchange = None, None
        self._ready = self._leased = self._probed = False
        self._loop.cancel(self._renewing)
        self.mirror.down()
        self._answered.clear()
        self._why = why
        self._open(self._breaker.trip())

    def _tick(self) -> None:
        """Connect again, probe, refresh: once a second."""
        self._loop.after(_PROBE, self._tick)
        now = loop.now()
        if self._engine is None:
            self._connect()
        elif now - self._heard > _PATIENCE and (self._probed or not self._ready):
            self._give_up("the engine does not answer")
        elif self._ready:
            if self._breaker.open or now - self._heard > _PROBE:
                self._probe()
            self._tally.refresh(_SHARE)
            self._pump_soon()
        if not self._ready and self._logged is None:
            self._open(True)
        self._report()

    def _probe(self) -> None:
        """Send a probe; an answer in time closes the breaker."""
        if self._engine is None or self._probed:
            return
        self._probed = True
        at = loop.now()
        self._engine.send("PING", then=lambda reply: self._probe_answered(reply, at))

    def _probe_answered(self, reply: object, at: float) -> None:
        self._probed = False
        if not self._expected(reply) or not self._leased:
            return
        if loop.now() - at > self._deadline:
            self._why = f"the engine takes {(loop.now() - at) * 1000:.0f} ms to answer"
            self._report()
        elif self._breaker.close():
            self._why = ""
            self.members.tell_all(self.serving)
            if not self._logged:
                log.info("the engine answers: limits hold over all hosts", engine=self._access.url)
            self._logged = True
            self._report()

    def _open(self, changed: bool) -> None:
        """Handle a breaker that has opened: answer every waiting take, and log it once."""
        if not changed:
            return
        waiting, self._queue = list(self._queue), collections.OrderedDict()
        for member in self.members.all:
            member.takes.clear()
        self._answer_without_engine(waiting)
        self.members.tell_all(self.serving)
        if self._logged is not False:
            log.warning(
                "the engine does not answer: limits hold on this host alone",
                engine=self._access.url,
                why=self._why,
            )
        self._logged = False
        self._report()

    # The lease.

    def _renew(self) -> None:
        self._loop.cancel(self._renewing)
        self._renewing = self._loop.after(_RENEW * self._lease_length / scripts.LEASE, self._renew)
        if self._engine is None:
            return
        length = int(self._lease_length * 1000)
        about = self._place.about.model_copy(update={"connections": self.members.connections[0]})
        self._engine.send(
            *("EVALSHA", scripts.LEASE_SHA, 1, f"{self._prefix}leases"),
            *(self._place.life, self._turn, length, about.written()),
            then=self._renewed,
        )

    def _renewed(self, reply: object) -> None:
        if self._is_missing_script(reply) or not self._expected(reply):
            return
        if not self._leases.take(reply):
            self._give_up("the engine answers something else than the script")
            return
        assert isinstance(reply, list)  # noqa: S101 (for the type)
        if reply[0] != 1 and self._leased:  # the engine has lost the lease, and perhaps all counts
            self._tally.change_all()
        self._leased = True
        self._remove_earlier()
        self._pump_soon()
        self._report()

    def _remove_earlier(self) -> None:
        """Remove leases of earlier processes of this host once, unless another daemon may still have them."""
        if self._tidy or self._engine is None:
            return
        self._tidy = True
        for life in self._leases.remove_earlier(self._place.about, alone=self._place.alone):
            self._engine.send("HDEL", f"{self._prefix}leases", life, then=self._expected)

    def _is_missing_script(self, reply: object) -> bool:
        """Load the scripts again if the engine has lost them; return whether it has."""
        if not (isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT")):
            return False
        if self._engine is not None:
            self._heard = loop.now()
            self._engine.send("SCRIPT", "LOAD", scripts.LEASE_SCRIPT, then=self._expected)
            self._engine.send("SCRIPT", "LOAD", scripts.EXCHANGE_SCRIPT, then=self._expected)
            self._leased = False
            self._renew()
        return True

    # Takes and counts.

    def _asked(self, take: Take) -> None:
        self._figures.asked += 1
        if self._breaker.open:
            self._answer_without_engine([take])
            return
        take.member.takes.append(take)
        self._queue[take] = None
        if self._timer is None:
            self._timer = self._loop.after(self._deadline, self._expire)
        self._pump_soon()

    def _told_later(self) -> None:
        """Send changed counts after `_BATCH` seconds, together with others that change meanwhile."""
        if self._waiting is None and self._exchange is None and self._ready:
            self._waiting = self._loop.after(_BATCH, self._pump)

    def _pump_soon(self) -> None:
        if not self._due:
            self._due = True
            self._loop.soon(self._pump)

    def _pump(self) -> None:
        """Send the next request, if takes or changed counts wait and no request is on its way."""
        self._due = False
        if self._waiting is not None:
            self._loop.cancel(self._waiting)
            self._waiting = None
        if self._engine is None or self._exchange is not None or not (self._ready and self._leased):
            return
        takes = list(self.members.next_takes(AT_ONCE))
        changed = [key for key, _ in zip(self._tally.changed, range(CHANGES), strict=False)]
        if not takes and not changed:
            return
        for key in changed:
            del self._tally.changed[key]
        self._exchange = made = Exchange(self._tally, takes, changed)
        for key in made.counts:
            self._tally.changed.pop(key, None)
        self._sent = loop.now()
        command = made.command(self._prefix, self._place.life, self._turn)
        self._engine.send(*command, then=self._exchanged)

    def _exchanged(self, reply: object) -> None:
        made = self._exchange
        if made is None:
            return
        if self._is_missing_script(reply) or reply is None:
            self._again(made)
            if reply is None:  # the lease has ended, or the engine has lost its data
                self._leased = False
                self._tally.change_all()
                self._renew()
            return
        if isinstance(reply, hiredis.ReplyError):
            self._give_up(explained(reply))
            return
        try:
            answers = made.answers(reply)
        except MalformedAnswerError:
            self._give_up("the engine answers something else than the script")
            return
        self._heard = loop.now()
        self._exchange = None
        if made.takes:
            self._answer(made.takes, answers)
        if self._tally.changed or any(each.takes for each in self.members.all):
            self._pump()

    def _answer(self, takes: Sequence[Take], answers: Sequence[Answer]) -> None:
        """Answer the workers, and count admitted connections, which the engine has counted already."""
        now = loop.now()
        by_member = collections.defaultdict(list)
        for take, answer in zip(takes, answers, strict=True):
            self._figures.times.observe(now - take.at)
            if take in self._answered:  # too late: the worker has admitted it, so its count is sent again
                self._answered.discard(take)
                continue
            del self._queue[take]
            take.member.pending -= 1
            if take.is_wanted:
                by_member[take.member].append(answer)
            if answer.verdict == "admitted":
                self._figures.admitted += 1
                self._hold(take, told=True)
            else:
                self._figures.refused += 1
        self._breaker.succeed()
        for member, some in by_member.items():
            member.send(some)

    def _hold(self, take: Take, *, told: bool) -> None:
        if take.is_wanted:
            take.member.holder.add(take.address, 1, told=told)
        elif told:  # the engine counts one too many
            for key in take.member.holder.keys(take.address):
                self._tally.changed[key] = None

    def _again(self, made: Exchange) -> None:
        """Send the takes and counts of a request again, because the request had no effect."""
        self._exchange = None
        for key in made.counts:
            self._tally.changed[key] = None
        for take in reversed(made.takes):
            if take in self._answered:
                self._answered.discard(take)
            elif take.is_wanted:
                take.member.takes.appendleft(take)

    def _expire(self) -> None:
        """Answer takes whose deadline has passed."""
        self._timer = None
        now, late = loop.now(), []
        while self._queue and now >= next(iter(self._queue)).at + self._deadline:
            take, _ = self._queue.popitem(last=False)
            late.append(take)
            if take.member.takes and take.member.takes[0] is take:  # not sent yet
                take.member.takes.popleft()
        if late:
            opened = self._breaker.fail()
            if opened:
                self._why = f"the engine takes more than {self._deadline * 1000:.0f} ms"
            self._answer_without_engine(late)
            self._open(opened)
        if self._queue:
            oldest = next(iter(self._queue))
            self._timer = self._loop.after(oldest.at + self._deadline - now, self._expire)

    def _answer_without_engine(self, takes: Sequence[Take]) -> None:
        """Let the workers decide, or decide for a worker that is `apart`; count the served clients."""
        on_its_way = set() if self._exchange is None else set(self._exchange.takes)
        by_member = collections.defaultdict(list)
        for take in takes:
            self._figures.unanswered += 1
            take.member.pending -= 1
            if take in on_its_way:
                self._answered.add(take)
            answer = self._decided_here(take)
            if take.is_wanted and answer.verdict != "refused":
                self._hold(take, told=False)
            elif take in on_its_way:  # the engine may count it
                self._tally.changed.update(take.member.holder.keys(take.address))
            if take.is_wanted:
                by_member[take.member].append(answer)
        for member, some in by_member.items():
            member.send(some)

    def _decided_here(self, take: Take) -> Answer:
        """Return the verdict by this host's connections, or "unknown" if the worker itself can decide."""
        if not (take.member.apart and take.is_wanted):
            return Answer("unknown", take.number)
        holder = take.member.holder
        return self._decisions.answer(holder, take.address, take.most, take.number, loop.now())

    # The status.

    def _report(self) -> None:
        status = self._status()
        if status != self._last:
            self._last = status
            self._changed(status)

    def _status(self) -> messages.Status:
        if not self._breaker.open:
            state: messages.State = "up"
        elif self._ready:
            state = "slow"
        else:
            state = "connecting" if self._why == _NO_ENGINE else "down"
        connections, addresses = self.members.connections
        figures = self._figures
        return messages.Status(
            state=state,
            why=self._why[:200],
            engine=str(self._access.url)[:200],
            asked=figures.asked,
            admitted=figures.admitted,
            refused=figures.refused,
            unanswered=figures.unanswered,
            connections=connections,
            addresses=addresses,
            hosts=self._leases.statuses(),
            times=tuple(figures.times.counts),
            seconds=figures.times.total,
        )
