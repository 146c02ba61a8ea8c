"""Answers requests from the latest snapshot of the status, and samples snapshots for the page's history."""

import functools
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final

from tcpdconf.daemon.http import exposition, page, request, snapshot
from tcpdconf.daemon.http.history import INTERVAL, History
from tcpdconf.daemon.http.request import Request
from tcpdconf.daemon.http.response import Response
from tcpdconf.daemon.http.snapshot import Snapshot
from tcpdconf.daemon.process import log, loop

STALE: Final = 15.0  # age in seconds of a snapshot from which the supervisor counts as hung
_SOON: Final = 1.0  # seconds between two attempts to read the first snapshot
_SHARE: Final = 0.01  # most of this process's time for sampling, as a fraction
_METHODS: Final = {"Allow": "GET, HEAD"}
_AGAIN: Final = {"Refresh": "10"}  # for a browser without JavaScript


class Answers:
    """Answers requests; each body is made once for each snapshot.

    `names` are the values of the header Host that are accepted; with None every value is accepted.
    """

    def __init__(self, reader: snapshot.Reader, names: Collection[str] | None) -> None:
        self._reader = reader
        self._names = names
        self._made: dict[Callable[[Status], Response], Response] = {}
        self._latest: Status | None = None
        self._history = History()
        self._timer = 0

    def sample(self, events: loop.Loop) -> None:
        """Sample the latest snapshot now and at intervals; a slow sample makes the next interval longer."""
        self._sample_again(events, INTERVAL)  # first, in case of a defect
        begun = loop.now()
        found = self._reader.read()
        if found is None:
            self._sample_again(events, _SOON)
        elif snapshot.now() - found.at <= STALE:
            services = json.loads(found.text)["services"]
            self._history.add(found.at, {name: each["connections"] for name, each in services.items()})
            self._sample_again(events, max(INTERVAL, (loop.now() - begun) / _SHARE))

    def _sample_again(self, events: loop.Loop, seconds: float) -> None:
        events.cancel(self._timer)
        self._timer = events.after(seconds, lambda: self.sample(events))

    def __call__(self, asked: Request) -> Response:
        """Return the response to a request."""
        if self._names is not None and not request.is_own(asked.host, self._names):
            return Response.plain(421, "the header Host names another host: add it to daemon.http.hosts")
        if asked.method not in {"GET", "HEAD"}:
            return Response.plain(405, "only GET and HEAD", _METHODS)
        make = _metrics(asked) if asked.path == "/metrics" else _PATHS.get(asked.path)
        if make is None:
            return Response.plain(404, "there are: / /metrics /healthz /readyz /status.json")
        try:
            return self._answer(make)
        except Exception:  # noqa: BLE001 (a defect costs this answer only)
            log.crash("cannot answer over HTTP")
            return Response.plain(500, "a defect of tcpdconf: see the log")

    def _answer(self, make: "Callable[[Status], Response]") -> Response:
        found = self._reader.read()
        if found is None:
            return Response.plain(503, "the daemon is starting", _AGAIN)
        if self._latest is None or self._latest.snapshot.number != found.number:
            self._latest = Status(found, self._history)
            self._made = {}
        age = snapshot.now() - found.at
        if age > STALE:
            return Response.plain(503, f"the supervisor has not written its status for {age:.0f} s", _AGAIN)
        if make not in self._made:
            self._made[make] = make(self._latest)
        return self._made[make]


class Status:
    """Holds the status of one snapshot, parsed when it is needed, and the history of the services."""

    def __init__(self, found: Snapshot, history: History) -> None:
        self.snapshot = found
        self.history = history

    @functools.cached_property
    def data(self) -> dict[str, Any]:
        """The answer of the command `status`, with `stopping` added."""
        found: dict[str, Any] = json.loads(self.snapshot.text)
        return found


def _health(_: Status) -> Response:
    return Response.plain(200, "ok")


def _ready(status: Status) -> Response:
    """Answer 200 if every service accepts, else 503.

    A rejected reload is reported but not counted, since clients are served as before. The same is true of an
    engine that does not answer, unless clients are refused without it.
    """
    missing = list(_not_ready(status.data))
    lines = missing or ["ready"]
    last = status.data["last_reload"]
    if last is not None and not last["ok"]:
        lines.append("the last reload was rejected: the previous configuration stays in effect")
    cluster = status.data["cluster"]
    if cluster is not None and cluster["state"] != "up" and cluster["on_failure"] == "local":
        lines.append("the engine of the cluster does not answer: limits hold on this host alone")
    return Response.plain(503 if missing else 200, "\n".join(lines))


def _not_ready(data: Mapping[str, Any]) -> Iterator[str]:
    if data["stopping"]:
        yield "the daemon is stopping"
    cluster = data["cluster"]
    if cluster is not None and cluster["state"] != "up" and cluster["on_failure"] == "refuse":
        yield "the engine of the cluster does not answer: clients are refused"
    for name, service in data["services"].items():
        if not service["accepts"]:
            yield f"{name} does not accept"


def _json(status: Status) -> Response:
    return Response(200, "application/json", status.snapshot.text)


def _page(status: Status) -> Response:
    text = page.html(status.data, status.history, os.uname().nodename, time.time())
    return Response(200, "text/html; charset=utf-8", text.encode(), page.HEADERS)


def _text(status: Status) -> Response:
    return Response(200, exposition.TEXT, exposition.text(status.data))


def _openmetrics(status: Status) -> Response:
    return Response(200, exposition.OPENMETRICS, exposition.openmetrics(status.data))


def _metrics(asked: Request) -> Callable[[Status], Response]:
    return _openmetrics if request.wants_openmetrics(asked.accept) else _text


_PATHS: Final[Mapping[str, Callable[[Status], Response]]] = {
    "/": _page,
    "/healthz": _health,
    "/readyz": _ready,
    "/status.json": _json,
}
