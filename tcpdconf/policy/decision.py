"""Decides about one connection: penalties, access rules and limits first, then `drop`.

    admit:   penalty, local rules, client's rule, per address, per network, further levels, rates
    (names and DNS lists are asked here, when a service has them)
    screen:  drop

Admission takes a slot. The caller releases it when it refuses the connection later or its program exits.

Limits and sources with `enforce = false` refuse nobody. For each admitted connection, `admit` tells the
refusal that it would get if all of them were enforced.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from tcpdconf.config.model import tables
from tcpdconf.policy import connection, limits
from tcpdconf.policy.access.table import AccessTable, Find, Rule, Stage
from tcpdconf.policy.penalties import Penalties


class NamedTable(NamedTuple):
    """Pairs the table of an access source with the name that log lines use for it."""

    name: str
    table: AccessTable


class Admitted(NamedTuple):
    """Admits a connection, which now holds a slot; `variables` come from its access rules, local rules first.

    `unenforced` is the refusal that it would get if all limits and sources were enforced. `max_per_ip` is the
    value of an access rule that replaces that of the limits, or None.
    """

    variables: tuple[tuple[str, str], ...]
    unenforced: connection.Refused | None = None
    max_per_ip: int | None = None


Decisive = tuple[Stage, NamedTable, Rule]  # the end whose address matched, the source, the rule

_STAGES: Final[tuple[tuple[Stage, Find], ...]] = (
    ("local", AccessTable.find_local),
    ("proxied_local", AccessTable.find_proxied),
    ("peer", AccessTable.find),
)
_DIRECT: Final = tuple(stage for stage in _STAGES if stage[0] != "proxied_local")


def enforced(sources: Sequence[NamedTable], settings: Sequence[tables.AccessSource]) -> list[NamedTable]:
    """Return the sources of a service that are enforced (not `enforce = false`)."""
    return [source for source, each in zip(sources, settings, strict=True) if each.enforce]


def consult(sources: Sequence[NamedTable], link: connection.Link) -> list[Decisive]:
    """Return the rules that apply to a connection, in order; a rule that denies is the last.

    Rules for the local ends and rules for the client are looked up separately. For each address the first
    source that has a rule decides.
    """
    found = []
    for stage, find in _STAGES if link.proxy is not None else _DIRECT:
        for source in sources:
            rule = find(source.table, link)
            if rule is not None:
                found.append((stage, source, rule))
                if rule.action == "deny":
                    return found
                break
    return found


def admit(
    sources: Sequence[NamedTable],
    slots: limits.Slots,
    link: connection.Link,
    now: float,
    observed: Sequence[NamedTable] | None = None,
    *,
    penalties: Penalties | None = None,
    reserved: list[limits.RateLimiter] | None = None,
) -> Admitted | connection.Refused:
    """Decide by penalties, access rules and limits, and take a slot if the connection is admitted.

    Any applicable rule that denies refuses the connection. Otherwise the variables of all rules apply, the
    client's over the local ones (manual, -accesslocal). Without a rule the connection is allowed.

    `sources` are the enforced ones. If others exist, `observed` has all sources of the service. `now` is
    seconds of a monotonic clock.
    With `reserved`, tokens of rates are only reserved (`Slots.take`).
    """
    penalised = None if penalties is None else penalties.refusal(link.peer, now)
    if penalised is not None and penalties is not None and penalties.settings.enforce:
        return penalised
    variables: tuple[tuple[str, str], ...] = ()
    max_per_ip = None
    for stage, source, rule in consult(sources, link):
        if rule.action == "deny":
            return connection.Refused("access", (("source", source.name),), stage != "peer")
        variables += rule.environment
        max_per_ip = rule.max_per_ip or max_per_ip
    refused = slots.take(link.peer, max_per_ip, now, reserved)
    if refused is not None:
        return refused
    if penalised is not None:
        return Admitted(variables, penalised, max_per_ip)
    if observed is None and not slots.observes:
        return Admitted(variables, None, max_per_ip)
    unenforced = _unenforced(sources if observed is None else observed, slots, link, now, reserved)
    return Admitted(variables, unenforced, max_per_ip)


def _unenforced(
    sources: Sequence[NamedTable],
    slots: limits.Slots,
    link: connection.Link,
    now: float,
    reserved: list[limits.RateLimiter] | None,
) -> connection.Refused | None:
    """Return the refusal that an admitted connection would get from all sources and all limits."""
    max_per_ip = None
    for stage, source, rule in consult(sources, link):
        if rule.action == "deny":
            return connection.Refused("access", (("source", source.name),), stage != "peer")
        max_per_ip = rule.max_per_ip or max_per_ip
    return slots.would_refuse(link.peer, max_per_ip, now, reserved)


def screen(drop: Sequence[str], *environment: Mapping[str, str]) -> connection.Refused | None:
    """Refuse the connection if a variable named in `drop` has a value that is not empty.

    `environment` is a series of layers; the first layer that has the variable wins.
    """
    for name in drop:
        value = next((layer[name] for layer in environment if name in layer), "")
        if value:
            return connection.Refused("dropped", (("variable", name), ("value", value)))
    return None
