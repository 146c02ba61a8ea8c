"""Decides whether to ask name servers for names, with one breaker (`policy.dns.breaker`) for all.

Silence about a client does not prove that the name servers are dead. The owner of a network owns its reverse
zone and can leave every question about it unanswered; many reverse zones are broken anyway. So the first
silence about a client triggers a probe: a question for the name of an address in 240.0.0.0/4, which nobody
has. No client chooses it, no cache on the way holds its answer, and a forwarding server has to reach others
for it. Any answer shows that a name server is alive, SERVFAIL included.

Lookups of names pause after `breaker.FAILURES` questions in a row without an answer, if one of them was a
probe. A paused breaker is tried with probes only. Questions about this host's end do not count: a local
resolver may know that name without any other server.

Times are seconds of a monotonic clock.
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
    """Return the probe question; `token` is a random number, new each time."""
    return hostname.pointer(connection.endpoint(4, _NOBODY | token & ~_NOBODY, 0))


class NameHealth:
    """Judges the name servers of one service, which are asked for names while `state` is "up".

    `counts` are the answers about both ends of connections by status, since the start. `pause` is the length
    of the first pause, in seconds.
    """

    def __init__(self, pause: float) -> None:
        self.state: State = "up"
        self.why = ""
        self.counts: Counter[query.Status] = Counter()
        self._breaker = breaker.Breaker(pause)
        self._shown = False  # True if one of the failures in a row was a probe

    @property
    def doubtful(self) -> bool:
        """True while a probe is needed because a question about a client was not answered."""
        return self.state == "up" and self._breaker.failures > 0 and not self._shown

    def tries(self, now: float) -> bool:
        """Return whether to send a probe now to see whether the pause is over."""
        return self._breaker.tries(now)

    def heard(self, status: query.Status, now: float, *, client: bool) -> list_health.Change | None:
        """Count the outcome of a question that was sent (not a cached answer).

        Questions about a client are judged too. Returns a change of state, if any.
        """
        self.counts[status] += 1
        late = status in SILENT and self.state == "paused"  # it was on its way before
        return self._judge(status, now) if client and not late else None

    def proved(self, status: query.Status, now: float) -> list_health.Change | None:
        """Judge the outcome of a probe; return a change of state, if any."""
        if status in SILENT and not self._breaker.failures:
            return None  # a name server has answered another question meanwhile
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
