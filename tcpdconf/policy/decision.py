"""The order of everything that is decided about one connection, on one page.

    admit:   local rules, client's rule, per address, per network, further levels, rates
    (names and DNS lists are asked here, when a service has them)
    screen:  drop

A slot is taken at admission. Whoever refuses the connection later, or sees its program end, releases it.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from tcpdconf.policy import access, connection, limits


class Source(NamedTuple):
    """An access source: `name` is what log lines call it."""

    name: str
    table: access.AccessTable


class Admitted(NamedTuple):
    """A connection that holds a slot; `variables` are those of its access rules, local ones first."""

    variables: tuple[tuple[str, str], ...]


_STAGES: Final = (access.AccessTable.find_local, access.AccessTable.find_proxied, access.AccessTable.find)


def admit(
    sources: Sequence[Source], slots: limits.Slots, link: connection.Connection, now: float
) -> Admitted | connection.Refused:
    """Decide by access rules and limits, and take a slot.

    The rules for the local ends and for the client are found apart: a deny of any refuses, the variables of
    all count, the client's over the local ones (manual, -accesslocal). Of several sources the first that
    has a rule decides; where none has, the answer is allow.
    """
    variables: tuple[tuple[str, str], ...] = ()
    max_per_ip = None
    for find in _STAGES:
        for source in sources:
            rule = find(source.table, link)
            if rule is None:
                continue
            if rule.action == "deny":
                return connection.Refused("access", (("source", source.name),))
            variables += rule.environment
            max_per_ip = rule.max_per_ip or max_per_ip
            break
    return slots.take(link.peer, max_per_ip, now) or Admitted(variables)


def screen(drop: Sequence[str], *environment: Mapping[str, str]) -> connection.Refused | None:
    """Refuse when one of the variables in `drop` is not empty; `environment` is in layers, the first wins."""
    for name in drop:
        value = next((layer[name] for layer in environment if name in layer), "")
        if value:
            return connection.Refused("dropped", (("variable", name), ("value", value)))
    return None
