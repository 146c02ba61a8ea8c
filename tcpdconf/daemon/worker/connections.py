"""Decides on a service's connections, from their arrival until each has a program or is closed.

A connection crosses four modules: `acceptor` accepts it (and `proxy_reader` reads its PROXY header), this one
decides, `launcher` starts its program, `children` waits for the program's end. Without PROXY headers and DNS
the decision is made in the moment of accepting: nothing is kept for a refusal.
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
    """The connections of one service, and their programs.

    Its owner calls `children.reap` on SIGCHLD, and tells `children` what other processes say of programs that
    this worker has adopted.
    """

    def __init__(self, name: str, events: loop.Loop, held: Ledger, lineage: procfs.Lineage) -> None:
        self.children = Children(name, held, self._release)
        self._name = name
        self._loop = events
        self._ledger = held
        self._books: Books = held
        self._lineage = lineage
        self._serving: Serving | None = None  # what is served with now
        self._former: list[Serving] = []  # what was served with before, while a connection still uses it
        self._acceptors: list[Acceptor] = []  # the last one accepts, the others await headers
        self._slots = limits.Slots(tables.Limits())
        self._open: set[Connection] = set()  # those that wait for a slot, for DNS or for their program
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
        """Serve connections with this from now on, and accept them here.

        Those that were accepted before go on with what they have; it is closed when they have come to an end,
        or to their program. Clients who wait at an inherited listener are accepted before it is closed. At
        first the programs that an earlier worker left are counted.
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
        """Accept no more, and write down in other books what becomes of the connections that are there.

        `kept` are the listeners (inodes) that the successor has. It has adopted what this one had adopted:
        only it is told of the end of those.
        """
        self._books = self.children.books = books
        self._acceptors[-1].retire(kept)
        for client in self.children.give_up_adopted():
            self._slots.release(client)

    def drain(self) -> None:
        """Accept no more than who waits in the kernel already."""
        self._acceptors[-1].retire(())

    @property
    def busy(self) -> bool:
        """True while any connection is open or pending, or a program runs."""
        return bool(self._slots.total > 0 or self._parked or any(each.awaiting for each in self._acceptors))

    def adopt(self, pid: int, peer: Endpoint, started: float, start: int) -> None:
        """Count a program that a worker before this one has started, as the supervisor has found it to be.

        `started` is when that worker has recorded it, in seconds since boot, `start` its own start in clock
        ticks. Nothing happens if it is counted already.
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
        """Count what the worker before this one has met with."""
        self._books.count(name)

    def close(self) -> None:
        """Accept no more, and refuse those that have no program yet."""
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
        """Accept exactly while a connection could be served; first those go on that have arrived already."""
        if self._parked and self._serves and not self._admitting:
            self._admitting = True
            self._loop.soon(self._admit)
        self._acceptors[-1].poll(self._serves and not self._parked)

    def _admit(self) -> None:
        """Decide on connections that have waited for a slot, as long as there is one."""
        self._admitting = False
        while self._parked and self._serves:
            self._decide(self._parked.popleft())
        self._poll()

    def _arrive(self, connection: Connection) -> None:
        """Decide on a connection, or let it wait for a slot: headers are read while there is none."""
        if self._serves and not self._parked:
            self._decide(connection)
        else:
            self._open.add(connection)
            self._parked.append(connection)

    def _decide(self, connection: Connection) -> None:
        """Refuse a connection, or give it a slot; then ask DNS for it, or let its program be started."""
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
        except Exception:  # noqa: BLE001 (a defect costs the connection that has met it, and no other)
            self._break_off(connection)

    def _looked_up(self, connection: Connection, found: dict[str, str]) -> None:
        """Go on with a connection of which DNS has been asked; `found` are the variables from it."""
        try:
            connection.variables = {**connection.variables, **found}
            if self._closed:
                self._refuse(connection, _STOPPING)
            else:
                self._screen(connection)
        except Exception:  # noqa: BLE001 (as above)
            self._break_off(connection)

    def _screen(self, connection: Connection) -> None:
        """Refuse a connection because of its variables, or let its program be started."""
        serving = connection.serving
        dropped = decision.screen(serving.service.drop, connection.variables, serving.base)
        if dropped is None:
            self._launcher.launch(connection)
        else:
            self._refuse(connection, dropped)

    def _started(self, connection: Connection, pid: int) -> None:
        """Let go of a connection that its program has now."""
        self.children.started(pid, connection.link.peer)
        self._books.count("accepted")
        self._let_go(connection)
        if log.enabled("info"):
            ends = connection.ends() | {"local": connection.link.local}
            slots = f"{self._slots.total}/{self._slots.most}"
            log.info("accept", service=self._name, **ends, pid=pid, slots=slots)

    def _refuse(self, connection: Connection, refused: Refused) -> None:
        """Close a connection, with a last word where there is one, and log why."""
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
        """Close a connection that has met a defect; called while the exception is handled."""
        log.crash(f"cannot serve {connection.link.peer}")
        self._let_go(connection)
        if connection.admitted:
            self._release(connection.link.peer)

    def _let_go(self, connection: Connection) -> None:
        """Close this process's descriptor of a connection, which needs its serving no more."""
        connection.socket.close()
        self._open.discard(connection)
        if self._former and not self._sweeping:
            self._sweeping = True
            self._loop.soon(self._sweep)

    def _sweep(self) -> None:
        """Close what was served with before and no connection uses any more."""
        self._sweeping = False
        awaiting = [connection for each in self._acceptors for connection in each.awaiting]
        used = {id(connection.serving) for connection in (*self._open, *awaiting)}
        for serving in self._former:
            if id(serving) not in used:
                serving.runner.close()
        self._former = [serving for serving in self._former if id(serving) in used]

    def _taken(self) -> None:
        """Look at the level after a slot was taken."""
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
