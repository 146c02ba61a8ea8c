"""The order of everything that is decided about one connection, on one page.

    admit:   local rules, client's rule, per address, per network, further levels, rates
    (names and DNS lists are asked here, when a service has them)
    screen:  drop

A slot is taken at admission. Whoever refuses the connection later, or sees its program end, releases it.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from tcpdconf.policy import connection, limits
from tcpdconf.policy.access.table import AccessTable, Find, Rule, Stage


class NamedTable(NamedTuple):
    """An access source: `name` is what log lines call it."""

    name: str
    table: AccessTable


class Admitted(NamedTuple):
    """A connection that holds a slot; `variables` are those of its access rules, local ones first."""

    variables: tuple[tuple[str, str], ...]


Decisive = tuple[Stage, NamedTable, Rule]  # whose address a rule was found by, in which source, and it

_STAGES: Final[tuple[tuple[Stage, Find], ...]] = (
    ("local", AccessTable.find_local),
    ("proxied_local", AccessTable.find_proxied),
    ("peer", AccessTable.find),
)
_DIRECT: Final = tuple(stage for stage in _STAGES if stage[0] != "proxied_local")


def consult(sources: Sequence[NamedTable], link: connection.Link) -> list[Decisive]:
    """The rules that count for a connection, in order; one that denies is the last.

    The rules for the local ends and for the client are found apart. Of several sources the first that has a
    rule decides.
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
    sources: Sequence[NamedTable], slots: limits.Slots, link: connection.Link, now: float
) -> Admitted | connection.Refused:
    """Decide by access rules and limits, and take a slot.

    A deny of any rule that counts refuses, the variables of all count, the client's over the local ones
    (manual, -accesslocal). Where there is no rule the answer is allow.
    """
    variables: tuple[tuple[str, str], ...] = ()
    max_per_ip = None
    for stage, source, rule in consult(sources, link):
        if rule.action == "deny":
            return connection.Refused("access", (("source", source.name),), stage != "peer")
        variables += rule.environment
        max_per_ip = rule.max_per_ip or max_per_ip
    return slots.take(link.peer, max_per_ip, now) or Admitted(variables)


def screen(drop: Sequence[str], *environment: Mapping[str, str]) -> connection.Refused | None:
    """Refuse when one of the variables in `drop` is not empty; `environment` is in layers, the first wins."""
    for name in drop:
        value = next((layer[name] for layer in environment if name in layer), "")
        if value:
            return connection.Refused("dropped", (("variable", name), ("value", value)))
    return None
