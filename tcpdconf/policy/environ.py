"""Builds the environment of a program.

It has three layers, and later ones win: the service's own (`base`, built once), the variables that access
rules set, and the facts about the connection. No rule can override the last (as with couriertcpd).
"""

from collections.abc import Iterable, Mapping
from typing import Final, Literal

from tcpdconf.config import dialect
from tcpdconf.config.model.service import ServiceSettings
from tcpdconf.policy import connection

CONNECTION: Final = frozenset(
    f"TCP{end}{what}" for end in ("REMOTE", "LOCAL") for what in ("IP", "PORT", "HOST", "INFO")
) | {"PROTO"}

# Variables by which a service manager talks to the daemon. Programs do not inherit them (sd_notify(3),
# sd_listen_fds(3), systemd.exec(5)).
DAEMON: Final = frozenset(
    {
        "CREDENTIALS_DIRECTORY",
        "FDSTORE",
        "INVOCATION_ID",
        "JOURNAL_STREAM",
        "LISTEN_FDNAMES",
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_PIDFDID",
        "MAINPID",
        "MANAGERPID",
        "MANAGERPIDFDID",
        "MEMORY_PRESSURE_WATCH",
        "MEMORY_PRESSURE_WRITE",
        "NOTIFY_SOCKET",
        "RUNTIME_DIRECTORY",
        "STATE_DIRECTORY",
        "SYSTEMD_EXEC_PID",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
    }
)


def encoded(text: str) -> bytes:
    """Encode text as UTF-8 whatever the locale; surrogate escapes become the original bytes."""
    return text.encode("utf-8", "surrogateescape")


def block(variables: Mapping[str, str]) -> dict[bytes, bytes]:
    """Encode names and values of variables to bytes, as programs receive them."""
    return {encoded(name): encoded(value) for name, value in variables.items()}


def entries(variables: Mapping[str, str]) -> dict[str, bytes]:
    """Return each variable as its `NAME=value` entry in a program's environment (environ(7)), by name."""
    return {name: encoded(f"{name}={value}") for name, value in variables.items()}


def decoded(data: bytes) -> str:
    """Decode bytes to text; `encoded` gives the same bytes back."""
    return data.decode("utf-8", "surrogateescape")


def base(
    service: ServiceSettings,
    daemon: Mapping[str, str],
    files: Mapping[str, str],
    ways: dialect.Dialect = dialect.TOML,
) -> dict[str, str]:
    """Return the variables that every program of a service gets.

    `daemon` is the environment that the daemon was started with; `files` are the variables of the service's
    environment files.
    """
    if ways.whole_environment:
        return {**daemon, **files, **service.environment}
    wanted = service.inherit_environment
    names: Iterable[str] = () if wanted is False else daemon.keys() if wanted is True else wanted
    found = {n: daemon[n] for n in names if n in daemon and n not in DAEMON and n not in CONNECTION}
    return {**found, **files, **service.environment}


def of(
    link: connection.Link,
    said: Mapping[str, str],
    rules: Iterable[tuple[str, str]],
    address_format: Literal["mapped", "plain"],
    ways: dialect.Dialect = dialect.TOML,
) -> dict[str, str]:
    """Return the variables that a connection adds to `base`; `said` are those from a PROXY header's TLVs."""
    peer, local = link.peer, link.local
    plain = address_format == "plain"
    found = dict(rules)
    found.update(said)
    if ways.sets_proto:
        found["PROTO"] = "TCP6" if plain and peer.version == 6 else "TCP"
    found["TCPREMOTEIP"] = peer.text if plain or peer.version == 6 else "::ffff:" + peer.text
    found["TCPREMOTEPORT"] = str(peer.port)
    found["TCPLOCALIP"] = local.text if plain or local.version == 6 else "::ffff:" + local.text
    found["TCPLOCALPORT"] = str(local.port)
    if link.proxy is not None:
        found["TCPREMOTEINFO"] = f"proxy via {found['TCPLOCALIP']}, port {local.port}"
    return found
