"""Implements the commands on control.sock (docs/reference/control.md)."""

import dataclasses
import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

import tcpdconf
from tcpdconf.config.model.service import Config, Service
from tcpdconf.daemon.control import server as control_server
from tcpdconf.daemon.control.server import Command, Reply
from tcpdconf.daemon.messages.worker import Report, Reported
from tcpdconf.daemon.process import log, loop
from tcpdconf.daemon.supervisor import listeners
from tcpdconf.daemon.supervisor import service as service_process
from tcpdconf.daemon.supervisor.reload import queue as reload_queue
from tcpdconf.daemon.supervisor.reload.queue import Last, ReloadQueue
from tcpdconf.daemon.worker import ledger

_REPORT: Final = 1.0  # seconds that workers have to report their lists and names
_BUSIEST: Final = 10


class Commands:
    """Answers the commands to one daemon; `stop` is called with the seconds that programs may go on."""

    def __init__(
        self,
        events: loop.Loop,
        running: ReloadQueue,
        activated: listeners.Activated,
        stop: Callable[[float], None],
    ) -> None:
        self._loop = events
        self._reloads = running
        self._activated = activated
        self._stop = stop
        self._missing: set[service_process.ManagedService] = (
            set()
        )  # services whose worker has not reported yet
        self._waiting: list[Reply] = []
        self._timer = 0
        self._heir: int | None = None  # the pid of the daemon that takes over
        self._ending = False  # told to stop, perhaps by the daemon that takes over
        self._hashed: tuple[Config, str] | None = None

    def all(self) -> dict[str, Command]:
        """Return the commands by name."""
        return {
            "status": self._status,
            "connections": self._connections,
            "reload": self._reload,
            "stop": self._end,
            "hand-over": self._hand_over,
        }

    def reported(self, each: service_process.ManagedService, report: Reported) -> None:
        """Keep a worker's report of lists and names, and answer if it is the last one."""
        each.report = report
        self._missing.discard(each)
        if not self._missing:
            self._answer()

    def _status(self, _: dict[str, Any], reply: Reply) -> None:
        """Ask the workers for lists and names; answer when all have reported, or after one second."""
        self._waiting.append(reply)
        if self._missing:
            return
        for each in self._reloads.state.services.values():
            if _settings(each).dns_lists or _settings(each).lookup_names:
                self._missing.add(each)
                each.tell(Report())
        self._timer = self._loop.after(_REPORT if self._missing else 0, self._answer)

    def _answer(self) -> None:
        self._loop.cancel(self._timer)
        self._missing.clear()
        waiting, self._waiting = self._waiting, []
        for reply in waiting:
            control_server.answer(reply, self._page)

    def _page(self) -> dict[str, object]:
        running = self._reloads
        read = {name: ledger.snapshot(each.ledger) for name, each in running.state.services.items()}
        return {
            "pid": os.getpid(),
            "version": tcpdconf.__version__,
            "config": {
                "dir": running.state.loaded.directory,
                "hash": self._hash(running.state.loaded.config),
                "loaded_at": running.loaded_at,
            },
            "last_reload": _last(running.last),
            "services": {
                name: _service(each, read[name].counts) for name, each in running.state.services.items()
            },
            "connections_by_address": _busiest(read),
        }

    def _hash(self, config: Config) -> str:
        """Return the hash of the running configuration, which is computed once for each."""
        if self._hashed is None or self._hashed[0] is not config:
            self._hashed = config, hashlib.sha256(config.model_dump_json().encode()).hexdigest()
        return self._hashed[1]

    def _connections(self, _: dict[str, Any], reply: Reply) -> None:
        now, since_boot = time.time(), ledger.boot_time()
        found = []
        for name, each in self._reloads.state.services.items():
            for held in ledger.snapshot(each.ledger).held:
                age = max(0.0, since_boot - held.started)
                found.append(
                    {
                        "pid": held.pid,
                        "peer": str(held.peer),
                        "service": name,
                        "started": now - age,
                        "age": age,
                    }
                )
        reply({"connections": found})

    def _reload(self, _: dict[str, Any], reply: Reply) -> None:
        log.info("reloading", because="command")
        self._reloads.request(
            lambda last: control_server.answer(reply, lambda: reload_queue.answer(last.outcome, last.at)),
            again=True,
        )

    def _hand_over(self, _: dict[str, Any], reply: Reply) -> None:
        """Give one successor the listening sockets. Both daemons accept until the successor sends `stop`.

        A successor that hangs up before that has failed, and another one may take over.
        """
        if self._heir is not None:
            reply({"ok": False, "error": f"pid {self._heir} takes over already"})
            return
        found = [each for sockets in self._reloads.state.sockets.values() for each in sockets]
        if self._ending or any(each.fileno() < 0 for each in found):
            reply({"ok": False, "error": "the daemon stops"})
            return
        self._heir = reply.pid
        reply.keep(self._disinherit)
        log.info("handing over", sockets=len(found), to=self._heir)
        units = [self._activated.unit(each) for each in found]
        answer = {"ok": True, "pid": os.getpid(), "sockets": len(found), "units": units}
        reply(answer, [each.fileno() for each in found])

    def _disinherit(self) -> None:
        self._heir = None

    def _end(self, request: dict[str, Any], reply: Reply) -> None:
        drain = request.get("drain")
        if drain is not None and not (isinstance(drain, int | float) and 0 <= drain <= 604800):
            reply({"ok": False, "error": "drain is a number of seconds, at most 604800"})
            return
        self._ending = True
        reply({"ok": True, "pid": os.getpid()})
        self._loop.after(0, lambda: self._stop(drain or 0))


def _service(each: service_process.ManagedService, counts: Mapping[str, int]) -> dict[str, object]:
    settings, names = _settings(each), each.report.names
    return {
        "pid": each.pids[0] if each.pids else None,
        "accepts": each.accepts and each.workers[0].serves and each.process.wanted,
        "stays_up": each.process.stays_up,
        "connections": counts["connections"],
        "max_connections": settings.limits.max_connections,
        "accepted": counts["accepted"],
        "refused": {reason: counts[reason] for reason in ledger.REASONS},
        "listeners": [
            listeners.described(one)
            for _, one in (each.setup.sockets if each.setup else ())
            if one.fileno() >= 0  # a daemon that stops has closed them all
        ],
        "dns_lists": {
            shown: dataclasses.asdict(one)
            for shown, one in (each.report.lists.items() if settings.dns_lists else ())
        },
        "names": dataclasses.asdict(names) if settings.lookup_names and names is not None else None,
    }


def _settings(each: service_process.ManagedService) -> Service:
    assert each.setup is not None  # noqa: S101 (a service that runs has a setup)
    return each.setup.config.services[each.name]


def _last(last: Last | None) -> dict[str, object] | None:
    if last is None:
        return None
    found = reload_queue.answer(last.outcome, last.at)
    del found["details"], found["excerpts"]
    return found


def _busiest(read: Mapping[str, ledger.Snapshot]) -> list[dict[str, object]]:
    counted = Counter(held.peer.text for found in read.values() for held in found.held)
    return [{"address": text, "connections": count} for text, count in counted.most_common(_BUSIEST)]
