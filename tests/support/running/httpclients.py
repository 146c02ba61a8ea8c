"""Clients of the HTTP process, as strict or as odd as a test wants them."""

import contextlib
import http.client
import pathlib
import re
import socket
from typing import NamedTuple

from support.running import daemons


class Answer(NamedTuple):
    """An answer over HTTP; the names of the headers are in lower case."""

    status: int
    headers: dict[str, str]
    text: str


def sent(port: int | pathlib.Path, request: bytes, source: str | None = None) -> bytes:
    """All that is answered to these bytes."""
    with connected(port, source) as end:
        with contextlib.suppress(ConnectionError):
            end.sendall(request)
        return daemons.read(end)


def connected(port: int | pathlib.Path, source: str | None = None) -> socket.socket:
    """A connection to the HTTP process."""
    if isinstance(port, int):
        return daemons.connect(port, source=source)
    end = socket.socket(socket.AF_UNIX)
    end.settimeout(daemons.SECONDS)
    end.connect(str(port))
    return end


def get(
    port: int | pathlib.Path,
    path: str = "/",
    *,
    method: str = "GET",
    source: str | None = None,
    **headers: str,
) -> Answer:
    """The answer to a request."""
    with connected(port, source) as end:
        client = http.client.HTTPConnection("localhost")
        client.sock = end
        client.request(method, path, headers=headers)
        found = client.getresponse()
        text = found.read().decode()
        return Answer(found.status, {name.lower(): value for name, value in found.getheaders()}, text)


def value(port: int | pathlib.Path, sample: str) -> float | None:
    """The value of a metric, named with its labels, or None."""
    found = re.search(rf"^{re.escape(sample)} (\S+)$", get(port, "/metrics").text, re.MULTILINE)
    return None if found is None else float(found[1])
