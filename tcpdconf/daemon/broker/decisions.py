"""Applies the common limits of several services to the requests of their workers."""

from tcpdconf.config.model import values
from tcpdconf.daemon.cluster.members import Members, Take
from tcpdconf.daemon.cluster.records import Answer
from tcpdconf.daemon.cluster.tally import Tally
from tcpdconf.daemon.messages.cluster import Limit
from tcpdconf.daemon.process import loop
from tcpdconf.policy import limits
from tcpdconf.policy.access import table as access_table
from tcpdconf.policy.connection import Endpoint, endpoint


class Broker:
    """Counts the connections of the workers, and answers each request at once, in order.

    Services of a group with the same rate share its token buckets.
    """

    def __init__(self, events: loop.Loop) -> None:
        self._tally = Tally()
        self.members = Members(events, self._tally, self._decide, self._told)
        self._rates: dict[tuple[str, int, int, int, float], limits.RateLimiter] = {}

    def _told(self) -> None:
        """Clear the list of changed counts, because there is no engine that needs them."""
        self._tally.changed.clear()

    def _decide(self, take: Take) -> None:
        answer = self._answer(take)
        take.member.pending -= 1
        if answer.verdict == "admitted":
            take.member.holder.add(take.address, 1, told=True)
        take.member.send([answer])

    def _answer(self, take: Take) -> Answer:
        """Return the verdict of all limits on a request; only an admission spends tokens."""
        holder, now = take.member.holder, loop.now()
        peer = endpoint(*take.address, 0)
        spent: list[limits.RateLimiter] = []
        observed = Answer("admitted", take.number)
        for index, limit in enumerate(holder.limits):
            held, full = 0, False
            if limit.seconds is None:
                most = take.most if index == 0 and take.most else limit.most
                key = holder.key(limit, take.address)
                held = 0 if key is None else self._tally.counts.get(key, 0)
                full = bool(most) and key is not None and held >= most
            elif limit.prefix(peer.version) is not None:
                rate = self._rate(holder.space, limit, peer)
                full = rate.refusal(peer, now) is not None
                if not full:
                    spent.append(rate)
            if full and limit.enforced:
                return Answer("refused", take.number, index, held)
            if full and not observed.limit:
                observed = Answer("admitted", take.number, index + 1, held)
        for rate in spent:
            rate.spend(peer, now)
        return observed

    def _rate(self, space: str, limit: Limit, peer: Endpoint) -> limits.RateLimiter:
        """Return the limiter of a rate, which all services of the space share."""
        prefix = limit.prefix(peer.version)
        assert prefix is not None  # noqa: S101 (the caller has looked)
        assert limit.seconds is not None  # noqa: S101 (it is a rate)
        key = space, peer.version, prefix, limit.most, limit.seconds
        found = self._rates.get(key)
        if found is None:
            shift = access_table.BITS[peer.version] - prefix
            networks = limits.Grouping({peer.version: shift})
            rate = values.Rate(limit.most, limit.seconds)
            found = self._rates[key] = limits.RateLimiter("rate", networks, rate)
        return found
