"""What the resolver is told: the table `dns` of the configuration, and resolv.conf(5) for what it leaves out.

Pure: who reads /etc/resolv.conf passes its text. Of that file nameserver, timeout, attempts and rotate are
used, as glibc reads them, but in capitals as well; domain for the address of a one-label name only, and
search not at all, as couriertcpd does.
"""

from typing import Final, NamedTuple

from tcpdconf.config.model import values
from tcpdconf.config.model.dns import Dns

# asked when no server is named: resolv.conf(5) says the first, couriertcpd asks the second
LOCAL: Final = (values.ServerAddress("127.0.0.1", 53), values.ServerAddress("::1", 53))
_SERVERS: Final = 3  # MAXNS: further ones are ignored
_LONGEST: Final = 30  # seconds, RES_MAXRETRANS
_MOST: Final = 5  # rounds, RES_MAXRETRY


class ResolverSettings(NamedTuple):
    """How to ask. `timeout` is in seconds, until the next server is asked; `attempts` are rounds over all."""

    servers: tuple[values.ServerAddress, ...] = LOCAL
    timeout: float = 5.0
    attempts: int = 2
    rotate: bool = False
    cache_entries: int = 100_000
    min_ttl: float = 0.0
    max_ttl: float = 3600.0
    domain: str = ""


def settings(written: Dns, text: str) -> ResolverSettings:
    """The settings that a table and the text of a resolv.conf ("" where there is none) make together."""
    found = parse(text)
    return ResolverSettings(
        servers=found.servers if written.servers is None else written.servers,
        timeout=found.timeout if written.timeout is None else written.timeout,
        attempts=found.attempts if written.attempts is None else written.attempts,
        rotate=found.rotate if written.rotate is None else written.rotate,
        cache_entries=written.cache_entries,
        min_ttl=written.min_ttl,
        max_ttl=written.max_ttl,
        domain=found.domain,
    )


def parse(text: str) -> ResolverSettings:
    """What a resolv.conf says. Lines that say nothing known, or nothing that can be, are passed over."""
    servers: list[values.ServerAddress] = []
    options: dict[str, str] = {}
    domain = ""
    for line in text.split("\n"):
        keyword, *rest = line.split() or [""]
        if line[:1].isspace() or not rest:  # a keyword begins its line
            continue
        keyword = keyword.lower()  # as couriertcpd has it
        if keyword == "nameserver":
            servers += _server(rest[0])
        elif keyword == "domain":
            domain = rest[0].strip(".").lower()
        elif keyword == "options":
            options |= {name: value for name, _, value in (option.partition(":") for option in rest)}
    return ResolverSettings(
        servers=tuple(servers[:_SERVERS]) or LOCAL,
        timeout=_number(options.get("timeout"), 5, _LONGEST),
        attempts=_number(options.get("attempts"), 2, _MOST),
        rotate="rotate" in options,
        domain=domain,
    )


def _server(text: str) -> list[values.ServerAddress]:
    """The server of a nameserver line, which names an address and never a port; none when it is none."""
    address = text.partition("#")[0].partition(";")[0]
    try:
        return [values.server(f"[{address}]:53")]
    except ValueError:
        return []


def _number(text: str | None, default: int, most: int) -> int:
    """A number from 1 to `most`, the nearest; the default where none is written."""
    if text is None or not (text.isascii() and text.isdigit()):
        return default
    return min(max(1, int(text[:9])), most)
