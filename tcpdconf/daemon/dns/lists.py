"""Asks the DNS lists of a service, tests them, and counts their answers.

`policy.dns.health` decides which lists are believed and asked. No client waits for another list. For a paused
list that does not answer, one trial question is sent now and then.
"""

import functools
import secrets
from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple

from tcpdconf.daemon.dns import resolver
from tcpdconf.daemon.messages.measures import LIST_BOUNDS, Times
from tcpdconf.daemon.messages.worker import ListStatus
from tcpdconf.daemon.process import log, loop
from tcpdconf.policy.dns import answer as dns_answer
from tcpdconf.policy.dns import health as list_health
from tcpdconf.policy.dns import query
from tcpdconf.policy.dns.answer import Outcome
from tcpdconf.policy.dns.chain import Chain, Entry

Answered = Callable[[query.Question, query.Answer], None]

_CHECK: Final = 1.0  # seconds between two checks for lists that are due for a test
_TEST: Final = 5.0  # seconds that the questions of a test may take
_WORST: Final[tuple[list_health.State, ...]] = ("suspended", "paused", "untested", "up")
_CLASSES: Final[dict[Outcome, str]] = {
    "listed": "listed",
    "unlisted": "not_listed",
    "error": "error_code",
    "outside": "outside_127",
    "servfail": "servfail",
    "refused": "refused",
    "timeout": "timeout",
    "unreachable": "unreachable",
    "malformed": "malformed",
}


class _List(NamedTuple):
    """Holds a list's displayed name, its health and its answer times."""

    shown: str
    health: list_health.ListHealth
    times: Times


class Lists:
    """Asks and tests the lists of one service, by zone."""

    def __init__(self, events: loop.Loop, service: str, chain: Chain, asked: resolver.Resolver) -> None:
        self._loop = events
        self._service = service
        self._resolver = asked
        self._lists = {
            entry.zone: _List(
                entry.shown,
                list_health.ListHealth(entry.zone, entry.probe, entry.reading, entry.pause),
                Times(LIST_BOUNDS),
            )
            for entry in chain.entries
        }
        self._untested = {zone for zone, each in self._lists.items() if each.health.state == "untested"}
        self._held: list[Callable[[], None]] = []
        self._shown: dict[str, dict[str, str]] = {}  # by zone: the result of the last test
        self._timer = 0
        if self._lists:
            self._test_due()

    def close(self) -> None:
        """Stop testing. Questions already sent are still answered."""
        self._loop.cancel(self._timer)

    def when_tested(self, done: Callable[[], None]) -> None:
        """Call `done` when every list has had its first test, perhaps at once."""
        if self._untested:
            self._held.append(done)
        else:
            done()

    def ask(self, question: query.Question, entry: Entry, done: Answered, now: float) -> None:
        """Ask a list about a client and count the outcome.

        A list that is not up is answered as suspended at once.
        """
        each = self._lists[entry.zone]
        if each.health.state != "up":
            if question.type == "A" and each.health.tries(now):
                tried = functools.partial(self._count, each, entry, now)
                self._resolver.ask(question, tried, now + entry.deadline, fresh=True)
            done(question, query.SUSPENDED)
            return
        answered = functools.partial(done, question)
        heard = functools.partial(self._count, each, entry, now) if question.type == "A" else None  # not TXT
        self._resolver.ask(question, answered, now + entry.deadline, heard=heard)

    def report(self) -> list[dict[str, str]]:
        """Return each list's state and the result of its last test, as text for people."""
        return [
            {
                "list": each.shown,
                "state": each.health.state,
                **self._shown.get(zone, {}),
                "why": each.health.why,
            }
            for zone, each in self._lists.items()
        ]

    def status(self) -> dict[str, ListStatus]:
        """By what is shown for a zone: the state, and how often it was asked and what it said, by class.

        Neither what comes out of the cache is counted nor a test. Of lists that are shown alike, the worst
        state.
        """
        alike: dict[str, list[_List]] = {}
        for each in self._lists.values():
            alike.setdefault(each.shown, []).append(each)
        return {shown: _status(lists) for shown, lists in alike.items()}

    def _count(self, each: _List, entry: Entry, asked: float, answer: query.Answer) -> None:
        """Count the answer to a question that was asked at this time."""
        if answer.status != "timeout":
            each.times.observe(loop.now() - asked)
        self._log(each, each.health.heard(dns_answer.outcome(answer, entry.reading), loop.now()))

    def _test_due(self) -> None:
        """Test the lists that are due."""
        now = loop.now()
        for zone, each in self._lists.items():
            if each.health.is_due(now):
                _Test(self._resolver, each.health, functools.partial(self._tested, zone)).start(now)
        self._timer = self._loop.after(_CHECK, self._test_due)

    def _tested(self, zone: str, shown: dict[str, str], change: list_health.Change | None) -> None:
        self._shown[zone] = shown
        self._log(self._lists[zone], change)
        if zone in self._untested:
            self._untested.discard(zone)
            while self._held and not self._untested:
                self._held.pop(0)()

    def _log(self, each: _List, change: list_health.Change | None) -> None:
        """Log a change of state: a warning, unless the list is up again."""
        if change is None:
            return
        level: log.Level = "notice" if change.after == "up" and change.before != "up" else "warning"
        log.write(level, "list", service=self._service, zone=each.shown, state=change.after, why=change.why)


def _status(lists: list[_List]) -> ListStatus:
    healths = [each.health for each in lists]
    worst = min(healths, key=lambda health: _WORST.index(health.state))
    counts = sum((health.counts for health in healths), Counter[Outcome]())
    by_class = {name: counts[outcome] for outcome, name in _CLASSES.items()}
    times = tuple(map(sum, zip(*(each.times.counts for each in lists), strict=True)))
    seconds = sum(each.times.total for each in lists)
    return ListStatus(worst.state, worst.why, counts.total(), **by_class, times=times, seconds=seconds)


class _Test:
    """Runs one test of a list; `done` is called with its result and the change of state."""

    def __init__(
        self,
        asked: resolver.Resolver,
        health: list_health.ListHealth,
        done: Callable[[dict[str, str], list_health.Change | None], None],
    ) -> None:
        self._resolver = asked
        self._health = health
        self._done = done
        self._points = health.points(secrets.token_hex(8))
        self._answers: dict[query.Question, query.Answer] = {}
        self._began = 0.0

    def start(self, now: float) -> None:
        """Ask the questions of the test, bypassing the cache."""
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
