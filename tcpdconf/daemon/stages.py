"""What is known of a connection on its way to a program, and what it is served with."""

import socket
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from tcpdconf.config import model
from tcpdconf.daemon import lookups, program, reception
from tcpdconf.policy import connection, decision, dialect


class Serving(NamedTuple):
    """What a connection is served with: each keeps what it was accepted under.

    `base` is the environment of every program, `messages` what a refused client is told, by reason.
    """

    service: model.Service
    sources: Sequence[decision.Source]
    base: Mapping[str, str]
    runner: program.Program
    lookups: lookups.Lookups | None
    messages: Mapping[str, bytes]
    ways: dialect.Dialect = dialect.TOML


class Arrived(NamedTuple):
    """A connection that may go on to be decided, with the variables of its PROXY header."""

    serving: Serving
    socket: socket.socket
    link: connection.Connection
    variables: Mapping[str, str]


class Admitted(NamedTuple):
    """A connection that holds a slot and has no program yet."""

    serving: Serving
    socket: socket.socket
    link: connection.Connection
    variables: Mapping[str, str]
    until: float


class Former:
    """What was served with before, each with who had accepted by then: kept while a connection may use it."""

    def __init__(self) -> None:
        self._kept: list[tuple[Serving, Sequence[reception.Reception]]] = []

    def __bool__(self) -> bool:
        return bool(self._kept)

    def add(self, serving: Serving, receptions: Sequence[reception.Reception]) -> None:
        """Keep what was served with until now."""
        self._kept.append((serving, receptions))

    def let_go(self, in_use: Collection[Serving]) -> None:
        """Close what no connection uses: none on its way to a program, and none whose header is awaited."""
        kept = []
        for serving, receptions in self._kept:
            if any(each.pending for each in receptions) or any(each is serving for each in in_use):
                kept.append((serving, receptions))
            else:
                serving.runner.close()
        self._kept = kept


def ends(link: connection.Connection) -> dict[str, object]:
    """Who a log line says is connected: the client, and the proxy it came by."""
    return {"peer": link.peer} if link.proxy is None else {"peer": link.peer, "via": link.proxy.peer}
