"""Asks what a service wants to know of its connections: host names, and DNS lists.

All questions of a connection are asked at once; only the name that an address leads to has to be asked after
it. Lists that are not to be believed are not asked (`policy.listhealth`). Until each list has had its first
test, connections wait: else a broken list could refuse the first ones, or a good one miss them.
"""

import functools
import secrets
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from tcpdconf.config import model
from tcpdconf.daemon import log, loop, resolver
from tcpdconf.policy import answermatch, connection, dnschain, dnslist, hostname, listhealth, query

Done = Callable[[dict[str, str]], None]
Answered = Callable[[query.Answer], None]

_LOOK: Final = 1.0  # seconds between two looks for lists that are due for a test
_TEST: Final = 5.0  # seconds that the questions of a test may take


class _List(NamedTuple):
    """A list, and whether it is to be believed."""

    shown: str
    health: listhealth.Health


class Lookups:
    """The lookups of one service."""

    def __init__(
        self,
        events: loop.Loop,
        name: str,
        settings: model.Service,
        *,
        chain: dnschain.Chain,
        asked: resolver.Resolver,
    ) -> None:
        self.names = settings.lookup_names
        self.seconds = settings.dns.deadline
        self.chain = chain
        self._loop = events
        self._service = name
        self._resolver = asked
        self._lists = {
            entry.zone: _List(entry.shown, listhealth.Health(entry.zone, entry.probe, entry.reading))
            for entry in chain.entries
        }
        self._untested = {zone for zone, each in self._lists.items() if each.health.state == "untested"}
        self._held: list[Callable[[], None]] = []
        self._shown: dict[str, dict[str, str]] = {}  # by zone: what the last test has shown
        if self._lists:
            self._look()

    def begin(self, link: connection.Connection, environment: Mapping[str, str], done: Done) -> None:
        """Look up what is wanted of a connection; `done` is called with the variables, perhaps at once.

        `environment` is what the program gets without: a list whose variable is in it is not asked.
        """
        start = _Lookup(self, link, environment, done).start
        if self._untested:
            self._held.append(start)
        else:
            start()

    def when_tested(self, done: Callable[[], None]) -> None:
        """Call back when every list has had its first test."""
        if self._untested:
            self._held.append(done)
        else:
            done()

    def report(self) -> list[dict[str, str]]:
        """Each list's state, and what its last test has shown: for people."""
        return [
            {
                "list": each.shown,
                "state": each.health.state,
                **self._shown.get(zone, {}),
                "why": each.health.why,
            }
            for zone, each in self._lists.items()
        ]

    def ask(self, question: query.Question, done: Answered, until: float) -> None:
        """Ask about a name."""
        self._resolver.ask(question, done, until)

    def ask_list(self, question: query.Question, entry: dnschain.Entry, done: Answered, now: float) -> None:
        """Ask a list about a client, unless it is not asked at present; count what comes of it."""
        each = self._lists[entry.zone]
        if not each.health.asks(now):
            done(query.SUSPENDED)
            return
        asking = True

        def answered(answer: query.Answer) -> None:
            # What came at once came out of the cache, and a text alone is no listing: neither says anything.
            if not asking and question.type == "A":
                outcome = answermatch.outcome(answer, entry.reading)
                self._log(each, each.health.heard(outcome, loop.now()))
            done(answer)

        self._resolver.ask(question, answered, now + entry.deadline)
        asking = False

    def _look(self) -> None:
        """Test the lists that are due."""
        now = loop.now()
        for zone, each in self._lists.items():
            if each.health.is_due(now):
                _Test(self._resolver, each.health, functools.partial(self._tested, zone)).start(now)
        self._loop.after(_LOOK, self._look)

    def _tested(self, zone: str, shown: dict[str, str], change: listhealth.Change | None) -> None:
        self._shown[zone] = shown
        self._log(self._lists[zone], change)
        if zone in self._untested:
            self._untested.discard(zone)
            while self._held and not self._untested:
                self._held.pop(0)()

    def _log(self, each: "_List", change: listhealth.Change | None) -> None:
        """One line for a change of state; news of a list are trouble unless it is up again."""
        if change is None:
            return
        level: log.Level = "notice" if change.after == "up" and change.before != "up" else "warning"
        log.write(level, "list", service=self._service, zone=each.shown, state=change.after, why=change.why)


