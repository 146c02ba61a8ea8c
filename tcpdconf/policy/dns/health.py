"""Decides whether to believe and ask a DNS list, by its test points and a breaker.

Test points (RFC 5782, 5): a list contains 127.0.0.2 and never 127.0.0.1; for IPv6, the same addresses mapped.
A third question asks for a random name. Together they find lists that list everybody, parked domains, and
resolvers that rewrite "no such name". A list that fails is not asked until it passes.

The breaker (`policy.dns.breaker`) handles lists that do not answer; its trial request is one question.

Times are seconds of a monotonic clock.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from tcpdconf.config.model import answerfilter
from tcpdconf.config.model.dns import Probe
from tcpdconf.policy import connection
from tcpdconf.policy.dns import answer as dns_answer
from tcpdconf.policy.dns import breaker, query
from tcpdconf.policy.dns.answer import Outcome, Reading

# up: in use; untested: not used before its first test; suspended: failed a test; paused: does not answer
Answers = Mapping[query.Question, query.Answer]
State = Literal["up", "untested", "suspended", "paused"]

EVERY: Final = 1800.0  # seconds between tests while the list passes

_GOOD: Final = "answers correctly"
_SILENCE: Final = query.Answer("timeout")
_ANSWERED: Final = frozenset({"answer", "nxdomain"})
_SIGNS: Final[dict[Outcome, str]] = {
    "error": "answers with an error code",
    "outside": "answers with an address outside 127.0.0.0/8",
}
_EVERYBODY: Final[dict[Outcome, str]] = {
    "listed": "lists everything: it lists a random name",
    "error": "answers every query with an error code",
    "outside": "answers every query: the domain is parked, or the resolver rewrites answers",
}
_LISTED: Final = (connection.endpoint(4, 0x7F000002, 0), connection.Endpoint(6, 0xFFFF7F000002, 0, ""))
_UNLISTED: Final = (connection.endpoint(4, 0x7F000001, 0), connection.Endpoint(6, 0xFFFF7F000001, 0, ""))


class Change(NamedTuple):
    """Describes a change of state to log once; with equal states, a new kind of trouble."""

    before: State
    after: State
    why: str


class Points(NamedTuple):
    """Holds the questions of one test."""

    listed: tuple[query.Question, ...]  # by family: IPv4, IPv6
    unlisted: tuple[query.Question, ...]
    random: query.Question

    def all(self) -> tuple[query.Question, ...]:
        """Return all questions of the test, to be asked at once."""
        return (*self.listed, *self.unlisted, self.random)


class ListHealth:
    """Judges one list, which is asked while its `state` is "up".

    `counts` are the answers by class since the start. `pause` is the length of the first pause, in seconds.
    """

    def __init__(
        self,
        zone: str,
        probe: bool | Probe,
        reading: Reading,
        pause: float = 10.0,
    ) -> None:
        self.zone = zone
        self.state: State = "up" if probe is False else "untested"
        self.why = ""
        self.counts: Counter[Outcome] = Counter()
        self._tests = probe is not False
        self._expected = probe if isinstance(probe, Probe) else Probe()
        self._reading = reading
        self._breaker = breaker.Breaker(pause)
        self._test_at = 0.0
        self._first_pause = self._test_pause = pause
        self._told: set[Outcome] = set()

    def tries(self, now: float) -> bool:
        """Return whether to send a paused list the one trial question that its breaker allows now."""
        return self._breaker.tries(now)

    def heard(self, outcome: Outcome, now: float) -> Change | None:
        """Count the outcome of a question sent for a client (not a cached answer); return a change to log."""
        self.counts[outcome] += 1
        if outcome not in dns_answer.TROUBLE:
            return self._become("up", _GOOD) if self._breaker.passed() else None
        if self.state in {"up", "paused"} and self._breaker.failed(now):
            return self._become("paused", f"{breaker.FAILURES} failures in a row, the last: {outcome}")
        if self.state == "up" and outcome in _SIGNS and outcome not in self._told:
            self._told.add(outcome)
            return Change("up", "up", _SIGNS[outcome])
        return None

    def is_due(self, now: float) -> bool:
        """Return whether to test the list now; if so, the next test is due a pause later."""
        if not self._tests or now < self._test_at:
            return False
        self._test_at = now + self._test_pause
        return True

    def points(self, token: str) -> Points:
        """Return the questions of a test; `token` is a random label, different for each test."""
        listed = _LISTED if self._expected.listed else ()
        unlisted = _UNLISTED if self._expected.unlisted else ()
        return Points(
            tuple(self._question(query.labels(end)) for end in listed),
            tuple(self._question(query.labels(end)) for end in unlisted),
            self._question(token),
        )

    def tested(self, points: Points, answers: Answers, now: float) -> Change | None:
        """Judge the answers to `points` and return a change of state, if any.

        A question without an answer proves nothing, and the test is repeated soon.
        """
        wrong = self._wrong(points, answers)
        silent = self._silent(points, answers)
        if wrong is None and silent is None:
            self._test_at, self._test_pause = now + EVERY, self._first_pause
            self._told.clear()
            self._breaker.passed()
            return None if self.state == "up" else self._become("up", _GOOD)
        self._test_at = now + self._test_pause
        self._test_pause = breaker.longer(self._test_pause, self._first_pause)
        if wrong is not None and (self.state, self.why) != ("suspended", wrong):
            self._breaker.passed()
            return self._become("suspended", wrong)
        if wrong is None and self.state == "untested" and not self.why:
            return self._become("untested", f"cannot be tested: {silent}")
        return None

    def _wrong(self, points: Points, answers: Answers) -> str | None:
        """Return what the answers prove against the list, or None."""
        random = answers.get(points.random, _SILENCE)
        if random.addresses:
            return _EVERYBODY[dns_answer.outcome(random, "safe")]
        for point in points.unlisted:
            answer = answers.get(point, _SILENCE)
            if answer.addresses and not _is_expected(answer, self._expected.unlisted):
                return f"lists 127.0.0.1, as {answer.addresses[0]}"
        found = [answers.get(point, _SILENCE) for point in points.listed]
        if any(self._is_listing(answer) for answer in found):
            return None
        for answer in found:
            if answer.addresses:
                return f"answers {answer.addresses[0]} for 127.0.0.2"
        if not found or any(answer.status not in _ANSWERED for answer in found):
            return None
        return "does not list 127.0.0.2"

    def _silent(self, points: Points, answers: Answers) -> query.Status | None:
        """Return the status of a needed question that failed; IPv6 is needed only if IPv4 lists nothing."""
        listed = [answers.get(point, _SILENCE) for point in points.listed]
        needed = [answers.get(point, _SILENCE) for point in (points.random, *points.unlisted[:1])]
        needed += listed[:1] if any(self._is_listing(answer) for answer in listed) else listed
        return next((answer.status for answer in needed if answer.status not in _ANSWERED), None)

    def _is_listing(self, answer: query.Answer) -> bool:
        if isinstance(self._expected.listed, tuple):
            return _is_expected(answer, self._expected.listed)
        return dns_answer.outcome(answer, self._reading) == "listed"

    def _question(self, label: str) -> query.Question:
        return query.Question(f"{label}.{self.zone}", "A")

    def _become(self, state: State, why: str) -> Change:
        before, self.state, self.why = self.state, state, why
        return Change(before, state, why)


def _is_expected(answer: query.Answer, expected: bool | tuple[str, ...]) -> bool:
    """Return whether one of the addresses passes one of the configured filters."""
    filters = [answerfilter.read(text) for text in expected] if isinstance(expected, tuple) else []
    return any(each.admits(answerfilter.octets(address)) for each in filters for address in answer.addresses)
