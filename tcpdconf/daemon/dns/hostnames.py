"""Looks up the names of both ends of a service's connections, unless no name server answers.

`policy.dns.name_health` decides whether to ask name servers. During a pause no client waits for them: it gets
at once the result that it would get after the wait, and probes are sent separately.

Every client's lookup also asks for the name of this host's end. One reverse zone that does not answer would
delay all clients, so each of these questions has its own breaker.
"""

import functools
import secrets
from collections.abc import Callable
from typing import Final

from tcpdconf.daemon.dns import exchange, resolver
from tcpdconf.daemon.messages.worker import NamesStatus
from tcpdconf.daemon.process import log, loop
from tcpdconf.policy.dns import breaker, name_health, query
from tcpdconf.policy.dns import health as list_health

_PROBE: Final = 5.0  # seconds that a probe may take, unless clients wait for less
_MOST: Final = 256  # breakers of questions about this host's end: a proxy may name many addresses
_NOW: Final = 0.0  # a deadline that has passed: only the cache can answer
_CLASSES: Final[dict[query.Status, str]] = {
    "answer": "answered",
    "nxdomain": "no_such_name",
    "servfail": "servfail",
    "refused": "refused",
    "timeout": "timeout",
    "unreachable": "unreachable",
    "malformed": "malformed",
}


class Hostnames:
    """Looks up the names of one service's connections.

    Clients wait for at most `seconds`. `pause` is the length of a first pause, in seconds.
    """

    def __init__(self, service: str, asked: resolver.Resolver, seconds: float, pause: float) -> None:
        self._service = service
        self._resolver = asked
        self._seconds = min(seconds, _PROBE)
        self._pause = pause
        self._health = name_health.NameHealth(pause)
        self._asking = False  # True while a probe is running
        self._failing: dict[query.Question, breaker.Breaker] = {}  # about this host's end

    def ask(self, question: query.Question, done: exchange.Done, until: float, *, client: bool) -> None:
        """Ask about a client, or about this host's end of a connection.

        During a pause `done` is called at once: with the cached answer, or with "timeout".
        """
        now = loop.now()
        if self._health.state == "paused":
            if self._health.tries(now):
                self._ask_own()
            until = _NOW
        elif question in self._failing and self._failing[question].paused:
            if self._failing[question].tries(now):
                host_answered = functools.partial(self._host_answered, question)
                self._resolver.ask(question, host_answered, now + self._seconds, fresh=True)
            until = _NOW
        heard = self._client_answered if client else functools.partial(self._host_answered, question)
        self._resolver.ask(question, done, until, heard=heard)

    def probe(self, done: Callable[[dict[str, str]], None]) -> None:
        """Send a probe and call `done` with its result, as a row of text values for people."""
        began = loop.now()

        def answered(answer: query.Answer) -> None:
            silent = answer.status in name_health.SILENT
            done(
                {
                    "state": "down" if silent else "up",
                    "time": f"{(loop.now() - began) * 1000:.0f} ms",
                    "random": "none" if answer.status in {"answer", "nxdomain"} else answer.status,
                    "why": "no name server answers" if silent else "",
                }
            )

        self._resolver.ask(_own_question(), answered, began + self._seconds)

    def status(self) -> NamesStatus:
        """The state, and how often name servers were asked and what they said, by class.

        Neither what comes out of the cache is counted nor a question of our own.
        """
        counts = self._health.counts
        by_class = {name: counts[status] for status, name in _CLASSES.items()}
        return NamesStatus(self._health.state, self._health.why, counts.total(), **by_class)

    def _client_answered(self, answer: query.Answer) -> None:
        self._log(self._health.heard(answer.status, loop.now(), client=True))
        if self._health.doubtful:
            self._ask_own()

    def _host_answered(self, question: query.Question, answer: query.Answer) -> None:
        now = loop.now()
        self._health.heard(answer.status, now, client=False)
        if answer.status not in name_health.SILENT:
            known = self._failing.pop(question, None)
            if known is not None and known.paused:
                self._log(list_health.Change("paused", "up", name_health.ANSWERS), about=question.name)
            return
        if question not in self._failing and len(self._failing) >= _MOST:
            del self._failing[next(iter(self._failing))]
        if self._failing.setdefault(question, breaker.Breaker(self._pause)).failed(now):
            why = f"{breaker.FAILURES} failures in a row, the last: {answer.status}"
            self._log(list_health.Change("up", "paused", why), about=question.name)

    def _ask_own(self) -> None:
        """Send a probe, unless one is running."""
        if not self._asking:
            self._asking = True
            self._resolver.ask(_own_question(), self._own_answered, loop.now() + self._seconds)

    def _own_answered(self, answer: query.Answer) -> None:
        self._asking = False
        self._log(self._health.proved(answer.status, loop.now()))

    def _log(self, change: list_health.Change | None, **of: str) -> None:
        if change is not None:
            level: log.Level = "notice" if change.after == "up" else "warning"
            log.write(level, "names", service=self._service, **of, state=change.after, why=change.why)


def _own_question() -> query.Question:
    return name_health.own_question(secrets.randbits(28))
