"""What is known of a connection on its way to a program, and what it is served with."""

import socket
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tcpdconf.config import dialect
from tcpdconf.config.model.service import Service
from tcpdconf.daemon.dns import lookups
from tcpdconf.daemon.worker import program
from tcpdconf.policy import connection, decision


class Serving(NamedTuple):
    """What a connection is served with: each keeps what it was accepted under.

    `base` is the environment of every program, `messages` what a refused client is told, by reason.
    """

    service: Service
    sources: Sequence[decision.NamedTable]
    base: Mapping[str, str]
    runner: program.Program
    lookups: lookups.Lookups | None
    messages: Mapping[str, bytes]
    ways: dialect.Dialect = dialect.TOML


class Arrived(NamedTuple):
    """A connection that may go on to be decided, with the variables of its PROXY header."""

    serving: Serving
    socket: socket.socket
    link: connection.Link
    variables: Mapping[str, str]


class Admitted(NamedTuple):
    """A connection that holds a slot and has no program yet."""

    serving: Serving
    socket: socket.socket
    link: connection.Link
    variables: Mapping[str, str]
    until: float


def ends(link: connection.Link) -> dict[str, object]:
    """Who a log line says is connected: the client, and the proxy it came by."""
    return {"peer": link.peer} if link.proxy is None else {"peer": link.peer, "via": link.proxy.peer}
