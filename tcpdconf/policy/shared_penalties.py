"""Applies the penalties of a service that has several workers.

A worker keeps the penalties that it has charged or read, and publishes each one in the table that it shares
with the others. A number there has the time at which a penalty ends, in units of 1/1024 s, and in its lowest
digits the offence. So the latest end counts, as with rates. Two simultaneous offences at two workers may
count as one.
"""

import hashlib
from collections.abc import Iterable
from typing import Final, get_args

from tcpdconf.config.model import tables, values
from tcpdconf.config.model.service import ServiceSettings
from tcpdconf.policy import connection, penalties
from tcpdconf.policy.penalties import Offence, Penalties, Penalty
from tcpdconf.policy.shared_limits import Table

_KINDS: Final[tuple[penalties.Kind, ...]] = get_args(penalties.Kind)
_STATUS: Final = 256  # codes from here on are exit statuses
_ACTIVE: Final = 512  # the bit of an enforced penalty
_CODES: Final = 1024
_UNIT: Final = 1024 * _CODES  # one second; a float is exact up to 2^53
_SLACK: Final = 1.0  # seconds by which two workers' times of a turn may differ


class SharedPenalties(Penalties):
    """Holds the penalties that the workers of the service `name` have charged."""

    def __init__(
        self, name: str, settings: tables.Penalties, trusted: Iterable[values.IPNetwork | str], table: Table
    ) -> None:
        super().__init__(settings, trusted)
        self.table = table
        self._tags = {
            version: hashlib.blake2b(repr(("penalty", name, version, shift)).encode(), digest_size=8).digest()
            for version, shift in self.networks.shifts.items()
        }

    def refusal(self, peer: connection.Endpoint, now: float) -> connection.Refused | None:
        """Return a refusal if the penalty of the peer's network is enforced now."""
        self._learn(peer, now)
        return super().refusal(peer, now)

    def offend(self, peer: connection.Endpoint, offence: Offence, now: float) -> Penalty | None:
        """Charge a peer's network with an offence, as `Penalties.offend` does."""
        self._learn(peer, now)
        penalty = super().offend(peer, offence, now)
        if penalty is not None:
            self.table.spend(self._key(peer), encoded(penalty), now)
        return penalty

    def _learn(self, peer: connection.Endpoint, now: float) -> None:
        """Remember a penalty that another worker has charged; none lasts longer than `max`."""
        value = self.table.full_at(self._key(peer))
        if not now < value <= now + self.settings.max + _SLACK:
            return
        penalty, bits = decoded(value), peer.value >> self.networks.shifts[peer.version]
        own = self._families[peer.version].penalties.get(bits)
        if own is None or encoded(own) < value:
            self._families[peer.version].put(bits, penalty)

    def _key(self, peer: connection.Endpoint) -> bytes:
        return self._tags[peer.version] + (peer.value >> self.networks.shifts[peer.version]).to_bytes(16)


def encoded(penalty: Penalty) -> float:
    """Return a penalty as a number: the time of its end in seconds, plus a code of less than 1/1024 s."""
    kind, _, status = penalty.offence.partition(" ")
    code = _STATUS + int(status) if status else next(i for i, each in enumerate(_KINDS) if each == kind)
    return (int(penalty.until * 1024) * _CODES + penalty.active * _ACTIVE + code) / _UNIT


def decoded(value: float) -> Penalty:
    """Return the penalty that a number encodes; every positive number encodes one."""
    until, code = divmod(int(value * _UNIT), _CODES)
    active, code = divmod(code, _ACTIVE)
    offence = Offence("status", code - _STATUS) if code > _STATUS else Offence(_KINDS[code % len(_KINDS)])
    return Penalty(until / 1024, bool(active), str(offence))


def renewed(
    before: Penalties | None, name: str, service: ServiceSettings, table: Table | None
) -> Penalties | None:
    """Return the penalties of a service as `penalties.renewed` does, shared in a table if there is one."""
    found = penalties.renewed(before, service)
    shares = found.table if isinstance(found, SharedPenalties) else None
    if found is None or shares is table:
        return found
    if table is None:
        made = Penalties(found.settings, found.trusted)
    else:
        made = SharedPenalties(name, found.settings, found.trusted, table)
    made.take_over(found)
    return made
