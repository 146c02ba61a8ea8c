"""Explains whether penalties, access rules and limits admit a connection.

It notes every rule with its place and the use of every limit.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from tcpdconf.config.model.service import Service
from tcpdconf.daemon.cluster import layout
from tcpdconf.daemon.cluster.records import Answer
from tcpdconf.daemon.worker.files import ServiceFiles
from tcpdconf.explain.report import Recorder
from tcpdconf.policy import connection, decision, limits, penalties
from tcpdconf.policy.access import locate
from tcpdconf.policy.access import table as access_table
from tcpdconf.policy.access.file import AccessFileError


class Admission:
    """Decides the admission of one connection.

    `live` are the service's present clients, and `charged` its penalties as `status` shows them (None:
    unknown). `elsewhere` are the clients of the other services of its group.
    `other_hosts` are the client's connections on other hosts by prefix length (None: unknown).
    """

    def __init__(
        self,
        service: Service,
        files: ServiceFiles,
        live: Sequence[connection.Endpoint] | None,
        charged: Mapping[str, Any] | None,
        recorder: Recorder,
        *,
        elsewhere: Sequence[connection.Endpoint] = (),
        other_hosts: Mapping[str, Mapping[str, int]] | None,
    ) -> None:
        self._service = service
        self._files = files
        self._live = live
        self._elsewhere = elsewhere
        self._charged = charged
        self._recorder = recorder
        self._other_hosts = other_hosts

    def penalty(self, peer: connection.Endpoint) -> penalties.Penalties | None:
        """Note the penalty of a client, and return the penalties of the service."""
        found = penalties.renewed(None, self._service)
        if found is None:
            return None
        for row in () if self._charged is None else self._charged["sources"]:
            found.restore(_source(row))
        effect, text = self._judged(found, peer)
        place = self._recorder.place("penalties")
        self._recorder.step("penalty", found.networks.shown(peer), effect, text, place=place)
        return found

    def _judged(self, found: penalties.Penalties, peer: connection.Endpoint) -> tuple[str, str]:
        """Return the effect of a client's penalty, and a text for people."""
        if found.exempts(peer):
            return "exempt", "exempt from penalties"
        if self._charged is None:
            return "unknown", "the present penalties are unknown: no daemon was asked"
        source = found.of(peer, 0.0)
        if source is None:
            return "none", "has no penalty"
        penalty = source.penalty
        left = f"{penalty.until:.0f} s left, the last offence: {penalty.offence}"
        if penalty.active and not found.settings.enforce:
            return "would-refuse", f"{left}: would be refused if enforced"
        if penalty.active:
            return "enforced", f"refused: {left}"
        return "below-min", f"{left}; not enforced below {found.settings.min:g} s"

    def admit(
        self, sources: list[decision.NamedTable], link: connection.Link
    ) -> decision.Admitted | connection.Refused:
        """Apply penalties, access rules and limits, and note each step."""
        charged = self.penalty(link.peer)
        penalised = None if charged is None else charged.enforced(link.peer, 0.0)
        if penalised is not None:
            return penalised
        deciding = decision.enforced(sources, self._service.access)
        observed = sources if len(deciding) < len(sources) else None
        self._access(sources, deciding, link)
        slots = _Slots(self._service.limits)
        for held in self._live or ():
            slots.hold(held)
        everybody = limits.Use("max_connections", "", slots.total, slots.most)
        full = slots.full
        for held in self._elsewhere:  # they count, but take no slot of this service
            slots.hold(held)
        slots.total -= len(self._elsewhere)
        verdict = decision.admit(deciding, slots, link, 0.0, observed, penalties=charged)
        if slots.seen:
            text = self._used(everybody) + (": the client waits until one ends" if full else "")
            if self._live is None:
                text += ", the present number is unknown: no daemon was asked"
            self._limit(everybody, "waits" if full else "free", text)
        refused = verdict if isinstance(verdict, connection.Refused) else verdict.unenforced
        over = None if refused is None else dict(refused.detail).get("limit")
        for use in slots.seen:
            effect = "free" if use.held is not None else "unknown"
            text = self._used(use)
            if use.limit == over:
                effect = "over" if refused is verdict else "would-refuse"
                text += "" if refused is verdict else ": would be refused if enforced"
            elif not use.enforced:
                text += ", not enforced"
            self._limit(use, effect, text)
        if isinstance(verdict, connection.Refused) or self._service.limits.scope == "host":
            return verdict
        return self._everywhere(verdict, link.peer)

    def _everywhere(
        self, verdict: decision.Admitted, peer: connection.Endpoint
    ) -> decision.Admitted | connection.Refused:
        """Apply the limits to the connections of all hosts, and note the use of each."""
        would, refused = verdict.unenforced, None
        for index, each in enumerate(layout.of(self._service.limits)):
            prefix, most = each.limit.prefix(peer.version), each.limit.most
            if index == 0:
                most = verdict.max_per_ip or most
            if prefix is None or not most:
                continue
            here = self._here(peer, prefix)
            elsewhere = None if self._other_hosts is None else self._other_hosts.get(str(prefix))
            effect, text = "unknown", "the engine was not asked"
            if each.limit.seconds is not None:
                text = (
                    f"at most {most} in {each.limit.seconds:g} s on all hosts, the recent number is unknown"
                )
            elif elsewhere is not None:
                total = here + sum(elsewhere.values())
                hosts = ", ".join(f"{name} {count}" for name, count in sorted(elsewhere.items()) if count)
                text = f"{total} of {most} on all hosts" + (f" (elsewhere: {hosts})" if hosts else "")
                answer = Answer("refused", held=total, elsewhere=total - here)
                effect = "free"
                if total >= most and each.limit.enforced:
                    effect, refused = "over", refused or each.refusal(answer, most)
                elif total >= most:
                    effect, would = "would-refuse", would or each.refusal(answer, most)
                    text += ": would be refused if enforced"
            place = self._recorder.place("limits", each.name.partition("[")[0])
            self._recorder.step("cluster", each.name, effect, text, place=place)
        return verdict._replace(unenforced=would) if refused is None else refused

    def _here(self, peer: connection.Endpoint, prefix: int) -> int:
        shift = access_table.BITS[peer.version] - prefix
        network = peer.version, peer.value >> shift
        return sum(
            (each.version, each.value >> shift) == network for each in (*(self._live or ()), *self._elsewhere)
        )

    def _limit(self, use: limits.Use, effect: str, text: str) -> None:
        name = use.limit
        key = ("levels",) if name.startswith("levels") else (name,)
        self._recorder.step("limit", name, effect, text, place=self._recorder.place("limits", *key))

    def _used(self, use: limits.Use) -> str:
        whose = f" from {use.network}" if use.network else ""
        if use.held is None:
            return f"at most {use.rate}{whose}, the recent number is unknown"
        if self._live is None:
            return f"at most {use.most}{whose}"
        return f"{use.held} of {use.most}{whose}"

    def _access(
        self,
        sources: list[decision.NamedTable],
        deciding: list[decision.NamedTable],
        link: connection.Link,
    ) -> None:
        """Note the rules that apply, those that only observe, and sources without a rule for the client."""
        if len(deciding) < len(sources):
            for each in decision.consult(sources, link):
                if not any(each[1] is source for source in deciding):
                    self._rule(sources, each, link, observed=True)
        counted = decision.consult(deciding, link)
        decided = len(sources)
        for each in counted:
            if each[0] == "peer":
                decided = _index(sources, each[1])
                self._silent(sources[:decided], link)
            self._rule(sources, each, link)
        if decided == len(sources) and all(rule.action == "allow" for _, _, rule in counted):
            self._silent(sources, link)
            if sources:
                of = "source" if len(deciding) == len(sources) else "enforced source"
                self._recorder.step("access", "", "allow", f"no {of} has a rule for the client: allowed")

    def _silent(self, sources: Sequence[decision.NamedTable], link: connection.Link) -> None:
        for source in sources:
            if source.table.find(link) is None:  # one that only observes may have a rule
                self._recorder.step("access", source.name, "none", "has no rule for the client")

    def _rule(
        self,
        sources: list[decision.NamedTable],
        decisive: decision.Decisive,
        link: connection.Link,
        *,
        observed: bool = False,
    ) -> None:
        stage, source, rule = decisive
        index = _index(sources, source)
        wanted = locate.sought(source.table, stage, link)
        assert wanted is not None  # noqa: S101 (the rule was found there)
        text = f"{rule.action} {wanted}"
        if rule.max_per_ip is not None:
            text += f", max_per_ip {rule.max_per_ip}"
        effect: str = rule.action
        if observed and effect == "deny":
            effect, text = "would-refuse", f"{text}: would be refused if enforced"
        elif observed:
            effect, text = "ignored", f"{text}: ignored, not enforced"
        self._recorder.step(
            "access",
            source.name,
            effect,
            text,
            place=self._written(index, wanted),
            sets={} if observed else dict(rule.environment),
        )

    def _written(self, index: int, wanted: locate.Sought) -> locate.RulePlace | None:
        source = self._service.access[index]
        if source.rules is not None:
            return self._recorder.place("access", index, "rules", locate.in_rules(source.rules, wanted))
        try:
            return locate.in_files(self._files.access(index), source, wanted)
        except (OSError, ValueError, AccessFileError):
            return None  # the file has changed since the table was built


def _index(sources: Sequence[decision.NamedTable], source: decision.NamedTable) -> int:
    return next(place for place, each in enumerate(sources) if each is source)


class _Slots(limits.Slots):
    """Records the use of the limits at the time when a slot is asked for."""

    seen: Sequence[limits.Use] = ()

    def take(
        self,
        peer: connection.Endpoint,
        max_per_ip: int | None,
        now: float,
        reserved: list[limits.RateLimiter] | None = None,
    ) -> connection.Refused | None:
        """Record the uses, then decide as `limits.Slots` does."""
        self.seen = self.uses(peer, max_per_ip)
        return super().take(peer, max_per_ip, now, reserved)


def _source(row: Mapping[str, Any]) -> penalties.Source:
    """Return a penalty that the daemon has reported, as of time 0."""
    network = ipaddress.ip_network(row["network"])
    bits = int(network.network_address) >> network.max_prefixlen - network.prefixlen
    penalty = penalties.Penalty(row["seconds"], row["active"], row["offence"])
    return penalties.Source(network.version, bits, network.prefixlen, penalty)
