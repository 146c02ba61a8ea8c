"""Measures how the cost grows with the number of open connections and with the number of services."""

import contextlib
import time
from collections.abc import Sequence
from concurrent import futures
from typing import Final

from bench import clients, figures, servers, serving

HELD: Final = "held connections"
SERVICES: Final = "services"


def measure(
    tools: clients.Tools, *, held: Sequence[int], services: Sequence[int], count: int, rounds: int
) -> list[figures.Figure]:
    """Measure the cases with each number of `held` connections and with each number of `services`."""
    found = []
    for at in held:
        found += _measure(tools, HELD, at, count, rounds)
    for at in services:
        found += _measure(tools, SERVICES, at, count, rounds)
    return found


def _measure(tools: clients.Tools, beside: str, at: int, count: int, rounds: int) -> list[figures.Figure]:
    every = [servers.Service(number, tools.static) for number in range(at if beside == SERVICES else 1)]
    metrics = [metric._replace(beside=beside, at=at) for metric in _METRICS]
    with contextlib.ExitStack() as stack:
        running = {name: stack.enter_context(start(every)) for name, start in serving.STARTS.items()}
        for _ in range(at if beside == HELD else 0):
            for server in running.values():
                stack.enter_context(clients.hold(server.port(every[0])))
        cases = [
            serving.compare(metrics[:1], serving.latency(tools, every[-1], count), running),
            serving.compare(metrics[1:], serving.rate(tools, every[-1], count), running),
        ]
        if beside == SERVICES:
            spread = _SPREAD._replace(beside=beside, at=at)
            cases.append(serving.compare([spread], _over(tools, every, count), running))
        return figures.measure(cases, rounds)


def _over(tools: clients.Tools, services: Sequence[servers.Service], count: int) -> serving.Once:
    """Return a function that returns the connections a second of all services, with `AT_ONCE` clients."""
    used = services[:_USED]
    each, at_once = count // len(used), serving.AT_ONCE // len(used)

    def once(server: servers.Server) -> Sequence[float]:
        began = time.perf_counter()
        with futures.ThreadPoolExecutor(len(used)) as pool:
            started = [pool.submit(tools.run, server.port(service), each, at_once) for service in used]
            done = sum(load.result().served for load in started)
        return (done / (time.perf_counter() - began),)

    return once


_USED: Final = 10
_SPREAD: Final = figures.Metric(f"{serving.AT_ONCE} at once, over up to {_USED}", "1/s", "more")
_METRICS: Final = (
    figures.Metric("one at a time", "us", "less"),
    figures.Metric(f"{serving.AT_ONCE} at once", "1/s", "more"),
    figures.Metric("processor for 10,000", "s", "less"),
)
