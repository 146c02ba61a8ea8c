"""Explains many connections in one process: requests as JSON lines in, explanations as JSON lines out.

A process of its own, because `explain` forks and the tests' own has threads.

    python tests/support/running/explaining.py CONF.D < requests
"""

import json
import pathlib
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from tcpdconf.config.load import load
from tcpdconf.explain import dns as explain_dns
from tcpdconf.explain import listener as explain_listener
from tcpdconf.explain import process as explain
from tcpdconf.explain.decide import Live
from tcpdconf.explain.listener import Request


def ask(conf: pathlib.Path, requests: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The explanations, one for each request; see `main` for what a request has."""
    said = subprocess.run(
        [sys.executable, __file__, str(conf)],
        input="".join(json.dumps(request) + "\n" for request in requests),
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    return [json.loads(line) for line in said.stdout.splitlines()]


def main() -> None:
    """Explain what standard input wants."""
    loaded = load.load(sys.argv[1])
    for line in sys.stdin:
        wanted = json.loads(line)
        ends = {
            name: explain_listener.end(wanted[name], 0) for name in Request._fields if _is_end(wanted, name)
        }
        request = Request(
            service=wanted["service"],
            listed=tuple(explain_dns.listing(text) for text in wanted.get("listed", ())),
            ask=wanted.get("ask", True),
            **ends,
        )
        held = wanted.get("live")
        charged = wanted.get("penalties")
        live = None
        if held is not None:
            clients = [explain_listener.end(text, 0) for text in held]
            live = Live({request.service: clients}, {request.service: charged})
        print(json.dumps(explain.explain(loaded, request, wanted.get("daemon", {}), live)))


def _is_end(wanted: Mapping[str, Any], name: str) -> bool:
    return name in {"client", "local", "proxied_by", "proxied_local"} and wanted.get(name) is not None


if __name__ == "__main__":
    main()
