"""Decides on a service's connections, from their arrival until each has a program or is closed.

A connection crosses four modules: `acceptor` accepts it (and `proxy_reader` reads its PROXY header), this one
decides, `launcher` starts its program, `children` waits for the program's end. Without PROXY headers and DNS
this module decides as soon as a connection is accepted, and keeps nothing for one that it refuses.
"""

import collections
import functools
import os
import time
from collections.abc import Callable, Collection, Sequence
from typing import Final

from tcpdconf.config.model import tables
from tcpdconf.daemon.cluster import layout
from tcpdconf.daemon.cluster.records import Answer
from tcpdconf.daemon.cluster.share import REFUSED, ClusterShare
from tcpdconf.daemon.dns.lookups import Lookups
from tcpdconf.daemon.guard import ban_table
from tcpdconf.daemon.guard.early_talkers import EarlyTalkers
from tcpdconf.daemon.guard.offences import Offences
from tcpdconf.daemon.guard.refusals import Refusals
from tcpdconf.daemon.messages.cluster import NetworkPenalty
from tcpdconf.daemon.messages.measures import Measure
from tcpdconf.daemon.messages.worker import WOULD, Counter
from tcpdconf.daemon.process import log, loop, procfs, throttle
from tcpdconf.daemon.shared.table import SharedTable
from tcpdconf.daemon.worker.acceptor import Acceptor, Listener
from tcpdconf.daemon.worker.children import AdoptedProgram, Children
from tcpdconf.daemon.worker.connection import Connection, Serving, tell
from tcpdconf.daemon.worker.launcher import Launcher
from tcpdconf.daemon.worker.ledger import NEVER, Books, Ledger
from tcpdconf.policy import decision, environ, limits, penalties, shared_limits
from tcpdconf.policy.connection import Endpoint, Refused
from tcpdconf.policy.proxy import trust

_STOPPING: Final = Refused("spawn", (("error", "stopping"),))
_NO_ENGINE: Final = Refused("cluster", (("error", "the engine does not answer"),))
_AGAIN: Final = 1.0  # seconds before another channel to the cluster process is asked for
_LOOK: Final = 0.05  # seconds between two looks for a free slot while other workers may free one


