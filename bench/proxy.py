"""Measures PROXY headers, and the cost of peers that send none for the other peers.

There is no other server: couriertcpd 1.0.16 (Debian 12) has no -haproxy, and tcpserver has nothing like it.
"""

import contextlib
import functools
import socket
from collections.abc import Sequence
from typing import Final

from bench import clients, figures, servers

AT_ONCE: Final = 50
STALLED: Final = 100
HEADER: Final = "PROXY TCP4 192.0.2.7 198.51.100.9 5555 25"


def measure(tools: clients.Tools, *, count: int, rounds: int) -> list[figures.Figure]:
    """Measure all cases, with `count` connections in one round of each."""
    free, other = (servers.Service(number, tools.static, haproxy=True) for number in range(2))

    def rate(port: int, stalled: int) -> Sequence[float]:
        with contextlib.ExitStack() as beside:
            for _ in range(stalled):  # in every round, because they are refused after a timeout
                beside.enter_context(socket.create_connection(("127.0.0.1", port)))
            found = tools.run(port, count, AT_ONCE, say=HEADER)
        if found.served != count:
            raise RuntimeError(f"port {port} has served {found.served} of {count}")
        return (count / found.seconds,)

    with servers.tcpdconf([free, other]) as own:
        once = {
            figures.SUBJECT: functools.partial(rate, own.port(other), STALLED),
            "without": functools.partial(rate, own.port(free), 0),
        }
        return figures.measure([figures.Case((_METRIC,), once)], rounds)


_METRIC: Final = figures.Metric(
    f"PROXY v1 header sent at once, beside {STALLED} peers that send none",
    "1/s",
    "more",
    {"without": 1.0},
)
