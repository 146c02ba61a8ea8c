"""Implements the commands on control.sock (docs/reference/control.md)."""

import contextlib
import dataclasses
import hashlib
import ipaddress
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import tcpdconf
from tcpdconf.config.model.service import Config, Service
from tcpdconf.daemon.control import server as control_server
from tcpdconf.daemon.control.server import Command, Reply
from tcpdconf.daemon.guard.bans import Bans, BansError
from tcpdconf.daemon.messages.measures import BOUNDS, LIST_BOUNDS
from tcpdconf.daemon.messages.worker import (
    MOST_ASKED,
    WOULD,
    Address,
    ListStatus,
    PenaltiesStatus,
    PenaltyStatus,
    Report,
    Reported,
)
from tcpdconf.daemon.process import log, loop, procfs
from tcpdconf.daemon.supervisor import listeners, takeover
from tcpdconf.daemon.supervisor.reload import queue as reload_queue
from tcpdconf.daemon.supervisor.reload.queue import Last, ReloadQueue
from tcpdconf.daemon.supervisor.service.managed import ManagedService
from tcpdconf.daemon.worker import ledger
from tcpdconf.policy.access import table as access_table
from tcpdconf.policy.connection import endpoint

_REPORT: Final = 1.0  # seconds that workers have to report
_BUSIEST: Final = 10
_MOST_REFUSED: Final = 10
_NEWEST: Final = 20  # bans
_DETAILS: Final = 100  # lines of a reload's differences
_DETAIL: Final = 300  # characters of such a line


