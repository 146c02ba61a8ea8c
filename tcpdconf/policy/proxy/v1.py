"""Parses the line of a PROXY v1 header, strictly as specified or leniently as couriertcpd does.

Source: proxy-protocol.txt, 2.1; for the lenient reading, observation of couriertcpd.
"""

import functools
import ipaddress
import re
from collections.abc import Callable
from typing import Final, NamedTuple

from tcpdconf.config.couriertcpd import grammar
from tcpdconf.policy import connection

Ends = tuple[connection.Endpoint, connection.Endpoint]  # source, destination

_LONGEST: Final = 107  # bytes with the CRLF
_SHORTEST: Final = len(b"PROXY UNKNOWN\r\n")
_LENIENT_LONGEST: Final = 255  # bytes with the LF
_LENIENT_SHORTEST: Final = len(b"PROXY UNKNOWN\n")

_OCTET: Final = rb"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4: Final = re.compile(rb"(?:%b\.){3}%b" % (_OCTET, _OCTET))
_IPV4_BEGUN: Final = re.compile(rb"(?:%b\.){0,3}%b?" % (_OCTET, _OCTET))
_IPV6: Final = re.compile(rb"[0-9A-Fa-f:.]{0,45}")  # and no zone, which `ipaddress` would accept
_PORT: Final = re.compile(rb"(?:0|[1-9][0-9]{0,4})?")


class ProxyLineError(Exception):
    """Reports an invalid line in a short printable message."""


class _Form(NamedTuple):
    """Describes the syntax of a field.

    `value` returns its value once it is whole, `begun` whether it may be continued to a valid one, `lacks`
    how many bytes it still needs at least.
    """

    value: Callable[[bytes], int | None]
    begun: Callable[[bytes], bool]
    lacks: Callable[[bytes], int]


class _Field(NamedTuple):
    name: str
    form: _Form
    behind: int  # least number of bytes after it, up to the end of the line


def missing(line: bytes) -> int:
    """Return the least number of bytes still to come; 0 when the line is complete, negative beyond its end.

    Raises:
        ProxyLineError: the bytes cannot become a v1 line.
    """
    start = next((start for start in _FIELDS if line.startswith(start)), None)
    if start is None:
        if any(known.startswith(line) for known in _FIELDS):
            return _SHORTEST - len(line)
        raise ProxyLineError(f"must be TCP4, TCP6 or UNKNOWN, not {shown(line[6:])}")
    body, cr, behind = line[len(start) :].partition(b"\r")
    if b"\n" in body or behind[:1] not in (b"", b"\n"):
        raise ProxyLineError("a CR or LF alone does not end the line")
    if start != _UNKNOWN:
        lacks = _lacking(body, _FIELDS[start], ended=bool(cr))
    elif body[:1] in (b"", b" "):
        lacks = len(b"\r\n")
    else:
        raise ProxyLineError(f"must be TCP4, TCP6 or UNKNOWN, not {shown(b'UNKNOWN' + body)}")
    if len(start) + len(body) + lacks > _LONGEST:
        raise ProxyLineError(f"longer than {_LONGEST} bytes")
    return 1 - len(behind) if cr else lacks


def read(line: bytes) -> Ends | None:
    """Return both ends of a line for which nothing is `missing`; None if it is UNKNOWN."""
    if line.startswith(_UNKNOWN):
        return None
    version = 4 if line.startswith(_TCP4) else 6
    source, destination, *ports = (
        _whole(field, text) for field, text in zip(_FIELDS[line[:11]], line[11:-2].split(b" "), strict=True)
    )
    return connection.endpoint(version, source, ports[0]), connection.endpoint(version, destination, ports[1])


def lenient_missing(line: bytes) -> int:
    """Return what `missing` does for the lenient reading, which judges a line only when it has ended.

    Raises:
        ProxyLineError: the line is too long.
    """
    end = line.find(b"\n")
    if (len(line) if end < 0 else end) >= _LENIENT_LONGEST:
        raise ProxyLineError(f"longer than {_LENIENT_LONGEST - 1} bytes and LF")
    return max(_LENIENT_SHORTEST - len(line), 1) if end < 0 else end + 1 - len(line)


