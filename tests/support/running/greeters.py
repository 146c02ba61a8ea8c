"""Services that say their environment, as configuration, and what a client hears of it."""

from typing import Any

from support import nastystrings
from support.running import daemons


def service(port: int, **environment: str) -> dict[str, Any]:
    """A service on a loopback port."""
    return {
        "program": ["/usr/bin/env", "-0"],
        "environment": environment,
        "listeners": [{"address": "127.0.0.1", "port": port}],
    }


def nasty(port: int) -> dict[str, Any]:
    """One whose variables N0, N1, ... hold the nasty strings."""
    return service(port, **{f"N{place}": text for place, text in enumerate(nastystrings.STRINGS)})


def changed(services: dict[str, Any], **changes: object) -> dict[str, Any]:
    """Services with some of them replaced; None removes one."""
    return {name: each for name, each in {**services, **changes}.items() if each is not None}


def greeting(port: int) -> str:
    """Return the output of GREETING for a client of a service."""
    return daemons.environment(daemons.talk(port))["GREETING"]


def nastiness(port: int) -> tuple[str, ...]:
    """Return the variables of a nasty client's program."""
    said = daemons.environment(daemons.talk(port))
    return tuple(said[f"N{place}"] for place in range(len(nastystrings.STRINGS)))
