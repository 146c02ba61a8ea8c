"""Decides on a service's connections and runs the program for those admitted.

Without PROXY headers and DNS all of it happens in the moment of accepting: nothing is kept for a refusal.
"""

import collections
import contextlib
import errno
import functools
import os
import signal
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from tcpdconf.config.model import tables
from tcpdconf.daemon.process import log, loop, procfs, signals, throttle
from tcpdconf.daemon.worker import acceptor, adopted, client, former, ledger, program, stages
from tcpdconf.policy import connection, decision, environ, limits

_NO_PROCESS: Final = frozenset({errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_REST: Final = 0.1  # seconds before another try when there is no process to be had
_PATIENCE: Final = 30.0  # seconds for which a connection waits for a process
_TOGETHER: Final = 32  # programs started at once: until then each connection keeps its descriptor
_STOPPING: Final = connection.Refused("spawn", (("error", "stopping"),))


class Connections:
    """One service at work. Its owner calls `reap` on SIGCHLD, and tells `adopted` what others say.

    Programs that it has started itself are known by their pid, which is theirs until `reap` has waited for
    them. What other processes say is of adopted programs only.
    """

    def __init__(self, name: str, events: loop.Loop, held: ledger.Ledger, lineage: procfs.Lineage) -> None:
        self._name = name
        self._loop = events
        self._books: ledger.Books = held
        self._ledger = held
        self._lineage = lineage
        self._serving: stages.Serving | None = None  # what is served with now
        self._receptions: list[acceptor.Acceptor] = []  # the last one accepts, the others await headers
        self._former = former.Former(events, self._in_use)
        self._asking: dict[int, stages.Serving] = {}  # by descriptor: connections that are being looked up
        self._slots = limits.Slots(tables.Limits())
        self._running: dict[int, ledger.Held] = {}  # its own
        self.adopted = adopted.Adopted(self._over)
        self._ready: list[stages.Admitted] = []
        self._starter = program.Starter()
        self._waiting: collections.deque[stages.Admitted] = collections.deque()
        self._parked: collections.deque[stages.Arrived] = collections.deque()
        self._admitting = False
        self._closed = False
        self._throttle = throttle.Throttle()
        self._seldom = throttle.Seldom()
        self._broken = ""

    def terminate(self) -> None:
        """Send SIGTERM to the programs: those of this worker's process group, and those adopted."""
        self.adopted.terminate()
        os.killpg(0, signal.SIGTERM)

    def serve(
        self,
        serving: stages.Serving,
        listeners: list[acceptor.Listener],
        inherited: Sequence[acceptor.Listener] = (),
    ) -> None:
        """Serve connections with this from now on, and accept them here.

        Those that were accepted before go on with what they have; it is closed when they have come to an end,
        or to their program. Clients who wait at an inherited listener are accepted before it is closed. At
        first the programs that an earlier worker left are counted.
        """
        self._slots = self._slots.resized(serving.service.limits)
        self._ledger.grow(self._slots.most)
        if not self._receptions:
            for held, runs in self._ledger.take_over(self._lineage):
                self._take_in(adopted.AdoptedProgram(held, runs.start, proven=self._lineage.proves(runs)))
        made = self._reception(serving, listeners)
        emptied = self._reception(serving, inherited)
        if self._serving is not None:
            self._former.add(self._serving, self._serving.runner.close, self._receptions)
            self._receptions[-1].retire({os.fstat(each.fileno()).st_ino for each, _ in listeners})
        self._serving = serving
        self._receptions = [*self._receptions, emptied, made]
        emptied.retire(())
        self._receptions = [each for each in self._receptions if each.pending or each is made]
        self._books.set("connections", self._slots.total)
        self._broken = ""
        self._former.look()
        self._poll()

    def _reception(
        self, serving: stages.Serving, listeners: Sequence[acceptor.Listener]
    ) -> acceptor.Acceptor:
        return acceptor.Acceptor(
            self._loop,
            self._name,
            listeners,
            arrived=functools.partial(self._arrive, serving),
            refused=functools.partial(self._refuse, serving),
            left=self._leave,
            settle=self._spawn,
            lenient=serving.ways.lenient_proxy,
        )

    def retire(self, books: ledger.Books, kept: Collection[int]) -> None:
        """Accept no more, and write down in other books what becomes of the connections that are there.

        `kept` are the listeners (inodes) that the successor has. It has adopted what this one had adopted:
        only it is told of the end of those.
        """
        self._books = books
        self._receptions[-1].retire(kept)
        for each in self.adopted:
            self._slots.release(each.held.peer)
        self.adopted.clear()

    def drain(self) -> None:
        """Accept no more than who waits in the kernel already."""
        self._receptions[-1].retire(())

    @property
    def busy(self) -> bool:
        """Whether there are connections: with a program, or on their way to one."""
        waiting = self._slots.total > 0 or self._parked
        return bool(waiting) or any(each.pending for each in self._receptions)

    @property
    def programs(self) -> list[ledger.Held]:
        """The running programs that it has started itself."""
        return list(self._running.values())

    def adopt(self, pid: int, peer: connection.Endpoint, started: float, start: int) -> None:
        """Count a program that a worker before this one has started, as the supervisor has found it to be.

        `started` is when that worker has recorded it, in seconds since boot, `start` its own start in clock
        ticks. Nothing happens if it is counted already.
        """
        if self.adopted.has(pid, start):
            return
        held = self._ledger.hold(pid, peer, started)
        self._take_in(adopted.AdoptedProgram(held, start, proven=True))
        self._ledger.set("connections", self._slots.total)
        self._poll()

    def count(self, name: str) -> None:
        """Count what the worker before this one has met with."""
        self._books.count(name)

    def close(self) -> None:
        """Accept no more, and let go of those that wait for a process."""
        self._closed = True
        for each in self._receptions:
            each.close()
        for serving, peer, link, _ in self._parked:
            self._refuse(serving, peer, link, _STOPPING)
        for admitted in (*self._waiting, *self._ready):
            self._give_up(admitted, _STOPPING)
        self._parked.clear()
        self._waiting.clear()
        self._ready.clear()

    def reap(self) -> None:
        """Take note of every program of its own that has ended."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                if pid in self._running:
                    self._over(self._running.pop(pid), status)

    def _over(self, held: ledger.Held, status: int | None = None) -> None:
        self._books.release(held)
        self._release(held.peer)
        if status is not None and log.enabled("info"):
            seconds = f"{ledger.boot_time() - held.started:.1f}"
            ends = {"peer": held.peer, "pid": held.pid}
            log.info("end", service=self._name, **ends, **signals.ending(status), seconds=seconds)

    def _take_in(self, program: adopted.AdoptedProgram) -> None:
        self.adopted.add(program)
        self._slots.hold(program.held.peer)

    def _poll(self) -> None:
        """Accept exactly while a connection could be served; first those whose header came meanwhile."""
        if self._admitting:
            return  # the loop below goes on by itself
        self._admitting = True
        while self._parked and self._serves:
            self._decide(*self._parked.popleft())
        self._admitting = False
        self._receptions[-1].poll(self._serves)

    @property
    def _serves(self) -> bool:
        return not (self._slots.full or self._waiting or self._closed)

    def _arrive(
        self,
        serving: stages.Serving,
        peer: socket.socket,
        link: connection.Link,
        said: Mapping[str, str],
    ) -> None:
        """Decide on a connection, or let it wait for a slot: headers are read while there is none."""
        if self._serves:
            self._decide(serving, peer, link, said)
        else:
            self._parked.append(stages.Arrived(serving, peer, link, said))

    def _in_use(self) -> Iterator[stages.Serving]:
        """What each connection is served with that is on its way to its program."""
        for admitted in (*self._waiting, *self._ready):
            yield admitted.serving
        for arrived in self._parked:
            yield arrived.serving
        yield from self._asking.values()

    def _leave(self, peer: socket.socket, link: connection.Link) -> None:
        """A proxy's health check looked whether somebody is there."""
        peer.close()
        self._former.look_soon()
        self._books.count("left")
        log.debug("left", service=self._name, peer=link.peer)

    def _decide(
        self,
        serving: stages.Serving,
        peer: socket.socket,
        link: connection.Link,
        said: Mapping[str, str],
    ) -> None:
        verdict = decision.admit(serving.sources, self._slots, link, loop.now())
        if isinstance(verdict, connection.Refused):
            self._refuse(serving, peer, link, verdict)
            return
        self._taken()
        try:
            form, ways = serving.service.address_format, serving.ways
            variables = environ.of(link, said, verdict.variables, form, ways)
            admitted = stages.Admitted(serving, peer, link, variables, loop.now() + _PATIENCE)
            if serving.lookups is None:
                self._screen(admitted)
            else:
                known = {**serving.base, **variables}
                self._asking[peer.fileno()] = serving
                serving.lookups.begin(link, known, functools.partial(self._looked_up, admitted))
        except Exception:  # noqa: BLE001
            self._break_off(peer, link)

    def _looked_up(self, admitted: stages.Admitted, found: dict[str, str]) -> None:
        self._asking.pop(admitted.socket.fileno(), None)
        try:
            until = loop.now() + _PATIENCE
            known = admitted._replace(variables={**admitted.variables, **found}, until=until)
            if self._closed:
                self._give_up(known, _STOPPING)
            else:
                self._screen(known)
        except Exception:  # noqa: BLE001
            self._break_off(admitted.socket, admitted.link)

    def _break_off(self, peer: socket.socket, link: connection.Link) -> None:
        """Let a defect cost the one connection that has met it, and not its slot."""
        log.crash(f"cannot serve {link.peer}")
        self._asking.pop(peer.fileno(), None)
        peer.close()
        self._former.look_soon()
        self._release(link.peer)

    def _screen(self, admitted: stages.Admitted) -> None:
        dropped = decision.screen(admitted.serving.service.drop, admitted.variables, admitted.serving.base)
        if dropped is not None:
            self._give_up(admitted, dropped)
            return
        if not self._ready:
            self._loop.soon(self._spawn)
        self._ready.append(admitted)
        if len(self._ready) == _TOGETHER:
            self._spawn()

    def _spawn(self) -> bool:
        """Start the programs of all who are ready; whether there was anybody."""
        ready, self._ready = self._ready, []
        starts = [
            functools.partial(serving.runner.start, peer.fileno(), variables)
            for serving, peer, _, variables, _ in ready
        ]
        for place, started in self._starter.start(starts):
            try:
                self._settle(ready[place], started)
            except Exception:  # noqa: BLE001
                self._break_off(ready[place].socket, ready[place].link)
        return bool(ready)

    def _settle(self, admitted: stages.Admitted, started: program.Started) -> None:
        """Go on with a connection whose program was started, or was not."""
        if isinstance(started, OSError) and started.errno in _NO_PROCESS and loop.now() < admitted.until:
            self._wait(admitted, started)
            return
        if isinstance(started, OSError | ValueError):
            self._cannot_run(admitted, started)
            return
        if isinstance(started, Exception):
            raise started
        self._broken = ""
        link = admitted.link
        self._running[started] = self._books.hold(started, link.peer)
        self._books.count("accepted")
        admitted.socket.close()
        self._former.look_soon()
        if log.enabled("info"):
            ends = stages.ends(link) | {"local": link.local}
            slots = f"{self._slots.total}/{self._slots.most}"
            log.info("accept", service=self._name, **ends, pid=started, slots=slots)

    def _cannot_run(self, admitted: stages.Admitted, error: OSError | ValueError) -> None:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        text = f"cannot run {admitted.serving.service.program[0]}: {reason}"
        if text != self._broken:
            self._broken = text
            log.error(text, service=self._name, errno=getattr(error, "errno", None))
        if admitted.serving.ways.tells_exec_error and admitted.serving.service.stderr == "socket":
            client.tell(admitted.socket, f"{admitted.serving.service.program[0]}: {reason}\n".encode())
        self._give_up(admitted, connection.Refused("spawn", (("error", reason),)))

    def _give_up(self, admitted: stages.Admitted, refused: connection.Refused) -> None:
        """Refuse a connection that holds a slot."""
        self._refuse(admitted.serving, admitted.socket, admitted.link, refused)
        self._release(admitted.link.peer)

    def _refuse(
        self,
        serving: stages.Serving,
        peer: socket.socket,
        link: connection.Link,
        refused: connection.Refused,
    ) -> None:
        reason = refused.reason
        self._books.count(reason)
        message = serving.messages.get(reason)
        if message is not None and (serving.ways.tells_local_denial or not refused.local):
            client.tell(peer, message)
        peer.close()
        self._former.look_soon()
        held_back = self._throttle.pass_(reason, loop.now())
        if held_back is not None:
            fields = stages.ends(link) | dict(refused.detail)
            fields |= {"unlogged": held_back} if held_back else {}
            log.write("notice", "refuse", service=self._name, reason=reason.replace("_", "-"), **fields)

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

    def _release(self, peer: connection.Endpoint) -> None:
        self._slots.release(peer)
        self._books.set("connections", self._slots.total)
        self._poll()

    def _wait(self, admitted: stages.Admitted, error: OSError) -> None:
        """Keep a connection for which there is no process; accept nobody else meanwhile."""
        if self._seldom.due("process", loop.now()):
            log.error(f"cannot start a program: {error.strerror}", service=self._name, retry=f"{_REST}s")
        if not self._waiting:
            self._loop.after(_REST, self._retry)
        self._waiting.append(admitted)
        self._poll()

    def _retry(self) -> None:
        self._ready[:0] = self._waiting
        self._waiting.clear()
        self._spawn()
        self._poll()
