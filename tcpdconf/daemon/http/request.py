"""Parses the head of an HTTP request (RFC 9112). Pure.

It reads the parts that the server needs, and refuses everything unusual.
"""

import ipaddress
import re
from collections.abc import Collection
from typing import Final, NamedTuple

_LINE: Final = re.compile(r"([A-Z]{1,20}) (/[!-~]*) HTTP/1\.([01])")
_FIELD: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~\x80-\xff]*)")
_HOST: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{0,5})?")
_OPENMETRICS: Final = "application/openmetrics-text"

END: Final = b"\r\n\r\n"
"""Ends the head of a request."""


class Request(NamedTuple):
    """Holds the parts of a request that are read; `host` is the value of the header Host, or None."""

    method: str
    path: str
    host: str | None
    accept: str


class BadRequestError(ValueError):
    """Reports a malformed request; the text gives the reason."""


def parse(head: bytes) -> Request:
    """Return the request with this head, without the empty line at its end.

    Raises:
        BadRequestError: it is malformed, or not HTTP/1.
    """
    first, *lines = head.decode("latin-1").split("\r\n")
    found = _LINE.fullmatch(first)
    if found is None:
        raise BadRequestError("the request line is malformed")
    hosts: list[str] = []
    accepts: list[str] = []
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise BadRequestError("a header is malformed")
        if field[1].lower() == "host":
            hosts.append(field[2].rstrip())
        elif field[1].lower() == "accept":
            accepts.append(field[2])
    if len(hosts) > 1 or (not hosts and found[3] == "1"):
        raise BadRequestError("the header Host must be there once")
    return Request(found[1], found[2].partition("?")[0], hosts[0] if hosts else None, ",".join(accepts))


def is_own(host: str | None, names: Collection[str]) -> bool:
    """Return whether the header Host has one of this host's names or an address, or is missing.

    After DNS rebinding, a page of another host can make a browser connect to any address, but the browser
    then sends the name of that host. A client without the header is no browser.
    """
    found = None if host is None else _HOST.fullmatch(host)
    if found is None:
        return host is None
    try:
        ipaddress.ip_address(found[1] or found[2])
    except ValueError:
        return found[2] is not None and found[2].lower().removesuffix(".") in names
    return True


def wants_openmetrics(accept: str) -> bool:
    """Return whether the header Accept names OpenMetrics 1.0.0, or no version of it."""
    for media in accept.split(","):
        kind, *parameters = (part.strip() for part in media.split(";"))
        versions = [each for each in parameters if each.startswith("version=")]
        if kind == _OPENMETRICS and versions in ([], ["version=1.0.0"]):
            return True
    return False
