"""Charges the clients of one service with their offences, and reports their penalties.

`policy.penalties` has the rules, and keeps the penalties.
"""

import functools
import os
from collections.abc import Callable, Sequence

from tcpdconf.config.model.service import ServiceSettings
from tcpdconf.daemon.messages.cluster import NetworkPenalty
from tcpdconf.daemon.messages.worker import MOST_PENALTIES, Address, PenaltiesStatus, PenaltyStatus
from tcpdconf.daemon.process import log, loop, throttle
from tcpdconf.policy import penalties, shared_penalties
from tcpdconf.policy.access import table as access_table
from tcpdconf.policy.connection import Endpoint, Refused, endpoint
from tcpdconf.policy.shared_limits import Table


class Offences:
    """Charges the clients of one service, and logs each penalty.

    `charged` is called for each penalty, `enforced` for each one that is enforced: the other hosts enforce it
    as well.
    """

    def __init__(
        self,
        name: str,
        events: loop.Loop,
        charged: Callable[[], object],
        enforced: Callable[[NetworkPenalty], object],
    ) -> None:
        self.penalties: penalties.Penalties | None = None  # None: the service has none
        self._name = name
        self._charged = charged
        self._enforced = enforced
        self._throttle = throttle.Throttle(events.after, self._log_suppressed)

    def renew(self, service: ServiceSettings, table: Table | None) -> None:
        """Charge by these settings from now on, together with the workers that share the table."""
        self.penalties = shared_penalties.renewed(self.penalties, self._name, service, table)

    def close(self) -> None:
        """Charge nobody from now on."""
        self.penalties = None

    def refusal(self, peer: Endpoint) -> Refused | None:
        """Return a refusal if a penalty of the peer's network is enforced now."""
        return None if self.penalties is None else self.penalties.enforced(peer, loop.now())

    def charge(self, peer: Endpoint, kind: penalties.Kind) -> None:
        """Charge a client with an offence, if the service has a penalty for it."""
        if self.penalties is not None:
            self._charge(self.penalties, peer, penalties.Offence(kind))

    def charge_exit(self, peer: Endpoint, status: int) -> None:
        """Charge a client if the end of its program is an offence; `status` is that of wait(2)."""
        if self.penalties is not None:
            offence = penalties.of_exit(os.waitstatus_to_exitcode(status))
            if offence is not None:
                self._charge(self.penalties, peer, offence)

    def _charge(self, kept: penalties.Penalties, peer: Endpoint, offence: penalties.Offence) -> None:
        now = loop.now()
        penalty = kept.offend(peer, offence, now)
        if penalty is None:
            return
        self._charged()
        source = kept.of(peer, now) if penalty.active else None
        if source is not None and penalty.until > now:
            version, bits, length, _ = source
            left = penalty.until - now
            self._enforced(NetworkPenalty(4 if version == 4 else 6, bits, length, left, penalty.offence))
        suppressed = self._throttle.pass_("", now)
        if suppressed is not None:
            fields: dict[str, object] = {"peer": peer, "network": kept.networks.shown(peer)}
            fields |= {"offence": offence, "seconds": round(penalty.until - now, 1)}
            fields |= {"active": "yes" if penalty.active else "no"}
            fields |= {"unlogged": suppressed} if suppressed else {}
            log.write("notice", "penalty", service=self._name, **fields)

    def restore(self, told: Sequence[NetworkPenalty]) -> None:
        """Adopt penalties of other hosts, for as long as this service allows them."""
        if self.penalties is None:
            return
        now = loop.now()
        for version, bits, length, seconds, offence in told:
            peer = endpoint(version, bits << access_table.BITS[version] - length, 0)
            before = self.penalties.of(peer, now)
            until = now + min(seconds, self.penalties.settings.max)
            if before is None or before.penalty.until < until:
                penalty = penalties.Penalty(until, True, offence)
                self.penalties.restore(penalties.Source(version, bits, length, penalty))

    def status(self, about: Sequence[Address]) -> PenaltiesStatus | None:
        """Return the penalties of the service, or None if it has none.

        Those of the addresses in `about` are among them in any case.
        """
        if self.penalties is None:
            return None
        now = loop.now()
        active = self.penalties.active(now)  # forgets those that have expired
        sources = self.penalties.latest(now, MOST_PENALTIES)
        for version, value in about:
            wanted = self.penalties.of(endpoint(version, value, 0), now)
            if wanted is not None and wanted not in sources:
                sources.append(wanted)
        return PenaltiesStatus(active, tuple(map(functools.partial(_status, now), sources)))

    def log_suppressed(self) -> None:
        """Log the number of lines that were suppressed so far."""
        self._throttle.report()

    def _log_suppressed(self, _: str, count: int) -> None:
        log.write("notice", "suppressed", service=self._name, line="penalty", unlogged=count)


def _status(now: float, source: penalties.Source) -> PenaltyStatus:
    version, bits, length, penalty = source
    left = max(0.0, round(penalty.until - now, 1))
    return PenaltyStatus(4 if version == 4 else 6, bits, length, penalty.offence, left, penalty.active)
