"""Remembers which networks have offended, and refuses their clients for a time that grows with each offence.

The rules are those of sshd's PerSourcePenalties (sshd_config(5), srclimit.c). An offence adds its time to the
network's penalty. The penalty is enforced once its remaining time reaches `min`, and from then on until it
expires. It never lasts longer than `max`. When a table is full, the penalty that expires first is dropped.

Nothing here reads a clock: callers pass `now` in seconds of a monotonic clock.
"""

import heapq
import itertools
import signal
from collections.abc import Iterable, Iterator
from typing import Final, Literal, NamedTuple

from tcpdconf.config.model import tables, values
from tcpdconf.config.model.service import ServiceSettings
from tcpdconf.policy import connection, limits
from tcpdconf.policy.access import table as access_table

Kind = Literal["refused", "proxy", "early_talker", "killed", "status"]

SOURCES: Final = 65536  # most penalties of each address family
_TIDIED: Final = 8  # expired penalties that one offence drops; it adds one, so the table shrinks
_EXEMPT: Final = access_table.Rule("allow")
# Refusals that are offences. Clients who share an address cannot help exceeding its number of connections. A
# client that `drop` refuses is charged only if an access rule has set the variable (`Connections`).
CHARGED: Final[frozenset[connection.Reason]] = frozenset({"access", "rate"})


class Offence(NamedTuple):
    """Names an offence; `status` is the exit status of the program, or 0 for other kinds."""

    kind: Kind
    status: int = 0

    def __str__(self) -> str:
        """Return `killed`, or `status 75`."""
        return f"{self.kind} {self.status}" if self.kind == "status" else self.kind


class Penalty(NamedTuple):
    """Holds the penalty of one network: its end, whether it is enforced (`active`), and the last offence."""

    until: float
    active: bool
    offence: str


class Source(NamedTuple):
    """Holds a network with its penalty: the IP version, the prefix as a number and the prefix length."""

    version: int
    bits: int
    length: int
    penalty: Penalty


def of_exit(code: int) -> Offence | None:
    """Return the offence that a program's exit code stands for; a negative code is the number of a signal.

    Two signals are no offence. The kernel sends SIGPIPE when a client hangs up while its program writes. The
    daemon and administrators end programs by SIGTERM.
    """
    if code < 0:
        return None if -code in {signal.SIGPIPE, signal.SIGTERM} else Offence("killed")
    return Offence("status", code) if code else None


class Penalties:
    """Holds the penalties that one service has charged.

    Args:
        settings: the table `penalties` of the service.
        trusted: proxies of the service. They are exempt, since they pass on connections of others.
    """

    def __init__(
        self, settings: tables.Penalties, trusted: Iterable[values.IPNetwork | str] = (), most: int = SOURCES
    ) -> None:
        self.settings = settings
        self.trusted = tuple(trusted)
        self.networks = limits.Grouping({4: 32 - settings.network.ipv4, 6: 128 - settings.network.ipv6})
        self._seconds = _seconds(settings)
        self._families = {4: _Family(most), 6: _Family(most)}
        self._exempt = access_table.Networks()
        for network in (*settings.exempt, *self.trusted):
            for prefix in access_table.prefixes(network):
                self._exempt.add(prefix, _EXEMPT)

    def refusal(self, peer: connection.Endpoint, now: float) -> connection.Refused | None:
        """Return a refusal if the penalty of the peer's network is enforced now."""
        penalty = self._families[peer.version].penalties.get(peer.value >> self.networks.shifts[peer.version])
        if penalty is None or not penalty.active or penalty.until < now or self.exempts(peer):
            return None
        left = round(penalty.until - now, 1)
        return connection.Refused("penalty", (("offence", penalty.offence), ("seconds", left)))

    def enforced(self, peer: connection.Endpoint, now: float) -> connection.Refused | None:
        """Return the result of `refusal`, or None if the service only observes."""
        return self.refusal(peer, now) if self.settings.enforce else None

    def offend(self, peer: connection.Endpoint, offence: Offence, now: float) -> Penalty | None:
        """Charge a peer's network with an offence.

        Return its penalty, or None if the offence costs nothing or the peer is exempt.
        """
        seconds = self._seconds.get(offence)
        if seconds is None or self.exempts(peer):
            return None
        family = self._families[peer.version]
        family.forget(now, _TIDIED)
        bits = peer.value >> self.networks.shifts[peer.version]
        before = family.penalties.get(bits)
        if before is None or before.until < now:
            left, active = seconds, False
        else:
            left, active = before.until - now + seconds, before.active
        left = min(left, self.settings.max)
        penalty = Penalty(now + left, active or left >= self.settings.min, str(offence))
        family.put(bits, penalty)
        return penalty

    def exempts(self, peer: connection.Endpoint) -> bool:
        """Return whether a peer is exempt from penalties."""
        return self._exempt.find(peer, connection.Link(peer, peer)) is not None

    def of(self, peer: connection.Endpoint, now: float) -> Source | None:
        """Return the penalty of a peer's network, enforced or not; None if it has no penalty."""
        shift = self.networks.shifts[peer.version]
        penalty = self._families[peer.version].penalties.get(peer.value >> shift)
        if penalty is None or penalty.until < now:
            return None
        return Source(peer.version, peer.value >> shift, access_table.BITS[peer.version] - shift, penalty)

    def active(self, now: float) -> int:
        """Return the number of penalties that are enforced now; drop expired ones."""
        for family in self._families.values():
            family.forget(now)
        return sum(family.active for family in self._families.values())

    def latest(self, now: float, most: int) -> list[Source]:
        """Return at most `most` penalties, those of the networks that offended last first."""
        found = itertools.chain.from_iterable(
            itertools.islice(self._sources(version, now), most) for version in self._families
        )
        return sorted(found, key=lambda source: source.penalty.until, reverse=True)[:most]

    def restore(self, source: Source) -> None:
        """Adopt a penalty that another process has reported, if its network has this service's size."""
        if source.length == access_table.BITS[source.version] - self.networks.shifts[source.version]:
            self._families[source.version].put(source.bits, source.penalty)

    def take_over(self, other: "Penalties") -> None:
        """Adopt the penalties of an object with the same settings, which is not used afterwards."""
        self._families = other._families  # noqa: SLF001 (its own kind)

    def _sources(self, version: int, now: float) -> Iterator[Source]:
        length = access_table.BITS[version] - self.networks.shifts[version]
        for bits, penalty in reversed(self._families[version].penalties.items()):
            if penalty.until >= now:
                yield Source(version, bits, length, penalty)


