"""Answers HAProxy's agent-check: each client of an agent's socket gets one line, and its data is never read.

    up N% ready   N percent of the slots are free, at least 1; "ready" takes back an earlier drain
    drain         the service stops: send it no new clients
    down          the service does not run: its worker does not stay up, or does not start to serve

The supervisor answers itself, because only it can say `down` for a worker that has died. It parses nothing,
and its write never blocks: the line fits into the empty send buffer of a new connection.
"""

import contextlib
import errno
import socket
from collections.abc import Callable, Collection, Mapping
from typing import Final, NamedTuple

from tcpdconf.config import collisions
from tcpdconf.config.model import tables
from tcpdconf.config.model.agent import Agent
from tcpdconf.config.model.values import IPNetwork
from tcpdconf.daemon.process import log, loop, throttle

_BACKLOG: Final = 128
_TURN: Final = 16  # most clients that are answered before other callbacks run
_REST: Final = 0.05  # seconds of pause after each turn; further clients wait in the backlog
_STARTS: Final = 2.0  # seconds in which a worker may start to serve; its clients wait in the backlog
_STEADY: Final = 10.0  # seconds after which a worker that did not stay up is trusted again
_SCARCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class State(NamedTuple):
    """Holds the state of a service for an answer; `running` is the age of the worker's process in seconds."""

    draining: bool
    serves: bool
    stays_up: bool
    running: float
    connections: int
    max_connections: int


def answer(now: State) -> bytes:
    """Return the line for a client.

    A full service is not `drain`: its clients wait in the backlog, and a proxy whose servers are all full has
    to choose one of them. A single end of a worker is not `down` either, since the next worker serves soon.

    >>> answer(State(False, True, True, 60, 8, 40)).decode().rstrip()
    'up 80% ready'
    """
    if now.draining:
        return b"drain\n"
    patience = now.running < _STARTS and now.stays_up
    if not (now.serves or patience) or not (now.stays_up or now.running >= _STEADY):
        return b"down\n"
    free = now.max_connections - min(now.connections, now.max_connections)
    return b"up %d%% ready\n" % max(1, 100 * free // now.max_connections)


def listener(settings: Agent) -> tables.Listener:
    """Return the listener that the agent's socket is bound for."""
    address, port = settings.listen
    return tables.Listener(address=collisions.unmapped(address), port=port, backlog=_BACKLOG)


class Answering(NamedTuple):
    """Holds a listening socket, the networks that get an answer, and the function that makes the line."""

    socket: socket.socket
    allow: Collection[IPNetwork | str]
    line: Callable[[], bytes]


class Agents:
    """Answers for all agents of the daemon."""

    def __init__(self, events: loop.Loop) -> None:
        self._loop = events
        self._agents: dict[str, Answering] = {}
        self._resting: set[socket.socket] = set()
        self._seldom = throttle.Seldom()

    @property
    def sockets(self) -> frozenset[socket.socket]:
        """Return the listening sockets."""
        return frozenset(each.socket for each in self._agents.values())

    def serve(self, agents: Mapping[str, Answering]) -> None:
        """Answer at exactly these agents (by service) from now on; the caller keeps owning their sockets."""
        for each in self._agents.values():
            if each.socket not in self._resting:
                self._loop.forget(each.socket)
        self._agents = dict(agents)
        self._resting.clear()
        for name in agents:
            self._watch(name)

    def close(self) -> None:
        """Stop answering, and close the sockets."""
        closing = self.sockets
        self.serve({})
        for each in closing:
            each.close()

    def _watch(self, name: str) -> None:
        self._loop.watch(self._agents[name].socket, lambda: self._turn(name))

    def _turn(self, name: str) -> None:
        """Answer some clients, then pause the agent, so that it takes little of the supervisor's time."""
        agent, count = self._agents[name], 0
        line = agent.line()
        while count < _TURN:
            count += 1
            try:
                client, (address, *_) = agent.socket.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno not in _SCARCE:
                    continue  # an error of this client's connection (accept(2))
                if self._seldom.due(f"accept {name}", loop.now()):
                    log.error(f"agent cannot accept: {error.strerror}", service=name)
                break
            with client:
                if self._admits(name, agent, address):
                    with contextlib.suppress(OSError):
                        client.send(line, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        self._rest(name, agent.socket)

    def _admits(self, name: str, agent: Answering, address: str) -> bool:
        if not agent.allow or collisions.is_within(address, agent.allow):
            return True
        if self._seldom.due(f"refused {name}", loop.now()):
            log.write("notice", "agent refused", service=name, peer=collisions.unmapped(address))
        return False

    def _rest(self, name: str, resting: socket.socket) -> None:
        self._loop.forget(resting)
        self._resting.add(resting)

        def wake() -> None:
            if resting in self._resting:
                self._resting.discard(resting)
                self._watch(name)

        self._loop.after(_REST, wake)
