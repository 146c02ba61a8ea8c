"""What the commands on control.sock do (docs/reference/control.md)."""

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

import tcpdconf
from tcpdconf.config import model, problems
from tcpdconf.daemon import control, ledger, listeners, liststatus, log, loop, reloads, service

_REPORT: Final = 1.0  # seconds that workers have to say how their lists are
_BUSIEST: Final = 10


class Commands:
    """The commands of one daemon; `stop` is called with the seconds that programs may go on."""

    def __init__(self, events: loop.Loop, running: reloads.Reloads, stop: Callable[[float], None]) -> None:
        self._loop = events
        self._reloads = running
        self._stop = stop
        self._lists: dict[str, dict[str, Any]] = {}  # by service: what its worker has said last
        self._missing: set[str] = set()  # services whose worker has not said it yet
        self._waiting: list[Callable[[], None]] = []
        self._timer = 0
        self._hashed: tuple[model.Config, str] | None = None

    def all(self) -> dict[str, control.Command]:
        """Every command by its name."""
        return {
            "status": self._status,
            "connections": self._connections,
            "reload": self._reload,
            "stop": self._end,
            "hand-over": self._hand_over,
        }

    def reported(self, name: str, message: dict[str, Any]) -> None:
        """Take note of what a worker says of its lists; it is handed on as far as it has the right form."""
        self._lists[name] = liststatus.checked(message.get("lists"))
        self._missing.discard(name)
        if not self._missing:
            self._answer()

    def _status(self, _: dict[str, Any], reply: control.Reply) -> None:
        """Ask the workers for their lists, and answer when all have said it, or one second later."""
        self._waiting.append(lambda: reply(self._page()))
        if self._missing:
            return
        for name, each in self._reloads.state.services.items():
            if _settings(each).dns_lists:
                self._missing.add(name)
                each.tell("report")
        self._timer = self._loop.after(_REPORT if self._missing else 0, self._answer)

    def _answer(self) -> None:
        self._loop.cancel(self._timer)
        self._missing.clear()
        waiting, self._waiting = self._waiting, []
        for answer in waiting:
            answer()

    def _page(self) -> dict[str, object]:
        running = self._reloads
        read = {name: ledger.snapshot(each.ledger) for name, each in running.state.services.items()}
        return {
            "pid": os.getpid(),
            "version": tcpdconf.__version__,
            "config": {
                "dir": os.path.abspath(running.state.loaded.directory),
                "hash": self._hash(running.state.loaded.config),
                "loaded_at": running.loaded_at,
            },
            "last_reload": _last(running.last),
            "services": {
                name: self._service(name, each, read[name].counts)
                for name, each in running.state.services.items()
            },
            "connections_by_address": _busiest(read),
        }

    def _service(self, name: str, each: service.Service, counts: Mapping[str, int]) -> dict[str, object]:
        settings = _settings(each)
        return {
            "pid": each.pids[0] if each.pids else None,
            "connections": counts["connections"],
            "max_connections": settings.limits.max_connections,
            "accepted": counts["accepted"],
            "refused": {reason: counts[reason] for reason in ledger.REASONS},
            "listeners": [listeners.described(one) for _, one in (each.setup.sockets if each.setup else ())],
            "dns_lists": self._lists.get(name, {}) if settings.dns_lists else {},
        }

    def _hash(self, config: model.Config) -> str:
        """Return the hash of what runs; a large configuration is hashed once."""
        if self._hashed is None or self._hashed[0] is not config:
            self._hashed = config, hashlib.sha256(config.model_dump_json().encode()).hexdigest()
        return self._hashed[1]

    def _connections(self, _: dict[str, Any], reply: control.Reply) -> None:
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

    def _reload(self, _: dict[str, Any], reply: control.Reply) -> None:
        log.info("reloading", because="command")
        self._reloads.wish(lambda last: reply(_outcome(last)), again=True)

    def _hand_over(self, _: dict[str, Any], reply: control.Reply) -> None:
        """Give a successor the listening sockets. Both accept from them until the successor says stop."""
        found = [each.fileno() for sockets in self._reloads.state.sockets.values() for each in sockets]
        log.info("handing over", sockets=len(found))
        reply({"ok": True, "pid": os.getpid(), "sockets": len(found)}, found)

    def _end(self, request: dict[str, Any], reply: control.Reply) -> None:
        drain = request.get("drain")
        if drain is not None and not (isinstance(drain, int | float) and 0 <= drain <= 604800):
            reply({"ok": False, "error": "drain is a number of seconds, at most 604800"})
            return
        reply({"ok": True, "pid": os.getpid()})
        self._loop.after(0, lambda: self._stop(drain or 0))


def _settings(each: service.Service) -> model.Service:
    assert each.setup is not None  # noqa: S101 (what runs has a setup)
    return each.setup.config.services[each.name]


def _last(last: reloads.Last | None) -> dict[str, object] | None:
    if last is None:
        return None
    found = _outcome(last)
    del found["details"]
    return found


def _outcome(last: reloads.Last) -> dict[str, object]:
    return {
        "ok": last.ok,
        "at": last.at,
        "changed": last.outcome.changed,
        "details": last.outcome.details,
        "problems": problems.records(last.outcome.problems),
    }


def _busiest(read: Mapping[str, ledger.Snapshot]) -> list[dict[str, object]]:
    counted = Counter(held.peer.text for found in read.values() for held in found.held)
    return [{"address": text, "connections": count} for text, count in counted.most_common(_BUSIEST)]