class _Family:
    """Holds the penalties of one address family, and finds those that expire first.

    The queue has one entry for each network, with a lower bound of the time at which its penalty expires. If
    the penalty has grown since, the entry is corrected once it is the first one. An offence makes at most one
    correction necessary, and carries one out. So it costs O(log n) on average, and few corrections are left
    when the table is full.
    """

    def __init__(self, most: int) -> None:
        self.penalties: dict[int, Penalty] = {}  # by prefix as a number, the latest offence last
        self.active = 0  # enforced penalties; some may have expired
        self._most = most
        self._queue: list[tuple[float, int]] = []

    def put(self, bits: int, penalty: Penalty) -> None:
        """Set the penalty of a network; if the table is full, drop the penalty that expires first."""
        before = self.penalties.pop(bits, None)
        self.penalties[bits] = penalty
        self.active += penalty.active - (before is not None and before.active)
        if before is None:
            heapq.heappush(self._queue, (penalty.until, bits))
            if len(self.penalties) > self._most:
                self._drop_first()
        else:
            self._first_is_correct()

    def forget(self, now: float, most: int | None = None) -> None:
        """Drop expired penalties; at most `most` of them, if it is given."""
        while self._queue and self._queue[0][0] < now and most != 0:
            if self._first_is_correct():
                self._drop(heapq.heappop(self._queue)[1])
            most = None if most is None else most - 1

    def _drop_first(self) -> None:
        while not self._first_is_correct():
            pass
        self._drop(heapq.heappop(self._queue)[1])

    def _first_is_correct(self) -> bool:
        """Return whether the first entry has the exact end of its penalty; if not, correct the entry."""
        until, bits = self._queue[0]
        expires = self.penalties[bits].until
        if expires == until:
            return True
        heapq.heapreplace(self._queue, (expires, bits))
        return False

    def _drop(self, bits: int) -> None:
        self.active -= self.penalties.pop(bits).active


def renewed(before: Penalties | None, service: ServiceSettings) -> Penalties | None:
    """Return the penalties of a service: `before` if settings and proxies are the same, else empty ones.

    A change of `enforce` alone keeps `before`. The result is None if the service has no penalties.
    """
    settings = service.penalties
    if settings is None:
        return None
    trusted = tuple(proxies(service))
    if before is None or before.trusted != trusted:
        return Penalties(settings, trusted)
    if before.settings.model_copy(update={"enforce": settings.enforce}) != settings:
        return Penalties(settings, trusted)
    before.settings = settings
    return before


def proxies(service: ServiceSettings) -> Iterator[values.IPNetwork | str]:
    """Yield the trusted proxies of a service; none for a listener with `trusted = "any"`."""
    for listener in service.listeners:
        if listener.haproxy is not None and listener.haproxy.trusted != "any":
            yield from listener.haproxy.trusted


def _seconds(settings: tables.Penalties) -> dict[Offence, float]:
    """Return the seconds that each offence costs; an offence that is missing costs nothing."""
    kinds: dict[Kind, float | None] = {
        "refused": settings.refused,
        "proxy": settings.proxy,
        "early_talker": settings.early_talker,
        "killed": settings.killed,
    }
    found = {Offence(kind): seconds for kind, seconds in kinds.items() if seconds is not None}
    return found | {Offence("status", int(status)): seconds for status, seconds in settings.status.items()}