class Commands:
    """Answers the commands on control.sock for one daemon.

    `stop` is called with the seconds that programs may continue; None means that the daemon stops at once.
    `cluster` returns the status of the engine, or None without one.
    """

    def __init__(
        self,
        events: loop.Loop,
        running: ReloadQueue,
        activated: listeners.Activated,
        stop: Callable[[float | None], None],
        bans: Bans,
        *,
        cluster: Callable[[], Mapping[str, object] | None] = lambda: None,
    ) -> None:
        self._loop = events
        self._reloads = running
        self._activated = activated
        self._stop = stop
        self._bans = bans
        self._cluster = cluster
        self._missing: set[ManagedService] = set()  # services whose worker has not reported yet
        self._waiting: list[Callable[[], None]] = []
        self._timer = 0
        self._heir: int | None = None  # the pid of the daemon that takes over
        self.replaced = False  # True if it must stop while a successor has the listening sockets
        self._ending = False  # True once it must stop, perhaps for a successor
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

    @property
    def ending(self) -> bool:
        """True once the daemon was told to stop by command."""
        return self._ending

    def reported(self, each: ManagedService) -> None:
        """Handle a service whose workers have reported, and answer if it is the last one."""
        self._missing.discard(each)
        if not self._missing:
            self._answer()

    def _status(self, request: dict[str, Any], reply: Reply) -> None:
        about = tuple(_addresses(request.get("about")))
        self.ask(lambda status: control_server.answer(reply, status), about)

    def ask(
        self, then: Callable[[Callable[[], dict[str, object]]], None], about: tuple[Address, ...] = ()
    ) -> None:
        """Ask the workers, and call `then` with a function that returns the status."""
        self.ask_workers(lambda: then(self._page), about)

    def ask_workers(self, done: Callable[[], None], about: tuple[Address, ...] = ()) -> None:
        """Ask the workers for reports; call `done` when all have reported, or after one second.

        The reports have the penalties of the addresses in `about`, unless an earlier request still waits.
        """
        self._waiting.append(done)
        if self._missing:
            return
        for each in self._reloads.state.services.values():
            if each.accepts:
                self._missing.add(each)
                each.tell(Report(about))
        self._timer = self._loop.after(_REPORT if self._missing else 0, self._answer)

    def _answer(self) -> None:
        self._loop.cancel(self._timer)
        self._missing.clear()
        waiting, self._waiting = self._waiting, []
        for done in waiting:
            self._loop.attempt(done)

    def _page(self) -> dict[str, object]:
        running, used = self._reloads, procfs.usage()
        read = {name: each.snapshot() for name, each in running.state.services.items()}
        return {
            "pid": os.getpid(),
            "version": tcpdconf.__version__,
            "started_at": used.started,
            "config": {
                "dir": running.state.loaded.directory,
                "hash": self._hash(running.state.loaded.config),
                "loaded_at": running.loaded_at,
            },
            "last_reload": _last(running.last),
            "reloads": dict(running.results),
            "process": {**used._asdict(), "lost_lines": log.lost()},
            "services": {name: _service(each, read[name]) for name, each in running.state.services.items()},
            "connections_by_address": _busiest(read),
            "refused_by_address": most_refused(each.report for each in running.state.services.values()),
            "bans": len(self._bans),
            "banned": self._banned(),
            "cluster": self._cluster(),
        }

    def _banned(self) -> list[dict[str, object]] | None:
        """Return the newest bans, or None if their file cannot be read: the status must not fail for that."""
        try:
            return [each.data() for each in self._bans.newest(_NEWEST)]
        except BansError:
            return None

    def _hash(self, config: Config) -> str:
        """Return the hash of the running configuration, which is computed once for each configuration."""
        if self._hashed is None or self._hashed[0] is not config:
            self._hashed = config, hashlib.sha256(config.model_dump_json().encode()).hexdigest()
        return self._hashed[1]

    def _connections(self, _: dict[str, Any], reply: Reply) -> None:
        now, since_boot = time.time(), ledger.boot_time()
        found = []
        for name, each in self._reloads.state.services.items():
            for held in each.snapshot().held:
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

    def _hand_over(self, request: dict[str, Any], reply: Reply) -> None:
        """Give one successor the listening sockets. Both daemons accept until the successor sends `stop`.

        If a successor hangs up before that, it has failed, and another one may take over. A successor that
        names no protocol is an older release, which speaks protocol 1.
        """
        if (protocol := request.get("protocol", 1)) != takeover.PROTOCOL:
            reply({"ok": False, "error": takeover.unknown(protocol, "the new daemon takes over")})
            return
        if self._heir is not None:
            reply({"ok": False, "error": f"pid {self._heir} is already taking over"})
            return
        found = [each for sockets in self._reloads.state.sockets.values() for each in sockets]
        if self._ending or any(each.fileno() < 0 for each in found):
            reply({"ok": False, "error": "the daemon is stopping"})
            return
        self._heir = reply.pid
        reply.keep(self._disinherit)
        log.info("handing over", sockets=len(found), to=self._heir)
        units = [self._activated.unit(each) for each in found]
        answer = {
            "ok": True,
            "pid": os.getpid(),
            "protocol": takeover.PROTOCOL,
            "sockets": len(found),
            "units": units,
        }
        reply(answer, [each.fileno() for each in found])

    def _disinherit(self) -> None:
        self._heir = None

    def _end(self, request: dict[str, Any], reply: Reply) -> None:
        drain = request.get("drain")
        if drain is not None and not (isinstance(drain, int | float) and 0 <= drain <= 604800):
            reply({"ok": False, "error": "drain must be a number of seconds from 0 to 604800"})
            return
        self._ending = True
        self.replaced = self._heir is not None
        reply({"ok": True, "pid": os.getpid()})
        self._loop.after(0, lambda: self._stop(drain))


def _service(each: ManagedService, found: ledger.Snapshot) -> dict[str, object]:
    counts = found.counts
    settings, report = _settings(each), each.report
    names = report.names
    opened = each.setup.sockets if each.setup else ()
    sockets = [one for _, one in opened if one.fileno() >= 0]  # a daemon that stops has closed them all
    return {
        "pid": each.pids[0] if each.pids else None,
        "pids": each.accepting,
        "workers": settings.workers,
        "group": settings.limits.group,
        "accepts": each.is_serving,
        "draining": each.draining,
        "stays_up": each.stays_up,
        "restarts": each.restarts,
        "connections": counts["connections"],
        "max_connections": settings.limits.max_connections,
        "waiting": found.gauges["parked"] + sum(map(listeners.waiting, sockets)),
        "accepted": counts["accepted"],
        "expired": counts["expired"],
        "refused": {reason: counts[reason] for reason in ledger.REASONS},
        "early_talkers": counts["early_talker"],
        "awaited_headers": found.gauges["headers"],
        "would_refuse": {reason: counts[counter] for reason, counter in WOULD.items()},
        "observes": settings.observed(),
        "listeners": [listeners.described(one) for one in sockets],
        "dns_lists": {
            shown: dns_list(one) for shown, one in (report.lists.items() if settings.dns_lists else ())
        },
        "names": dataclasses.asdict(names) if settings.lookup_names and names is not None else None,
        "penalties": penalties(report.penalties, counts) if settings.penalties is not None else None,
        "process": _usage(found.gauges),
        "histograms": {
            name: _histogram(BOUNDS[name], one.counts, one.total) for name, one in found.histograms.items()
        },
    }


