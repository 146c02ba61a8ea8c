"""Explains whether access rules and limits admit a connection.

It notes every rule with its place and the use of every limit.
"""

from collections.abc import Sequence

from tcpdconf.config.model.service import Service
from tcpdconf.daemon.worker.files import ServiceFiles
from tcpdconf.explain import notebook
from tcpdconf.policy import connection, decision, limits
from tcpdconf.policy.access import locate
from tcpdconf.policy.access.file import AccessFileError
from tcpdconf.policy.access.table import Rule


class Admission:
    """Decides the admission of one connection; `live` are the service's present clients (None: unknown)."""

    def __init__(
        self,
        service: Service,
        files: ServiceFiles,
        live: Sequence[connection.Endpoint] | None,
        notes: notebook.Notebook,
    ) -> None:
        self._service = service
        self._files = files
        self._live = live
        self._notes = notes

    def admit(
        self, sources: list[decision.NamedTable], link: connection.Link
    ) -> decision.Admitted | connection.Refused:
        """Apply access rules and limits, and note each step."""
        self._access(sources, link)
        slots = _Slots(self._service.limits)
        for held in self._live or ():
            slots.hold(held)
        everybody = limits.Use("max_connections", "", slots.total, slots.most)
        full = slots.full
        verdict = decision.admit(sources, slots, link, 0.0)
        if slots.seen:
            self._total(everybody, full=full)
        over = dict(verdict.detail).get("limit") if isinstance(verdict, connection.Refused) else None
        for use in slots.seen:
            effect = "over" if use.limit == over else "free" if use.held is not None else "unknown"
            self._limit(use, effect, self._used(use))
        return verdict

    def _total(self, use: limits.Use, *, full: bool) -> None:
        text = self._used(use) + (": the client waits until one has ended" if full else "")
        if self._live is None:
            text += "; how many there are is not known: no daemon was asked"
        self._limit(use, "waits" if full else "free", text)

    def _limit(self, use: limits.Use, effect: str, text: str) -> None:
        name = use.limit
        key = ("levels",) if name.startswith("levels") else (name,)
        self._notes.note("limit", name, effect, text, place=self._notes.place("limits", *key))

    def _used(self, use: limits.Use) -> str:
        whose = f" from {use.network}" if use.network else ""
        if use.held is None:
            return f"at most {use.most} in {use.seconds:g} s{whose}; how many came lately is not known"
        if self._live is None:
            return f"at most {use.most}{whose}"
        return f"{use.held} of {use.most}{whose}"

    def _access(self, sources: list[decision.NamedTable], link: connection.Link) -> None:
        """Note the rules that apply, and the sources that have no rule for the client."""
        counted = decision.consult(sources, link)
        decided = len(sources)
        for stage, source, rule in counted:
            index = next(place for place, each in enumerate(sources) if each is source)
            if stage == "peer":
                decided = index
                self._silent(sources[:index])
            wanted = locate.sought(source.table, stage, link)
            assert wanted is not None  # noqa: S101 (the rule was found there)
            self._rule(index, source, wanted, rule)
        if decided == len(sources) and all(rule.action == "allow" for _, _, rule in counted):
            self._silent(sources)
            if sources:
                self._notes.note("access", "", "allow", "no source has a rule for the client: allowed")

    def _silent(self, sources: Sequence[decision.NamedTable]) -> None:
        for source in sources:
            self._notes.note("access", source.name, "none", "has no rule for the client")

    def _rule(self, index: int, source: decision.NamedTable, wanted: locate.Sought, rule: Rule) -> None:
        text = f"{rule.action} {wanted}"
        if rule.max_per_ip is not None:
            text += f", max_per_ip {rule.max_per_ip}"
        place = self._written(index, wanted)
        self._notes.note("access", source.name, rule.action, text, place=place, sets=dict(rule.environment))

    def _written(self, index: int, wanted: locate.Sought) -> locate.RulePlace | None:
        source = self._service.access[index]
        if source.rules is not None:
            return self._notes.place("access", index, "rules", locate.in_rules(source.rules, wanted))
        try:
            return locate.in_files(self._files.access(index), source, wanted)
        except (OSError, ValueError, AccessFileError):
            return None  # the file has changed since the table was built


class _Slots(limits.Slots):
    """Records the use of the limits at the time when a slot is asked for."""

    seen: Sequence[limits.Use] = ()

    def take(
        self, peer: connection.Endpoint, max_per_ip: int | None, now: float
    ) -> connection.Refused | None:
        """Record the uses, then decide as `limits.Slots` does."""
        self.seen = self.uses(peer, max_per_ip)
        return super().take(peer, max_per_ip, now)