class Connections:
    """Serves the connections of one service, and keeps its programs.

    The owner calls `children.reap` on SIGCHLD. It also passes to `children` what other processes report of
    adopted programs.
    """

    def __init__(self, name: str, events: loop.Loop, held: Ledger, lineage: procfs.Lineage) -> None:
        self.bans: ban_table.Reader | None = None  # None while nobody was ever banned
        self.link_lost: Callable[[], None] = lambda: None
        self.refusals = Refusals(name, events)
        self.offences = Offences(name, events, self._count_penalty, self._tell_hosts)
        self.children = Children(name, events, held, ended=self._ended, reaped=self._settle)
        self._name = name
        self._scope = ban_table.scope(name)
        self._loop = events
        self._ledger = held
        self._books: Books = held
        self._lineage = lineage
        self._serving: Serving | None = None  # the settings for new connections
        self._former: list[Serving] = []  # earlier settings, each while a connection uses it
        self._acceptors: list[Acceptor] = []  # the last one accepts, the others only await headers
        self._slots = limits.Slots(tables.Limits())
        self._table: SharedTable | None = None  # None: this worker alone counts its connections
        self._paused = False  # the table says that all slots are taken
        self._looking = False  # `_look` will be called
        self._cluster: ClusterShare | None = None  # set while another process counts as well
        self._link: int | None = None  # a channel to the cluster process that came before it
        self._open: set[Connection] = set()  # those that wait for a slot, DNS or their program
        self._parked: collections.deque[Connection] = collections.deque()  # those that wait for a slot
        self._launcher = Launcher(
            name,
            events,
            started=self._started,
            executed=self._executed,
            failed=self._failed,
            refused=self._refuse,
            broken=self._break_off,
            waits=self._poll,
        )
        self._admitting = False  # `_admit` will be called
        self._sweeping = False  # `_sweep` will be called
        self._closed = False
        self._seldom = throttle.Seldom()

    def serve(self, serving: Serving, listeners: list[Listener], inherited: Sequence[Listener] = ()) -> None:
        """Accept connections at these listeners from now on, and serve them with these settings.

        Connections that were accepted before keep their own settings, which are closed once no connection
        uses them. Clients that wait at an inherited listener are accepted before it is closed. The first call
        adopts the running programs of earlier workers from the ledger.
        """
        if serving.table is self._table is None:
            self._slots = self._slots.resized(serving.service.limits)
        else:
            self._share(serving)
        self._count_together(serving)
        self.offences.renew(serving.service, serving.table)
        self._ledger.grow(self._slots.most)
        self.children.patience = serving.stop_timeout
        if not self._acceptors:
            for held, runs in self._ledger.take_over(self._lineage):
                self._adopt(AdoptedProgram(held, runs.start, proven=self._lineage.proves(runs)))
        if self._table is not None and isinstance(self._slots, shared_limits.SharedSlots):
            self._slots.publish()
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
        self.measure_itself()
        self._sweep()
        self._poll()

    def _share(self, serving: Serving) -> None:
        """Apply the limits of these settings if counts are shared with other workers, or were until now."""
        self._slots = shared_limits.renewed(
            self._slots,
            serving.service.limits,
            serving.table,
            serving.group,
            reserves=serving.asking is not None or bool(serving.group),
        )
        if serving.table is self._table:
            return
        if self._table is not None:
            self._loop.forget(self._table)
        self._table, self._paused = serving.table, False
        if self._table is not None:
            self._table.set_paused(paused=False)  # an earlier worker may have been
            self._loop.watch_writes(self._table, self._poll)

    def link(self, fd: int | None) -> None:
        """Use another channel to the cluster process from now on; None if this worker has lost it."""
        if self._link is not None:
            os.close(self._link)
            self._link = None
        if self._cluster is None:
            self._link = fd
        elif fd is not None:
            self._cluster.use(fd)

    def _count_together(self, serving: Serving) -> None:
        """Begin or cease to count together with all hosts, or with a group, as the settings say."""
        if serving.asking is None:
            self._leave_cluster()
            return
        deadline = serving.asking.deadline
        if self._cluster is None:
            waiting = (each.link.peer for each in self._open if each.admitted)
            held = (*self.children.clients(), *waiting)
            self._cluster = ClusterShare(
                self._loop, held, deadline, lost=self._link_lost, penalised=self.offences.restore
            )
        self._cluster.settle(layout.of(serving.service.limits, serving.group), deadline)
        if self._link is not None:
            fd, self._link = self._link, None
            self._cluster.use(fd)

    def _leave_cluster(self) -> None:
        if self._cluster is not None:
            former, self._cluster = self._cluster, None
            former.close()

    def _acceptor(self, serving: Serving, listeners: Sequence[Listener]) -> Acceptor:
        return Acceptor(
            self._loop,
            self._name,
            serving,
            listeners,
            arrived=self._arrive,
            refused=self._turn_away,
            left=self._leave,
            look=None if serving.table is None else self._poll_if_full,
        )

    def retire(self, books: Books, kept: Collection[int]) -> None:
        """Stop accepting, and record the remaining connections in `books` from now on.

        `kept` are the inodes of the listeners that the successor has. The successor has adopted the programs
        that this worker had adopted, and alone is told of their exits.
        """
        self._books = self.children.books = books
        self.offences.close()  # the successor has its own
        self._leave_cluster()  # the successor tells of these connections
        if self._table is not None:  # the successor writes there what this worker has told it
            self._loop.forget(self._table)
            self._table, self._paused = None, False
            self._slots = self._slots.resized(tables.Limits(max_connections=self._slots.most))
        self._acceptors[-1].retire(kept)
        for client in self.children.give_up_adopted():
            self._slots.release(client)

    def leave(self) -> None:
        """Stop accepting; clients that wait in the kernel's queue are left to other workers."""
        self._acceptors[-1].leave()

    def drain(self) -> None:
        """Stop accepting, except for clients that wait in the kernel's queue already."""
        self._acceptors[-1].retire(())

    @property
    def busy(self) -> bool:
        """True while any connection is pending or any program runs."""
        return bool(self._slots.total > 0 or self._parked or any(each.awaiting for each in self._acceptors))

    def adopt(self, pid: int, peer: Endpoint, started: float, start: int, until: float = NEVER) -> None:
        """Adopt a program of an earlier worker, which the supervisor has verified.

        `started` is the time at which that worker recorded it, `until` the one at which it must end, both in
        seconds since boot. `start` is the program's own start, in clock ticks since boot. A program that was
        adopted before is ignored.
        """
        if self.children.has_adopted(pid, start):
            return
        held = self._ledger.record(pid, peer, started, until)
        self._adopt(AdoptedProgram(held, start, proven=True))
        self._ledger.set("connections", self._slots.total)
        self._poll()

    def _adopt(self, program: AdoptedProgram) -> None:
        self.children.adopt(program)
        self._slots.hold(program.held.peer)
        if self._cluster is not None:
            self._cluster.hold(program.held.peer)

    def count(self, name: Counter) -> None:
        """Count an event that a retired worker reports."""
        self._books.count(name)

    def observe(self, name: Measure, seconds: float) -> None:
        """Add a time that a retired worker reports to a histogram."""
        self._books.observe(name, seconds)

    def measure_itself(self) -> None:
        """Record what this process uses, unless another worker has taken its place."""
        if self._books is not self._ledger:
            return
        used = procfs.usage()
        self._record_parked()
        self._ledger.set("headers", sum(len(each.awaiting) for each in self._acceptors))
        self._ledger.set("lost_lines", log.lost())
        self._ledger.set("cpu_milliseconds", int(used.cpu * 1000))
        self._ledger.set("resident_bytes", used.resident)
        self._ledger.set("descriptors", used.descriptors)
        self._ledger.set("started", int(used.started))

    def close(self) -> None:
        """Stop accepting, and refuse the connections that have no program yet."""
        self._closed = True
        for each in self._acceptors:
            each.close()
        undecided = [each for each in self._open if each.awaited]
        for connection in (*self._parked, *undecided, *self._launcher.give_up()):
            self._refuse(connection, _STOPPING)
        self._parked.clear()
        self._record_parked()

    @property
    def _serves(self) -> bool:
        return not (self._slots.full or self._launcher.starved or self._closed)

    def _poll(self) -> None:
        """Accept only while a slot is free and no connection waits for one; those that wait go first."""
        if self._parked and self._serves and not self._admitting:
            self._admitting = True
            self._loop.soon(self._admit)
        self._acceptors[-1].poll(self._serves and not self._parked)
        if self._table is not None:
            self._tell_paused(self._table)

    def _poll_if_full(self) -> None:
        """Pause if another worker has taken the last slot; the client is left to the one that frees one."""
        if self._slots.full:
            self._poll()

    def _tell_paused(self, table: SharedTable) -> None:
        """Tell the other workers when this one needs to be woken, because all slots are taken.

        A slot that another worker has freed just before is found by the second look. One that was freed at
        the same moment, or whose worker was killed, is found a moment later.
        """
        full = self._slots.full
        if full == self._paused:
            return
        self._paused = full
        table.set_paused(full)
        if full:
            self._loop.after(0, self._poll)
        if full and not self._looking:
            self._looking = True
            self._loop.after(_LOOK, self._look)

    def _look(self) -> None:
        """Look whether a slot is free, again and again while this worker has paused."""
        self._looking = self._paused
        if self._looking:
            self._loop.after(_LOOK, self._look)
            self._poll()

    def _admit(self) -> None:
        """Decide on connections that have waited for a slot, while slots are free."""
        self._admitting = False
        while self._parked and self._serves:
            connection = self._parked.popleft()
            waited = loop.now() - connection.parked
            self._decide(connection)
            if self._parked and self._parked[0] is connection:
                break
            self._books.observe("slot_wait", waited)
        self._record_parked()
        self._poll()

    def _record_parked(self) -> None:
        """Record how many connections wait for a slot, unless another worker has taken this one's place."""
        if self._books is self._ledger:
            self._ledger.set("parked", len(self._parked))

    def _arrive(self, connection: Connection) -> None:
        """Decide on a connection, or let it wait if no slot was free when its header was complete."""
        if self._serves and not self._parked:
            self._decide(connection)
        else:
            self._park(connection)

    def _park(self, connection: Connection) -> None:
        """Let a connection wait for a slot; one that has waited already stays the first."""
        if connection.parked:
            self._parked.appendleft(connection)
            return
        connection.parked = loop.now()
        self._open.add(connection)
        self._parked.append(connection)
        self._record_parked()

    def _decide(self, connection: Connection) -> None:
        """Refuse a connection, or give it a slot, and then ask about it or screen it."""
        serving, link = connection.serving, connection.link
        try:
            banned = None if self.bans is None else self.bans.find(link.peer, self._scope, time.time())
            if banned is not None:
                self._refuse(connection, Refused("banned", (("network", ban_table.shown(banned)),)))
                return
            reserved: list[limits.RateLimiter] | None = None if self._cluster is None else []
            verdict = decision.admit(
                serving.sources,
                self._slots,
                link,
                loop.now(),
                serving.observed,
                penalties=self.offences.penalties,
                reserved=reserved,
            )
            if isinstance(verdict, Refused):
                if verdict is shared_limits.ALL_TAKEN:
                    self._park(connection)
                    self._poll()
                    return
                if verdict.reason in penalties.CHARGED:
                    self.offences.charge(link.peer, "refused")
                self._refuse(connection, verdict)
                return
            connection.admitted = True
            connection.unenforced, connection.max_per_ip = verdict.unenforced, verdict.max_per_ip
            self._open.add(connection)
            self._taken()
            form, ways = serving.service.address_format, serving.ways
            connection.variables = environ.of(link, connection.variables, verdict.variables, form, ways)
            if reserved:
                connection.reserved = reserved
            if self._cluster is not None and not self._cluster.asks:
                self._cluster.hold(link.peer)
                refused = self._is_refused_without_engine(connection)
                self._settle_tokens(connection, spent=not refused)
                if refused:
                    self._refuse(connection, _NO_ENGINE)
                    return
            asks = self._cluster is not None and self._cluster.asks
            if serving.lookups is None and serving.early_talkers is None and not asks:
                self._screen(connection)
            else:
                self._ask(connection, serving.lookups, serving.early_talkers)
        except Exception:  # noqa: BLE001 (a defect costs only the connection that has met it)
            self._break_off(connection)

    def _ask(self, connection: Connection, lookups: Lookups | None, early: EarlyTalkers | None) -> None:
        """Look a connection up in the DNS, and wait for early data of its client at the same time.

        The other hosts' connections are asked for at the same time, too.

        The client need not wait if it has a pass, or if an access rule has set the variable.
        """
        link = connection.link
        known = {**connection.serving.base, **connection.variables}
        if early is not None and (early.variable in known or early.knows(link.peer)):
            early = None
        share = None if self._cluster is None or not self._cluster.asks else self._cluster
        connection.awaited = (lookups is not None) + (early is not None) + (share is not None)
        if share is not None:
            counted = functools.partial(self._counted, connection)
            connection.ticket = share.ask(link.peer, connection.max_per_ip, counted)
        if early is not None:
            early.listen(connection.socket, link.peer, functools.partial(self._heard, connection))
        elif lookups is None and share is None:
            self._screen(connection)
        if lookups is not None and connection.awaited:
            lookups.begin(link, known, functools.partial(self._found, connection))

    def _heard(self, connection: Connection, talked: bool) -> None:
        """Count a client that has sent data before the program has greeted it."""
        settings = connection.serving.service.early_talker
        if talked and settings is not None:
            self._books.count("early_talker")
            self.offences.charge(connection.link.peer, "early_talker")
            self._found(connection, {settings.variable: "1"})
        else:
            self._found(connection, {})

    def _counted(self, connection: Connection, answer: Answer) -> None:
        """Refuse a connection if it is one too many over all hosts or for the group, or screen it."""
        ticket, connection.ticket = connection.ticket, 0
        share = self._cluster
        try:
            limit = None if share is None else share.described(answer)
            refused = None if limit is None else limit.refusal(answer, connection.max_per_ip)
            if answer.verdict == "refused":
                connection.ticket = REFUSED
            elif answer.verdict == "unknown":
                connection.ticket = ticket  # it may still be answered
                refused = _NO_ENGINE if self._is_refused_without_engine(connection) else None
            else:
                connection.unenforced = connection.unenforced or refused
                refused = None
            self._settle_tokens(connection, spent=refused is None)
            if refused is None:
                self._found(connection, {})
                return
            if refused.reason in penalties.CHARGED:
                self.offences.charge(connection.link.peer, "refused")
            self._refuse(connection, refused)
        except Exception:  # noqa: BLE001 (as above)
            self._break_off(connection)

    def _settle_tokens(self, connection: Connection, *, spent: bool) -> None:
        """Spend the tokens that a connection has reserved, or give them back, since it is decided."""
        reserved, connection.reserved = connection.reserved, ()
        if reserved:
            self._slots.settle(connection.link.peer, loop.now(), reserved, spent=spent)

    def _is_refused_without_engine(self, connection: Connection) -> bool:
        """Return whether a connection is refused while the engine does not answer."""
        asking = connection.serving.asking
        return asking is not None and asking.refuses

    def _link_lost(self) -> None:
        """Ask for another channel to the cluster process, a moment later."""
        self._loop.after(_AGAIN, self.link_lost)

    def _found(self, connection: Connection, found: dict[str, str]) -> None:
        """Screen a connection; `found` are the variables from DNS or about early data.

        If it has been refused already, it awaits nothing.
        """
        if not connection.awaited:
            return
        try:
            connection.awaited -= 1
            connection.found = (*connection.found, *found)
            connection.variables = {**connection.variables, **found}
            self._screen(connection)
        except Exception:  # noqa: BLE001 (as above)
            self._break_off(connection)

    def _screen(self, connection: Connection) -> None:
        """Refuse a connection if a variable named in `drop` has a value, or start its program.

        The program starts once no answer is awaited. One that refuses the connection is enough. A client that
        a DNS list names is not charged with an offence: the list may be wrong, and only `deny_message` tells
        the client about it.
        """
        serving = connection.serving
        dropped = decision.screen(serving.service.drop, connection.variables, serving.base)
        if dropped is not None:
            if dict(dropped.detail)["variable"] not in connection.found:
                self.offences.charge(connection.link.peer, "refused")
            self._refuse(connection, dropped)
        elif not connection.awaited:
            if connection.unenforced is not None:
                self._observe(connection, connection.unenforced)
            self._launcher.launch(connection)

    def _started(self, connection: Connection, pid: int) -> None:
        """Record the program of a connection, and close this process's descriptor of it."""
        self.children.started(pid, connection.link.peer, connection.serving.service.max_duration)
        self._books.observe("start", loop.now() - connection.accepted)
        self._let_go(connection)

    def _settle(self, pid: int) -> None:
        """Handle the exec of a program that has ended."""
        self._launcher.settle(pid)

    def _executed(self, connection: Connection, pid: int) -> None:
        """Count and log a connection whose program runs."""
        self._books.count("accepted")
        if log.enabled("info"):
            ends = connection.ends() | {"local": connection.link.local}
            slots = f"{self._slots.taken}/{self._slots.most}"
            log.info("accept", service=self._name, **ends, pid=pid, slots=slots)

    def _failed(self, connection: Connection, pid: int, refused: Refused) -> None:
        """Forget a process that could not execute the program; it has told the client."""
        self.children.never_ran(pid)
        self._count_refusal(connection, refused)
        self._note_refusal(connection, refused)

    def _turn_away(self, connection: Connection, refused: Refused) -> None:
        """Refuse a connection that is not accepted at a listener for proxies.

        Only a peer that is not trusted is charged. The faults of a trusted proxy are not its client's, whose
        address is not known yet, and a penalty for the proxy would be one for all of its clients.
        """
        if refused is trust.STRANGER:
            peer = connection.link.peer
            penalised = self.offences.refusal(peer)
            if penalised is None:
                self.offences.charge(peer, "proxy")
            else:
                refused = penalised
        self._refuse(connection, refused)

    def _refuse(self, connection: Connection, refused: Refused) -> None:
        """Count a refusal, send its message, if there is one, close the connection, and log the reason.

        It is counted first, since the client may ask for the counter as soon as it is told.
        """
        self._count_refusal(connection, refused)
        serving = connection.serving
        message = serving.messages.get(refused.reason)
        if message is not None and (serving.ways.tells_local_denial or not refused.local):
            tell(connection.socket, message)
        self._let_go(connection)
        self._note_refusal(connection, refused)

    def _count_refusal(self, connection: Connection, refused: Refused) -> None:
        """Count a refusal by its reason and by the address of its client."""
        self._books.count(refused.reason)
        self.refusals.count(connection.link.peer)

    def _note_refusal(self, connection: Connection, refused: Refused) -> None:
        """Log a refusal, and free the slot of the connection."""
        self.refusals.log(connection.ends, refused)
        if connection.admitted:
            self._give_up_slot(connection)

    def _observe(self, connection: Connection, refused: Refused) -> None:
        """Count and log a connection that is served only because a limit or source is not enforced."""
        self._books.count(WOULD[refused.reason])
        self.refusals.log_observed(connection.ends, refused)

    def log_suppressed(self) -> None:
        """Log the numbers of lines that were suppressed so far."""
        self.refusals.log_suppressed()
        self.offences.log_suppressed()

    def _leave(self, connection: Connection) -> None:
        """Close a connection that is a health check: it has no header, or that of the proxy itself."""
        self._books.count("left")
        self._let_go(connection)
        log.debug("left", service=self._name, peer=connection.link.peer)

    def _break_off(self, connection: Connection) -> None:
        """Close a connection that has met a defect; the caller is handling the exception."""
        log.crash(f"cannot serve {connection.link.peer}")
        self._let_go(connection)
        if connection.admitted:
            self._give_up_slot(connection)

    def _let_go(self, connection: Connection) -> None:
        """Close this process's descriptor of a connection, which no longer uses its settings."""
        if connection.awaited and connection.serving.early_talkers is not None:
            connection.serving.early_talkers.forget(connection.socket)
        connection.awaited = 0
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
        elif slots.taken >= slots.warn_at and self._seldom.due("warn", loop.now()):
            log.warning("slots run out", service=self._name, slots=f"{slots.taken}/{slots.most}")

    def _count_penalty(self) -> None:
        self._books.count("penalties")

    def _tell_hosts(self, penalty: NetworkPenalty) -> None:
        """Tell the other hosts of a penalty."""
        if self._cluster is not None:
            self._cluster.penalise(penalty)

    def _ended(self, peer: Endpoint, status: int | None) -> None:
        """Free the slot of a client whose program has ended; charge the client if that is an offence."""
        if status is not None:
            self.offences.charge_exit(peer, status)
        self._release(peer)

    def _give_up_slot(self, connection: Connection) -> None:
        """Free the slot of a connection without a program; tokens that are still reserved are spent."""
        self._settle_tokens(connection, spent=True)
        self._release(connection.link.peer, connection.ticket)

    def _release(self, peer: Endpoint, ticket: int = 0) -> None:
        """Free the slot of a client; `ticket` as for `ClusterShare.release`."""
        self._slots.release(peer)
        if self._cluster is not None:
            self._cluster.release(peer, ticket)
        self._books.set("connections", self._slots.total)
        if self._table is not None:
            self._table.wake()
        self._poll()
