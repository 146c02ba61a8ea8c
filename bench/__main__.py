"""Compares tcpdconf with Debian's couriertcpd and tcpserver on this host.

    python -m bench [--quick] [--only SECTION] [--rounds N] [--json FILE] [--plot FILE]

It must run as root, because it creates a network namespace. It prints a table with medians, ranges, ratios
and targets.
"""

import argparse
import datetime as dt
import json
import os
import pathlib
import platform
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from bench import (
    alone,
    broker,
    clients,
    dns,
    figures,
    growth,
    observing,
    proxy,
    serving,
    sizes,
    steps,
    workers,
)

if TYPE_CHECKING:
    from collections.abc import Callable

SECTIONS = ("serving", "dns", "proxy", "sizes", "observing", "steps", "workers", "broker", "growth")


class Extent(NamedTuple):
    """Holds the sizes of a measurement."""

    rounds: int = 5
    connections: int = 2000
    lookups: int = 400
    networks: int = 1_000_000
    bans: int = 100_000
    checked: int = 200
    held: tuple[int, ...] = (1, 10, 100, 1000)
    services: tuple[int, ...] = (1, 10, 100)


QUICK = Extent(2, 100, 20, 20_000, 2000, 20, (1, 10), (1, 3))


def main() -> None:
    """Measure all sections, print their tables, and write the files that the options name."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see that it works")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="measure only this; repeats")
    parser.add_argument("--rounds", type=int, help="how often each case is measured")
    parser.add_argument("--json", type=pathlib.Path, help="write all values to this file")
    parser.add_argument("--plot", type=pathlib.Path, help="draw how cost grows, as SVG")
    asked = parser.parse_args()
    alone.go("bench", sys.argv[1:])
    extent = QUICK if asked.quick else Extent()
    extent = extent._replace(rounds=asked.rounds or extent.rounds)
    described = machine()
    print("\n".join(f"{name}: {value}" for name, value in described.items()), flush=True)
    found: list[figures.Figure] = []
    with clients.folder() as folder:
        tools = clients.Tools(pathlib.Path(folder))
        for section in asked.only or SECTIONS:
            measured = measure(section, tools, pathlib.Path(folder), extent)
            print(f"\n{section}\n\n{figures.table(measured)}", flush=True)
            found += measured
    if asked.json is not None:
        written = {"machine": described, "figures": [figure.plain() for figure in found]}
        asked.json.write_text(json.dumps(written, indent=1) + "\n")
    if asked.plot is not None:
        from bench import plot  # noqa: PLC0415 (matplotlib is needed for nothing else)

        plot.draw(found, asked.plot)


def measure(section: str, tools: clients.Tools, folder: pathlib.Path, extent: Extent) -> list[figures.Figure]:
    """Return the figures of a section."""
    few = (extent.rounds + 1) // 2  # rounds of slow cases, which vary little
    rounds, third = extent.rounds, extent.connections // 3
    sections: dict[str, Callable[[], list[figures.Figure]]] = {
        "serving": lambda: serving.measure(tools, folder, count=extent.connections, rounds=rounds),
        "dns": lambda: dns.measure(tools, folder, count=extent.lookups, rounds=rounds),
        # it differs by little
        "proxy": lambda: proxy.measure(tools, count=extent.connections, rounds=rounds * 3),
        "steps": lambda: steps.measure(tools, count=extent.lookups, rounds=few),
        "workers": lambda: workers.measure(tools, count=extent.connections, rounds=few),
        "broker": lambda: broker.measure(tools, folder, count=extent.connections, rounds=few),
        "observing": lambda: observing.measure(tools, rounds=few),
        "sizes": lambda: sizes.measure(
            tools,
            networks=extent.networks,
            held=extent.held[-1],
            bans=extent.bans,
            checked=extent.checked,
            rounds=few,
        ),
        "growth": lambda: growth.measure(
            tools, held=extent.held, services=extent.services, count=third, rounds=few
        ),
    }
    return sections[section]()


def machine() -> dict[str, Any]:
    """Return the conditions of a measurement: date, processors, kernel, Python, load."""
    models = {
        line.partition(":")[2].strip()
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    }
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="minutes"),
        "processors": f"{os.cpu_count()} x {', '.join(models)}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


if __name__ == "__main__":
    main()