class _Lookup:
    """What is asked about one connection."""

    def __init__(
        self, lookups: Lookups, link: connection.Connection, environment: Mapping[str, str], done: Done
    ) -> None:
        self._lookups = lookups
        self._link = link
        self._environment = environment
        self._done: Done | None = done
        self._answers: dict[query.Question, query.Answer] = {}
        self._missing: set[query.Question] = set()
        self._until = 0.0
        self._busy = True  # answers out of the cache come while questions are still being asked

    def start(self) -> None:
        """Ask everything that can be asked at once."""
        lookups = self._lookups
        now = loop.now()
        self._until = now + lookups.seconds
        asked = dnslist.questions(lookups.chain, self._link.peer, self._environment)
        self._missing.update(asked)
        for question, entry in asked.items():
            lookups.ask_list(question, entry, functools.partial(self._answered, question), now)
        self._judge()

    def _answered(self, question: query.Question, answer: query.Answer) -> None:
        self._answers[question] = answer
        self._missing.discard(question)
        if self._busy or self._done is None:
            return
        # Only the last answer, or one that says something, can settle anything.
        if not self._missing or answer.addresses or answer.texts or self._lookups.names:
            self._judge()

    def _judge(self) -> None:
        """Hand over the variables when nothing that is missing can change them."""
        self._busy = True
        names = self._names()
        judged = dnslist.judge(self._lookups.chain, self._link.peer, self._answers, self._environment)
        self._busy = False
        if names is not None and not judged.open and self._done is not None:
            done, self._done = self._done, None
            done({**names, **judged.variables})

    def _names(self) -> dict[str, str] | None:
        """The variables of both ends' names; None while an answer about them is missing."""
        if not self._lookups.names:
            return {}
        found = {}
        complete = True
        for variable, end in (("TCPREMOTEHOST", self._link.peer), ("TCPLOCALHOST", self._link.local)):
            verdict = hostname.judge(end, self._answers)
            while verdict.open is not None and verdict.open not in self._missing:
                self._missing.add(verdict.open)
                self._lookups.ask(verdict.open, functools.partial(self._answered, verdict.open), self._until)
                verdict = hostname.judge(end, self._answers)
            if verdict.open is not None:
                complete = False
            elif verdict.value is not None:
                found[variable] = verdict.value
        return found if complete else None


class _Test:
    """One test of a list; `done` is called with what it has shown and the change of state."""

    def __init__(
        self,
        asked: resolver.Resolver,
        health: listhealth.Health,
        done: Callable[[dict[str, str], listhealth.Change | None], None],
    ) -> None:
        self._resolver = asked
        self._health = health
        self._done = done
        self._points = health.points(secrets.token_hex(8))
        self._answers: dict[query.Question, query.Answer] = {}
        self._began = 0.0

    def start(self, now: float) -> None:
        """Ask its questions anew, whatever the cache holds."""
        self._began = now
        for point in self._points.all():
            self._resolver.ask(point, functools.partial(self._answered, point), now + _TEST, fresh=True)

    def _answered(self, point: query.Question, answer: query.Answer) -> None:
        self._answers[point] = answer
        if len(self._answers) == len(self._points.all()):
            now = loop.now()
            self._done(self._shown(now), self._health.tested(self._points, self._answers, now))

    def _shown(self, now: float) -> dict[str, str]:
        points = {"127.0.0.2": self._points.listed, "127.0.0.1": self._points.unlisted}
        asked = {name: point[0] for name, point in points.items() if point} | {"random": self._points.random}
        return {
            "time": f"{(now - self._began) * 1000:.0f} ms",
            **{name: _said(self._answers[point]) for name, point in asked.items()},
        }


def _said(answer: query.Answer) -> str:
    if answer.status == "answer":
        return " ".join(answer.addresses) or "none"
    return "none" if answer.status == "nxdomain" else answer.status
