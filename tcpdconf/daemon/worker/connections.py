"""Decides on a service's connections, from their arrival until each has a program or is closed.

A connection crosses four modules: `acceptor` accepts it (and `proxy_reader` reads its PROXY header), this one
decides, `launcher` starts its program, `children` waits for the program's end. Without PROXY headers and DNS
this module decides as soon as a connection is accepted, and keeps nothing for one that it refuses.
"""

import collections
import functools
import os
from collections.abc import Collection, Sequence
from typing import Final

from tcpdconf.config.model import tables
from tcpdconf.daemon.messages.worker import Counter
from tcpdconf.daemon.process import log, loop, procfs, throttle
from tcpdconf.daemon.worker.acceptor import Acceptor, Listener
from tcpdconf.daemon.worker.children import AdoptedProgram, Children
from tcpdconf.daemon.worker.connection import Connection, Serving, tell
from tcpdconf.daemon.worker.launcher import Launcher
from tcpdconf.daemon.worker.ledger import Books, Ledger
from tcpdconf.policy import decision, environ, limits
from tcpdconf.policy.connection import Endpoint, Refused

_STOPPING: Final = Refused("spawn", (("error", "stopping"),))


class Connections:
    """Serves the connections of one service, and keeps its programs.

    The owner calls `children.reap` on SIGCHLD. It also passes to `children` what other processes report of
    adopted programs.
    """

    def __init__(self, name: str, events: loop.Loop, held: Ledger, lineage: procfs.Lineage) -> None:
        self.children = Children(name, held, self._release)
        self._name = name
        self._loop = events
        self._ledger = held
        self._books: Books = held
        self._lineage = lineage
        self._serving: Serving | None = None  # the settings for new connections
        self._former: list[Serving] = []  # earlier settings, each while a connection uses it
        self._acceptors: list[Acceptor] = []  # the last one accepts, the others only await headers
        self._slots = limits.Slots(tables.Limits())
        self._open: set[Connection] = set()  # those that wait for a slot, DNS or their program
        self._parked: collections.deque[Connection] = collections.deque()  # those that wait for a slot
        self._launcher = Launcher(
            name,
            events,
            started=self._started,
            refused=self._refuse,
            broken=self._break_off,
            waits=self._poll,
        )
        self._admitting = False  # `_admit` will be called
        self._sweeping = False  # `_sweep` will be called
        self._closed = False
        self._throttle = throttle.Throttle()
        self._seldom = throttle.Seldom()

    def serve(self, serving: Serving, listeners: list[Listener], inherited: Sequence[Listener] = ()) -> None:
        """Accept connections at these listeners from now on, and serve them with these settings.

        Connections that were accepted before keep their own settings, which are closed once no connection
        uses them. Clients that wait at an inherited listener are accepted before it is closed. The first call
        adopts the running programs of earlier workers from the ledger.
        """
        self._slots = self._slots.resized(serving.service.limits)
        self._ledger.grow(self._slots.most)
        if not self._acceptors:
            for held, runs in self._ledger.take_over(self._lineage):
                self._adopt(AdoptedProgram(held, runs.start, proven=self._lineage.proves(runs)))
        made = self._acceptor(serving, listeners)
        emptied = self._acceptor(serving, inherited)
        if self._serving is not None:
            self._former.append(self._serving)
            self._acceptors[-1].retire({os.fstat(each.fileno()).st_ino for each, _ in listeners})
        self._serving = serving
        self._acceptors = [*self._acceptors, emptied, made]
        emptied.retire(())
        self._acceptors = [each for each in self._acceptors if each.awaiting or each is made]
        self._books.set("connections", self._slots.total)
        self._launcher.renew()
        self._sweep()
        self._poll()

    def _acceptor(self, serving: Serving, listeners: Sequence[Listener]) -> Acceptor:
        return Acceptor(
            self._loop,
            self._name,
            serving,
            listeners,
            arrived=self._arrive,
            refused=self._refuse,
            left=self._leave,
            settle=self._launcher.start,
        )

    def retire(self, books: Books, kept: Collection[int]) -> None:
        """Stop accepting, and record the remaining connections in `books` from now on.

        `kept` are the inodes of the listeners that the successor has. The successor has adopted the programs
        that this worker had adopted, and alone is told of their exits.
        """
        self._books = self.children.books = books
        self._acceptors[-1].retire(kept)
        for client in self.children.give_up_adopted():
            self._slots.release(client)

    def drain(self) -> None:
        """Stop accepting, except for clients that wait in the kernel's queue already."""
        self._acceptors[-1].retire(())

    @property
    def busy(self) -> bool:
        """True while any connection is pending or any program runs."""
        return bool(self._slots.total > 0 or self._parked or any(each.awaiting for each in self._acceptors))

    def adopt(self, pid: int, peer: Endpoint, started: float, start: int) -> None:
        """Adopt a program of an earlier worker, which the supervisor has verified.

        `started` is the time at which that worker recorded it, in seconds since boot. `start` is the
        program's own start, in clock ticks since boot. A program that was adopted before is ignored.
        """
        if self.children.has_adopted(pid, start):
            return
        held = self._ledger.hold(pid, peer, started)
        self._adopt(AdoptedProgram(held, start, proven=True))
        self._ledger.set("connections", self._slots.total)
        self._poll()

    def _adopt(self, program: AdoptedProgram) -> None:
        self.children.adopt(program)
        self._slots.hold(program.held.peer)

    def count(self, name: Counter) -> None:
        """Count an event that a retired worker reports."""
        self._books.count(name)

    def close(self) -> None:
        """Stop accepting, and refuse the connections that have no program yet."""
        self._closed = True
        for each in self._acceptors:
            each.close()
        for connection in (*self._parked, *self._launcher.give_up()):
            self._refuse(connection, _STOPPING)
        self._parked.clear()

    @property
    def _serves(self) -> bool:
        return not (self._slots.full or self._launcher.starved or self._closed)

    def _poll(self) -> None:
        """Accept only while a slot is free and no connection waits for one; those that wait go first."""
        if self._parked and self._serves and not self._admitting:
            self._admitting = True
            self._loop.soon(self._admit)
        self._acceptors[-1].poll(self._serves and not self._parked)

    def _admit(self) -> None:
        """Decide on connections that have waited for a slot, while slots are free."""
        self._admitting = False
        while self._parked and self._serves:
            self._decide(self._parked.popleft())
        self._poll()

    def _arrive(self, connection: Connection) -> None:
        """Decide on a connection, or let it wait if no slot was free when its header was complete."""
        if self._serves and not self._parked:
            self._decide(connection)
        else:
            self._open.add(connection)
            self._parked.append(connection)

    def _decide(self, connection: Connection) -> None:
        """Refuse a connection, or give it a slot, and then ask DNS about it or screen it."""
        serving, link = connection.serving, connection.link
        try:
            verdict = decision.admit(serving.sources, self._slots, link, loop.now())
            if isinstance(verdict, Refused):
                self._refuse(connection, verdict)
                return
            connection.admitted = True
            self._open.add(connection)
            self._taken()
            form, ways = serving.service.address_format, serving.ways
            connection.variables = environ.of(link, connection.variables, verdict.variables, form, ways)
            if serving.lookups is None:
                self._screen(connection)
            else:
                known = {**serving.base, **connection.variables}
                serving.lookups.begin(link, known, functools.partial(self._looked_up, connection))
        except Exception:  # noqa: BLE001 (a defect costs only the connection that has met it)
            self._break_off(connection)

    def _looked_up(self, connection: Connection, found: dict[str, str]) -> None:
        """Screen a connection once DNS has answered; `found` are the variables from DNS."""
        try:
            connection.variables = {**connection.variables, **found}
            if self._closed:
                self._refuse(connection, _STOPPING)
            else:
                self._screen(connection)
        except Exception:  # noqa: BLE001 (as above)
            self._break_off(connection)

    def _screen(self, connection: Connection) -> None:
        """Refuse a connection if a variable named in `drop` has a value, else have its program started."""
        serving = connection.serving
        dropped = decision.screen(serving.service.drop, connection.variables, serving.base)
        if dropped is None:
            self._launcher.launch(connection)
        else:
            self._refuse(connection, dropped)

    def _started(self, connection: Connection, pid: int) -> None:
        """Record the program of a connection, and close this process's descriptor of it."""
        self.children.started(pid, connection.link.peer)
        self._books.count("accepted")
        self._let_go(connection)
        if log.enabled("info"):
            ends = connection.ends() | {"local": connection.link.local}
            slots = f"{self._slots.total}/{self._slots.most}"
            log.info("accept", service=self._name, **ends, pid=pid, slots=slots)

    def _refuse(self, connection: Connection, refused: Refused) -> None:
        """Send the refusal message, if there is one, close the connection, and log the reason."""
        serving, reason = connection.serving, refused.reason
        self._books.count(reason)
        message = serving.messages.get(reason)
        if message is not None and (serving.ways.tells_local_denial or not refused.local):
            tell(connection.socket, message)
        self._let_go(connection)
        held_back = self._throttle.pass_(reason, loop.now())
        if held_back is not None:
            fields = connection.ends() | dict(refused.detail)
            fields |= {"unlogged": held_back} if held_back else {}
            log.write("notice", "refuse", service=self._name, reason=reason, **fields)
        if connection.admitted:
            self._release(connection.link.peer)

    def _leave(self, connection: Connection) -> None:
        """Close a connection whose peer closed without sending a byte, as health checks do."""
        self._let_go(connection)
        self._books.count("left")
        log.debug("left", service=self._name, peer=connection.link.peer)

    def _break_off(self, connection: Connection) -> None:
        """Close a connection that has met a defect; the caller is handling the exception."""
        log.crash(f"cannot serve {connection.link.peer}")
        self._let_go(connection)
        if connection.admitted:
            self._release(connection.link.peer)

    def _let_go(self, connection: Connection) -> None:
        """Close this process's descriptor of a connection, which no longer uses its settings."""
        connection.socket.close()
        self._open.discard(connection)
        if self._former and not self._sweeping:
            self._sweeping = True
            self._loop.soon(self._sweep)

    def _sweep(self) -> None:
        """Close earlier settings that no connection uses any more."""
        self._sweeping = False
        awaiting = [connection for each in self._acceptors for connection in each.awaiting]
        used = {id(connection.serving) for connection in (*self._open, *awaiting)}
        for serving in self._former:
            if id(serving) not in used:
                serving.runner.close()
        self._former = [serving for serving in self._former if id(serving) in used]

    def _taken(self) -> None:
        """Update the counter after a slot was taken; stop accepting if none is left, and log if few are."""
        slots = self._slots
        self._books.set("connections", slots.total)
        if slots.full:
            self._poll()
            if self._seldom.due("full", loop.now()):
                log.write("alert", "all slots are taken", service=self._name, max_connections=slots.most)
        elif slots.total >= slots.warn_at and self._seldom.due("warn", loop.now()):
            log.warning("slots run out", service=self._name, slots=f"{slots.total}/{slots.most}")

    def _release(self, peer: Endpoint) -> None:
        """Free the slot of a client."""
        self._slots.release(peer)
        self._books.set("connections", self._slots.total)
        self._poll()
