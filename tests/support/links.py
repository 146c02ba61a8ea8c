"""Connections from addresses as people write them, and what a rule of a test is called."""

import ipaddress

from tcpdconf.policy import connection
from tcpdconf.policy.access.table import AccessTable, Rule

ANY = "127.0.0.1"


def end(text: str, port: int = 25) -> connection.Endpoint:
    """One end of a connection."""
    address = ipaddress.ip_address(text)
    return connection.endpoint(address.version, int(address), port)


def named(rule: Rule | None) -> str | None:
    """The variable V that a test gave a rule; its action where it has none."""
    return None if rule is None else dict(rule.environment).get("V", rule.action)


def answer(table: AccessTable, peer: str, local: str = ANY, port: int = 25) -> str | None:
    """The name of the rule for a client."""
    return named(table.find(connection.Link(end(peer, 1024), end(local, port))))


def local_answer(table: AccessTable, local: str, port: int = 25) -> str | None:
    """The name of the rule for a local end."""
    return named(table.find_local(connection.Link(end(ANY, 1024), end(local, port))))
