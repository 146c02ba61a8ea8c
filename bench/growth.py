"""How cost grows with the connections that are held, and with the services that there are."""

import contextlib
from collections.abc import Sequence
from typing import Final

from bench import clients, figures, servers, serving

HELD: Final = "held connections"
SERVICES: Final = "services"


def measure(
    tools: clients.Tools, *, held: Sequence[int], services: Sequence[int], count: int, rounds: int
) -> list[figures.Figure]:
    """The cases beside so many held connections, and so many services."""
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
        return figures.measure(cases, rounds)


_METRICS: Final = (
    figures.Metric("one at a time", "us", "less"),
    figures.Metric(f"{serving.AT_ONCE} at once", "1/s", "more"),
    figures.Metric("processor for 10,000", "s", "less"),
)
