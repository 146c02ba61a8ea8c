"""Runs the golden cases' compare.py (all of its options are taken) with a port of its own for each client.

The runner tells the clients of a case apart by their ports alone. They connect from several addresses of
127.0.0.0/8, and once in some ten thousand pairs the kernel gives two addresses the same port. The runner then
shows one client with the environment of the other.
"""

import itertools
import pathlib
import socket
import sys
from typing import Any, Final

GOLDEN: Final = pathlib.Path(__file__).parents[2] / "shared/golden"
FIRST: Final = 33000  # above all ports that cases listen on

_ports: Final = itertools.count(FIRST)
_bind: Final = socket.socket.bind


def _bind_alone(client: socket.socket, address: Any) -> None:  # noqa: ANN401 (as socket.bind declares it)
    """Bind to the next port where any would do. Each case has a network of its own, so that it is free."""
    host, port, *rest = address
    _bind(client, (host, port or next(_ports), *rest))


if __name__ == "__main__":
    sys.path.insert(0, str(GOLDEN))
    import compare  # type: ignore[import-not-found]

    socket.socket.bind = _bind_alone  # type: ignore[method-assign, assignment]
    sys.exit(compare.main())
