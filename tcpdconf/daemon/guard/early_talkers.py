"""Finds clients that send data before the program has greeted them.

A client that sends nothing for the whole time gets a pass, and does not wait again while the pass is valid.
Data is only peeked at (MSG_PEEK), so the program reads every byte.
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from tcpdconf.config.model import tables
from tcpdconf.daemon.guard.passes import Passes
from tcpdconf.daemon.process import loop
from tcpdconf.policy.connection import Endpoint

Found = Callable[[bool], None]
_Sent = Literal["nothing", "data", "end"]

_LOOK: Final = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)


@dataclass(slots=True, eq=False)
class _Waiting:
    """Holds a client that has sent nothing so far; the loop calls it when the client is readable.

    One object is both state and callback of a client, because thousands of clients may wait.
    """

    owner: "EarlyTalkers"
    client: socket.SocketType
    peer: Endpoint
    until: float
    found: Found

    def __call__(self) -> None:
        self.owner.readable(self)


class EarlyTalkers:
    """Waits for early data of one service's clients; each client waits for the same time."""

    def __init__(self, events: loop.Loop, settings: tables.EarlyTalker, passes: Passes) -> None:
        self.variable = settings.variable
        self._loop = events
        self._wait = settings.wait
        self._pass_for = settings.pass_for
        self._passes = passes
        self._waiting: dict[int, _Waiting] = {}  # by descriptor, the oldest first
        self._armed = False

    def knows(self, peer: Endpoint) -> bool:
        """Return whether this client has a pass."""
        return self._pass_for > 0 and self._passes.valid(peer, self._pass_for)

    def listen(self, client: socket.SocketType, peer: Endpoint, found: Found) -> None:
        """Wait for a client's data; call `found` once, perhaps before this returns.

        `found` gets True if the client has sent data. It gets False if the client has sent nothing for the
        whole time, or has closed its side.
        """
        waiting = _Waiting(self, client, peer, loop.now() + self._wait, found)
        sent = _sent(client)
        if sent != "nothing":
            self._settle(waiting, sent)
            return
        self._loop.watch(client, waiting)
        self._waiting[client.fileno()] = waiting
        if not self._armed:
            self._arm()

    def forget(self, client: socket.SocketType) -> None:
        """Stop waiting for a client, if it still waits; its `found` is not called."""
        if self._waiting.pop(client.fileno(), None) is not None:
            self._loop.forget(client)

    def readable(self, waiting: _Waiting) -> None:
        """Report a client that has sent data or has closed its side; ignore a spurious call."""
        sent = _sent(waiting.client)
        if sent != "nothing":
            self.forget(waiting.client)
            self._settle(waiting, sent)

    def _settle(self, waiting: _Waiting, sent: _Sent) -> None:
        if sent == "nothing" and self._pass_for > 0:
            self._passes.grant(waiting.peer, self._pass_for)
        waiting.found(sent == "data")

    def _arm(self) -> None:
        """Set the timer for the client that has waited longest; since all wait equally, it is the first."""
        self._armed = bool(self._waiting)
        if self._armed:
            oldest = next(iter(self._waiting.values()))
            self._loop.after(max(0.0, oldest.until - loop.now()), self._expire)

    def _expire(self) -> None:
        now = loop.now()
        while self._waiting and (oldest := next(iter(self._waiting.values()))).until <= now:
            self.forget(oldest.client)
            self._settle(oldest, _sent(oldest.client))  # its data may not have been noticed yet
        self._arm()


def _sent(client: socket.SocketType) -> _Sent:
    """Peek at a client's data; "end" means that it has closed its side or the connection has failed."""
    try:
        return "data" if client.recv(1, _LOOK) else "end"
    except BlockingIOError:
        return "nothing"
    except OSError:
        return "end"