def lenient_read(line: bytes) -> Ends | None:
    """Return both ends of a line that ends with LF, as couriertcpd reads it; None if it is UNKNOWN.

    A NUL ends the line early. Runs of LF, CR and spaces separate words; words after the sixth are ignored.
    Ports are read like atoi, modulo 65536. Unlike for couriertcpd, UNKNOWN is no error.

    Raises:
        ProxyLineError: words are missing or wrong.
    """
    match [word for word in re.split(rb"[ \r\n]", line.partition(b"\0")[0]) if word]:
        case [b"PROXY", b"UNKNOWN", *_]:
            return None
        case [b"PROXY", b"TCP4" | b"TCP6" as kind, source, destination, from_port, to_port, *_]:
            version, form = (4, _V4) if kind == b"TCP4" else (6, _V6)
            one, other = form.value(source), form.value(destination)
            if one is None or other is None:
                raise ProxyLineError(f"bad address: {shown(source if one is None else destination)}")
            ports = [grammar.atoi(port.decode("latin-1")) & 0xFFFF for port in (from_port, to_port)]
            return connection.endpoint(version, one, ports[0]), connection.endpoint(version, other, ports[1])
        case words:
            raise ProxyLineError(f"malformed line: {shown(b' '.join(words))}")


def shown(data: bytes) -> str:
    """Return the first 16 bytes that a peer sent, escaped for a log line."""
    return repr(data[:16])[1:] + ("..." if len(data) > 16 else "")


def _lacking(body: bytes, fields: tuple[_Field, ...], *, ended: bool) -> int:
    """Return the least number of bytes after these fields, CRLF included; check them all if `ended`."""
    *whole, last = body.split(b" ", len(fields))
    if len(whole) >= len(fields):
        raise ProxyLineError("more than four fields")
    if ended and len(whole) < len(fields) - 1:
        raise ProxyLineError(f"no {fields[len(whole) + 1].name}")
    for field, text in zip(fields, whole, strict=False):
        _whole(field, text)
    field = fields[len(whole)]
    if ended:
        _whole(field, last)
    elif not field.form.begun(last):
        raise _bad(field, last)
    return field.form.lacks(last) + field.behind


def _whole(field: _Field, text: bytes) -> int:
    value = field.form.value(text)
    if value is None:
        raise _bad(field, text)
    return value


def _bad(field: _Field, text: bytes) -> ProxyLineError:
    return ProxyLineError(f"bad {field.name}: {shown(text)}")


def _ipv4(text: bytes) -> int | None:
    return int.from_bytes(map(int, text.split(b"."))) if _IPV4.fullmatch(text) else None


@functools.lru_cache(maxsize=256)  # the whole line is judged again with every piece received
def _ipv6(text: bytes) -> int | None:
    try:
        return int(ipaddress.IPv6Address(text.decode())) if _IPV6.fullmatch(text) else None
    except ValueError:
        return None


def _port(text: bytes) -> int | None:
    return int(text) if text and _port_begun(text) else None


def _port_begun(text: bytes) -> bool:
    return bool(_PORT.fullmatch(text)) and int(text or b"0") <= 0xFFFF


def _fields(address: _Form, shortest: int) -> tuple[_Field, ...]:
    return (
        _Field("source address", address, len(b"  0 0\r\n") + shortest),
        _Field("destination address", address, len(b" 0 0\r\n")),
        _Field("source port", _PORTS, len(b" 0\r\n")),
        _Field("destination port", _PORTS, len(b"\r\n")),
    )


_V4: Final = _Form(
    _ipv4,
    lambda text: bool(_IPV4_BEGUN.fullmatch(text)),
    lambda text: 2 * (3 - text.count(b".")) + (not text[-1:].isdigit()),
)
_V6: Final = _Form(_ipv6, lambda text: bool(_IPV6.fullmatch(text)), lambda text: max(2 - len(text), 0))
_PORTS: Final = _Form(_port, _port_begun, lambda text: int(not text))

_TCP4: Final = b"PROXY TCP4 "
_TCP6: Final = b"PROXY TCP6 "
_UNKNOWN: Final = b"PROXY UNKNOWN"
_FIELDS: Final = {_TCP4: _fields(_V4, len("1.1.1.1")), _TCP6: _fields(_V6, len("::")), _UNKNOWN: ()}
