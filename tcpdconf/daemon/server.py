"""Accepts a service's connections, decides, and runs the program for those admitted.

All of it happens in the accept callback: nothing is awaited, so a refusal costs no task. The listeners are
polled only while a connection could be served; otherwise clients wait in the kernel's queue.
"""

import collections
import contextlib
import errno
import functools
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from tcpdconf.config import model
from tcpdconf.daemon import client, ledger, log, loop, program, throttle
from tcpdconf.policy import connection, decision, environ, limits

_AT_ONCE: Final = 32  # connections accepted before other events get their turn
# The client was gone before it was accepted, or the network was (accept(2), ERRORS).
_GONE: Final = frozenset(
    {
        errno.ECONNABORTED,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENONET,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.EPERM,
        errno.EPROTO,
    }
)
_NO_PROCESS: Final = frozenset({errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_REST: Final = 0.1  # seconds before another try when descriptors, memory or processes have run out
_PATIENCE: Final = 30.0  # seconds for which a connection waits for a process
_SELDOM: Final = 60.0  # seconds between two log lines on the same trouble


class _Admitted(NamedTuple):
    """A connection that holds a slot and has no program yet."""

    socket: socket.socket
    link: connection.Connection
    variables: Mapping[str, str]
    until: float


class Server:
    """One service at work. Its owner calls `reap` on SIGCHLD and `gone` for programs that were adopted."""

    def __init__(
        self,
        *,
        name: str,
        service: model.Service,
        listeners: Sequence[socket.socket],
        sources: Sequence[decision.Source],
        base: Mapping[str, str],
        runner: program.Program,
        events: loop.Loop,
        held: ledger.Ledger,
    ) -> None:
        self._name = name
        self._service = service
        self._listeners = {listener: client.fixed_end(listener) for listener in listeners}
        self._sources = sources
        self._base = base
        self._program = runner
        self._ledger = held
        self._loop = events
        self._slots = limits.Slots(service.limits)
        self._running: dict[int, ledger.Held] = {}
        self._adopted: set[int] = set()
        self._waiting: collections.deque[_Admitted] = collections.deque()
        self._resting = False
        self._closed = False
        self._polling = False
        self._throttle = throttle.Throttle()
        self._said: dict[str, float] = {}
        self._broken = ""
        self._messages = _messages(service)

    @property
    def running(self) -> int:
        """Programs that have not ended."""
        return len(self._running)

    def terminate(self) -> None:
        """Send SIGTERM to the programs: those of this worker's process group, and those adopted."""
        for pid in self._adopted & self._running.keys():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGTERM)
        os.killpg(0, signal.SIGTERM)

    def start(self) -> None:
        """Count the programs that an earlier worker left, and begin to accept."""
        for held in self._ledger.take_over():
            self._running[held.pid] = held
            self._adopted.add(held.pid)
            self._slots.hold(held.peer)
        self._ledger.set("connections", self._slots.total)
        self._poll()

    def close(self) -> None:
        """Accept no more, and let go of those that wait for a process."""
        self._closed = True
        self._poll()
        for listener in self._listeners:
            listener.close()
        while self._waiting:
            waiting = self._waiting.popleft()
            self._give_up(waiting, connection.Refused("spawn", (("error", "stopping"),)))

    def reap(self) -> None:
        """Take note of every program that has ended."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                self.gone(*ended)

    def gone(self, pid: int, status: int) -> None:
        """Take note that a program has ended; of any other process's end nothing happens."""
        held = self._running.pop(pid, None)
        if held is None:
            return
        self._adopted.discard(pid)
        self._ledger.release(held)
        self._release(held.peer)
        if log.enabled("info"):
            seconds = f"{time.clock_gettime(time.CLOCK_BOOTTIME) - held.started:.1f}"
            log.info("end", service=self._name, peer=held.peer, pid=pid, **_ending(status), seconds=seconds)

    def _poll(self) -> None:
        """Poll the listeners exactly while a connection could be served."""
        wanted = not (self._slots.full or self._waiting or self._resting or self._closed)
        if wanted == self._polling:
            return
        self._polling = wanted
        for listener in self._listeners:
            if wanted:
                self._loop.watch(listener, functools.partial(self._accept, listener))
            else:
                self._loop.forget(listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            if not self._polling:
                return
            try:
                peer, address = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _GONE:
                    self._rest("accept", error)
                continue
            try:
                local = self._listeners[listener] or client.endpoint(peer.getsockname())
                self._decide(peer, connection.Connection(client.endpoint(address), local))
            except Exception:  # noqa: BLE001 (a defect costs one connection, not the service)
                log.crash(f"cannot serve {address[0]}")
                peer.close()

    def _decide(self, peer: socket.socket, link: connection.Connection) -> None:
        verdict = decision.admit(self._sources, self._slots, link, loop.now())
        if isinstance(verdict, connection.Refused):
            self._refuse(peer, link, verdict)
            return
        self._taken()
        variables = environ.of(link, verdict.variables, self._service.address_format)
        admitted = _Admitted(peer, link, variables, loop.now() + _PATIENCE)
        dropped = decision.screen(self._service.drop, variables, self._base)
        if dropped is None:
            self._spawn(admitted)
        else:
            self._give_up(admitted, dropped)

    def _spawn(self, admitted: _Admitted) -> None:
        peer, link, variables, until = admitted
        try:
            pid = self._program.start(peer.fileno(), variables)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in _NO_PROCESS and loop.now() < until:
                self._waiting.append(admitted)
                self._rest("start a program", error)
            else:
                self._cannot_run(admitted, error)
            return
        self._broken = ""
        self._running[pid] = self._ledger.hold(pid, link.peer)
        self._ledger.count("accepted")
        peer.close()
        if log.enabled("info"):
            slots = f"{self._slots.total}/{self._slots.most}"
            log.info("accept", service=self._name, peer=link.peer, local=link.local, pid=pid, slots=slots)

    def _cannot_run(self, admitted: _Admitted, error: OSError | ValueError) -> None:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        text = f"cannot run {self._service.program[0]}: {reason}"
        if text != self._broken:
            self._broken = text
            log.error(text, service=self._name, errno=getattr(error, "errno", None))
        self._give_up(admitted, connection.Refused("spawn", (("error", reason),)))

    def _give_up(self, admitted: _Admitted, refused: connection.Refused) -> None:
        """Refuse a connection that holds a slot."""
        self._refuse(admitted.socket, admitted.link, refused)
        self._release(admitted.link.peer)

    def _refuse(self, peer: socket.socket, link: connection.Connection, refused: connection.Refused) -> None:
        reason = refused.reason
        self._ledger.count(reason)
        message = self._messages.get(reason)
        if message is not None:
            client.tell(peer, message)
        peer.close()
        held_back = self._throttle.pass_(reason, loop.now())
        if held_back is not None:
            fields = dict(refused.detail) | ({"unlogged": held_back} if held_back else {})
            log.info("refuse", service=self._name, reason=reason.replace("_", "-"), peer=link.peer, **fields)

    def _taken(self) -> None:
        """Look at the level after a slot was taken."""
        slots = self._slots
        self._ledger.set("connections", slots.total)
        if slots.full:
            self._poll()
            if self._due("full"):
                log.write("alert", "all slots are taken", service=self._name, max_connections=slots.most)
        elif slots.total >= slots.warn_at and self._due("warn"):
            log.warning("slots run out", service=self._name, slots=f"{slots.total}/{slots.most}")

    def _release(self, peer: connection.Endpoint) -> None:
        self._slots.release(peer)
        self._ledger.set("connections", self._slots.total)
        self._poll()

    def _rest(self, what: str, error: OSError) -> None:
        """Leave the listeners alone for a moment: descriptors, memory or processes have run out."""
        if self._due(what):
            log.error(f"cannot {what}: {error.strerror}", service=self._name, retry=f"{_REST}s")
        if not self._resting:
            self._resting = True
            self._loop.after(_REST, self._wake)
        self._poll()

    def _wake(self) -> None:
        self._resting = False
        for _ in range(len(self._waiting)):
            self._spawn(self._waiting.popleft())
        self._poll()

    def _due(self, trouble: str) -> bool:
        """Whether a line on this trouble may be logged again."""
        now = loop.now()
        if now < self._said.get(trouble, 0):
            return False
        self._said[trouble] = now + _SELDOM
        return True


def _messages(service: model.Service) -> dict[str, bytes]:
    """What to tell a refused client, by reason."""
    texts = {"access": service.deny_message, "dropped": service.deny_message}
    texts |= service.messages.model_dump(exclude_none=True)
    return {reason: client.line(text) for reason, text in texts.items() if text is not None}


def _ending(status: int) -> dict[str, object]:
    code = os.waitstatus_to_exitcode(status)
    return {"status": code} if code >= 0 else {"signal": _signal_name(-code)}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
