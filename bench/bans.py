"""Measures a table of bans: python -m bench.bans BANS prints the time of a look-up as JSON."""

import json
import random
import sys
import time

from tcpdconf.daemon.guard import ban_table
from tcpdconf.daemon.guard.ban_table import Key
from tcpdconf.policy import connection

_LOOKUPS = 100_000


def main(bans: int) -> None:
    """Measure and print."""
    chosen = random.Random(1)  # noqa: S311 (the same bans each time)
    table = ban_table.Writer(bans)
    while len(table) < bans:
        table.set(Key(4, 32, chosen.getrandbits(32), 0), ban_table.NEVER, 0)
    reader = ban_table.Reader(table.fd)
    clients = [connection.endpoint(4, chosen.getrandbits(32), 1) for _ in range(_LOOKUPS)]
    began = time.perf_counter()
    for client in clients:
        reader.find(client, 1, time.time())
    print(json.dumps({"lookup": (time.perf_counter() - began) / _LOOKUPS}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
