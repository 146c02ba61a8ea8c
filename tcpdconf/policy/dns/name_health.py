"""Decides whether to ask name servers for names, by one breaker (`policy.breaker`) for all of them.

Silence about a client does not prove that they are dead. Who owns a network owns its reverse zone, and can
leave every question about it without an answer; many reverse zones are broken anyway. So the first silence
about a client has the name servers asked a question of our own: for the name of an address in 240.0.0.0/4,
which nobody has. No client chooses it, no cache on the way holds its answer, and a server that passes
questions on has to reach others for it. Any answer shows that a name server is alive, SERVFAIL included.

Names are paused after `breaker.FAILURES` questions in a row that nobody answered, at least one of them our
own. A paused breaker is tried with our own questions only. What is asked about this host's end does not
count: a resolver beside it may know that name without any other server.

Times are seconds of any clock that never goes back.
"""

from collections import Counter
from typing import Final, Literal

from tcpdconf.policy import connection
from tcpdconf.policy.dns import breaker, hostname, query
from tcpdconf.policy.dns import health as list_health

State = Literal["up", "paused"]  # asked; not asked

SILENT: Final[frozenset[query.Status]] = frozenset({"timeout", "unreachable"})
ANSWERS: Final = "a name server answers"  # why a pause is over
_NOBODY: Final = 0xF0000000  # 240.0.0.0/4 (RFC 1112, 4)


def own_question(token: int) -> query.Question:
    """Return the question that shows whether a server answers; `token` is a random number, new each time."""
    return hostname.pointer(connection.endpoint(4, _NOBODY | token & ~_NOBODY, 0))


class NameHealth:
    """Judges the name servers of one service, which are asked for names while `state` is "up".

    `counts` are the answers about both ends of connections by status, since the start. `pause` is in seconds.
    """

    def __init__(self, pause: float) -> None:
        self.state: State = "up"
        self.why = ""
        self.counts: Counter[query.Status] = Counter()
        self._breaker = breaker.Breaker(pause)
        self._shown = False  # whether one of the failures in a row was a question of our own

    @property
    def doubtful(self) -> bool:
        """Whether to ask a question of our own, because one about a client was not answered."""
        return self.state == "up" and self._breaker.failures > 0 and not self._shown

    def tries(self, now: float) -> bool:
        """Whether to ask a question of our own, to see whether the pause is over."""
        return self._breaker.tries(now)

    def heard(self, status: query.Status, now: float, *, client: bool) -> list_health.Change | None:
        """Count what came of a question that was sent (not out of a cache); judge one about a client."""
        self.counts[status] += 1
        late = status in SILENT and self.state == "paused"  # it was on its way before
        return self._judge(status, now) if client and not late else None

    def proved(self, status: query.Status, now: float) -> list_health.Change | None:
        """Judge what came of a question of our own."""
        if status in SILENT and not self._breaker.failures:
            return None  # a name server has answered something else meanwhile
        self._shown = True
        return self._judge(status, now)

    def _judge(self, status: query.Status, now: float) -> list_health.Change | None:
        if status not in SILENT:
            self._shown = False
            return self._become("up", ANSWERS) if self._breaker.passed() else None
        if self._breaker.failed(now, pauses=self._shown):
            why = f"no name server answers: {self._breaker.failures} failures in a row, the last: {status}"
            return self._become("paused", why)
        return None

    def _become(self, state: State, why: str) -> list_health.Change:
        before, self.state, self.why = self.state, state, why
        return list_health.Change(before, state, why)
