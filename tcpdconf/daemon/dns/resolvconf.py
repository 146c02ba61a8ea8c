"""Combines the `dns` table with resolv.conf(5), which supplies the settings that the table omits.

Pure: the caller reads /etc/resolv.conf and passes its text. It uses nameserver, timeout, attempts and rotate
as glibc reads them, but accepts keywords in capitals. It uses domain only to look up the address of a
one-label name, and ignores search, as couriertcpd does.
"""

from typing import Final, NamedTuple

from tcpdconf.config.model import values
from tcpdconf.config.model.dns import Dns

# asked if no server is named: resolv.conf(5) documents the first, couriertcpd asks the second
LOCAL: Final = (values.ServerAddress("127.0.0.1", 53), values.ServerAddress("::1", 53))
_SERVERS: Final = 3  # MAXNS: further ones are ignored
_LONGEST: Final = 30  # seconds, RES_MAXRETRANS
_MOST: Final = 5  # rounds, RES_MAXRETRY


class ResolverSettings(NamedTuple):
    """Holds the settings of the resolver.

    `timeout` is the time in seconds until the next server is asked; `attempts` is the number of rounds over
    all servers.
    """

    servers: tuple[values.ServerAddress, ...] = LOCAL
    timeout: float = 5.0
    attempts: int = 2
    rotate: bool = False
    cache_entries: int = 100_000
    min_ttl: float = 0.0
    max_ttl: float = 3600.0
    domain: str = ""


def settings(written: Dns, text: str) -> ResolverSettings:
    """Return the settings from a `dns` table and the text of a resolv.conf ("" if there is none)."""
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
    """Return the settings in the text of a resolv.conf.

    Lines with an unknown keyword or an invalid value are ignored.
    """
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
    """Return the server of a nameserver line (an address without a port), or no server if it is invalid."""
    address = text.partition("#")[0].partition(";")[0]
    try:
        return [values.server(f"[{address}]:53")]
    except ValueError:
        return []


def _number(text: str | None, default: int, most: int) -> int:
    """Return a number limited to the range from 1 to `most`, or the default if `text` is no number."""
    if text is None or not (text.isascii() and text.isdigit()):
        return default
    return min(max(1, int(text[:9])), most)
