"""Measures an access table: python -m bench.access NETWORKS prints load, memory and look-up as JSON."""

import json
import pathlib
import random
import re
import sys
import time

from tcpdconf.config.model import tables
from tcpdconf.daemon.worker.connection import endpoint
from tcpdconf.policy import connection
from tcpdconf.policy.access import file as access_file
from tcpdconf.policy.access.table import AccessTable

_LOOKUPS = 100_000
_LOCAL = endpoint(("127.0.0.1", 25))


def main(networks: int) -> None:
    """Measure and print."""
    data = _list(networks)
    source = tables.AccessSource.model_validate({"file": "/list", "format": "cidr", "action": "deny"})
    before, began = _resident(), time.perf_counter()
    table = access_file.read([("/list", data)], source)
    took = time.perf_counter() - began
    print(json.dumps({"load": took, "memory": _resident() - before, "lookup": _lookup(table)}))


def _list(networks: int) -> bytes:
    """Return distinct networks as lists of abusers have them: mostly addresses, some of every other size."""
    chosen = random.Random(1)  # noqa: S311 (the same list each time)
    found: set[tuple[int, int]] = set()
    while len(found) < networks:
        length = chosen.choices((32, 24, 28, 22, 20), (90, 6, 2, 1, 1))[0]
        found.add((chosen.getrandbits(32) >> (32 - length) << (32 - length), length))
    return b"".join(b"%d.%d.%d.%d/%d\n" % (*value.to_bytes(4), length) for value, length in found)


def _lookup(table: AccessTable) -> float:
    """Return the seconds of one look-up, for random addresses."""
    chosen = random.Random(2)  # noqa: S311 (the same clients each time)
    links = [
        connection.Link(connection.endpoint(4, chosen.getrandbits(32), 1), _LOCAL) for _ in range(_LOOKUPS)
    ]
    began = time.perf_counter()
    for link in links:
        table.find(link)
    return (time.perf_counter() - began) / _LOOKUPS


def _resident() -> int:
    """Return the bytes of this process's private memory."""
    text = pathlib.Path("/proc/self/smaps_rollup").read_text()
    return 1024 * sum(map(int, re.findall(r"^Private_(?:Clean|Dirty): +(\d+)", text, re.MULTILINE)))


if __name__ == "__main__":
    main(int(sys.argv[1]))