def dns_list(one: ListStatus) -> dict[str, object]:
    """Return the health of a DNS list, with its answer times as a histogram."""
    found = dataclasses.asdict(one)
    return {**found, "times": _histogram(LIST_BOUNDS, found["times"], found.pop("seconds"))}


def _histogram(bounds: Sequence[float], counts: Sequence[int], total: float) -> dict[str, object]:
    return {"bounds": bounds, "counts": counts, "sum": total}


def _usage(gauges: Mapping[str, int]) -> dict[str, object]:
    """Return the memory and processor time that a worker has measured of itself, as JSON data."""
    return {
        "cpu": gauges["cpu_milliseconds"] / 1000,
        "resident": gauges["resident_bytes"],
        "descriptors": gauges["descriptors"],
        "started": gauges["started"],
        "lost_lines": gauges["lost_lines"],
    }


def penalties(report: PenaltiesStatus | None, counts: Mapping[str, int]) -> dict[str, object] | None:
    """Return a worker's report on penalties as JSON data, or None before its first report.

    Only the form of the report was checked.
    """
    if report is None:
        return None
    return {
        "charged": counts["penalties"],
        "active": report.active,
        "sources": [penalty(row) for row in report.sources],
    }


def penalty(row: PenaltyStatus) -> dict[str, object]:
    """Return one penalty as JSON data."""
    return {
        "network": _network(row),
        "offence": row.offence,
        "seconds": row.seconds,
        "active": row.active,
    }


def _network(row: PenaltyStatus) -> str:
    """Return the network of a penalty as text; a single address has no prefix length."""
    bits = access_table.BITS[row.version]
    first = ipaddress.ip_address((row.bits << bits - row.length).to_bytes(bits // 8))
    return str(first) if row.length == bits else f"{first}/{row.length}"


def most_refused(reports: Iterable[Reported]) -> list[dict[str, object]]:
    """Return the addresses with the most refusals of all services together."""
    counted: Counter[Address] = Counter()
    for report in reports:
        for version, value, refused in report.refused:
            counted[version, value] += refused
    return [
        {"address": endpoint(version, value, 0).text, "refused": refused}
        for (version, value), refused in counted.most_common(_MOST_REFUSED)
    ]


def _addresses(texts: object) -> Iterator[Address]:
    """Yield the addresses that a command names."""
    for text in texts[:MOST_ASKED] if isinstance(texts, list) else ():
        with contextlib.suppress(ValueError):
            found = ipaddress.ip_address(text) if isinstance(text, str) else None
            if found is not None:
                yield found.version, int(found)


def _settings(each: ManagedService) -> Service:
    assert each.setup is not None  # noqa: S101 (a service that runs has a setup)
    return each.setup.config.services[each.name]


def _last(last: Last | None) -> dict[str, object] | None:
    if last is None:
        return None
    found = reload_queue.answer(last.outcome, last.at)
    del found["excerpts"]
    return {**found, "details": [*_bounded(last.outcome.details)]}


def _bounded(lines: Sequence[str]) -> Iterator[str]:
    """Yield the first lines, each cut to a limit, because a snapshot for HTTP is made each second."""
    for line in lines[:_DETAILS]:
        yield line if len(line) <= _DETAIL else f"{line[: _DETAIL - 1]}…"
    if len(lines) > _DETAILS:
        yield f"and {len(lines) - _DETAILS} more"


def _busiest(read: Mapping[str, ledger.Snapshot]) -> list[dict[str, object]]:
    counted = Counter(held.peer.text for found in read.values() for held in found.held)
    return [{"address": text, "connections": count} for text, count in counted.most_common(_BUSIEST)]
