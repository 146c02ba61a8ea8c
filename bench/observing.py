"""Measures the cost of observation: metrics and log lines of a connection, the HTTP process and its page."""

import functools
import http.client
import pathlib
import pwd
import time
import timeit
from collections.abc import Callable, Sequence
from typing import Final

from bench import clients, figures, servers, sizes
from tcpdconf.daemon.process.logs import lines
from tcpdconf.daemon.worker import ledger

_CALLS: Final = 20_000
_PORT: Final = 3999
_NOBODY: Final = pwd.getpwnam("nobody")  # the user of the HTTP process alone
_ENDS: Final = {"peer": "192.0.2.25:40000", "local": "198.51.100.25:25", "pid": 12345}
_EVENTS: Final = (
    ("accept", {"service": "smtp", **_ENDS, "slots": "17/40"}),
    ("end", {"service": "smtp", **_ENDS, "status": 0, "seconds": 12.3}),
)
_METRICS: Final = (
    figures.Metric("counter and histograms of a connection", "us", "less", {figures.SUBJECT: 2}),
    figures.Metric("two log lines of a connection, as text", "us", "less"),
    figures.Metric("two log lines of a connection, as JSON", "us", "less"),
)
_HTTP: Final = (
    figures.Metric("PSS of the HTTP process", "MB", "less"),
    figures.Metric(f"page of {sizes.SERVICES} services", "kB", "less"),
    figures.Metric(f"metrics of {sizes.SERVICES} services", "kB", "less"),
    figures.Metric("answer with the page", "ms", "less"),
    figures.Metric("answer with the metrics", "ms", "less"),
)


def measure(tools: clients.Tools, *, rounds: int) -> list[figures.Figure]:
    """Measure the costs for each connection, and those of the HTTP process."""
    cases = [
        figures.Case(_METRICS, {figures.SUBJECT: connection}),
        figures.Case(_HTTP, {figures.SUBJECT: functools.partial(served, tools)}),
    ]
    return figures.measure(cases, rounds)


def connection() -> Sequence[float]:
    """Return the microseconds for the counters of a connection, and for its log lines in both forms."""
    books = ledger.Ledger(ledger.create(), 40)

    def count() -> None:
        books.count("accepted")
        books.observe("start", 0.002)
        books.observe("connection", 12.3)

    def written(form: lines.Form) -> None:
        for event, fields in _EVENTS:
            form.event("info", event, fields)

    text, structured = lines.Text(levels=False, times=True), lines.Json(levels=False)
    return [_each(each) for each in (count, lambda: written(text), lambda: written(structured))]


def _each(call: Callable[[], None]) -> float:
    return min(timeit.repeat(call, number=_CALLS, repeat=5)) / _CALLS * 1e6


def served(tools: clients.Tools) -> Sequence[float]:
    """Return megabytes of the HTTP process, kilobytes of page and metrics, milliseconds of both answers."""
    services = [servers.Service(number, tools.static) for number in range(sizes.SERVICES)]
    http_table = f'[daemon.http]\nlisten = "127.0.0.1:{_PORT}"\nuser = "{_NOBODY.pw_name}"\n'
    with servers.daemon("".join(map(servers.toml, services)) + http_table) as running:
        page, metrics = (_answer(path) for path in ("/", "/metrics"))
        (process,) = (pid for pid in servers.tree((running.pid,)) if _user(pid) == _NOBODY.pw_uid)
        memory = sizes.proportional(process) / 1e6
    return [memory, page[0] / 1e3, metrics[0] / 1e3, page[1], metrics[1]]


def _user(pid: int) -> int:
    """Return the effective user of a process (proc(5), status)."""
    lines_of_status = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    (users,) = (line.split() for line in lines_of_status if line.startswith("Uid:"))
    return int(users[2])


def _answer(path: str) -> tuple[int, float]:
    """Return the bytes of an answer, and the median of the milliseconds until it is read."""
    found = []
    for _ in range(11):
        began = time.perf_counter()
        asked = http.client.HTTPConnection("127.0.0.1", _PORT, timeout=clients.SECONDS)
        asked.request("GET", path)
        size = len(asked.getresponse().read())
        asked.close()
        found.append((time.perf_counter() - began, size))
    seconds, size = sorted(found)[len(found) // 2]
    return size, seconds * 1e3
