"""Reads the small notations inside configuration values: networks, sizes, rates, ports.

Each reader takes a TOML value of any type and returns the parsed value. It raises ValueError with a text that
completes "KEY: ..." (`must be a size such as "512MiB", not 7.5`).
"""

import ipaddress
import math
import os
import re
from typing import Final, NamedTuple

from tcpdconf.config import socket_address
from tcpdconf.config.model import notations

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_PORT: Final = 65535
LONGEST_SERVICE_NAME: Final = 32
_SHOWN: Final = 60  # characters of a value that fit into a message
MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")

SIZE: Final = re.compile(r"(\d{1,15}) ?(|[KMGT]i?B|kB|[KMGT]|B)")
_SIZE_UNITS: Final = {
    "": 1, "B": 1,
    "K": 2**10, "KiB": 2**10, "kB": 10**3, "KB": 10**3,
    "M": 2**20, "MiB": 2**20, "MB": 10**6,
    "G": 2**30, "GiB": 2**30, "GB": 10**9,
    "T": 2**40, "TiB": 2**40, "TB": 10**12,
}  # fmt: skip
RATE: Final = re.compile(r"(\d{1,9}) ?/ ?(?:(\d{1,6}) ?)?(s|sec|second|min|minute|h|hour|d|day)s?")
_RATE_UNITS: Final = {"s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hour": 3600, "d": 86400, "day": 86400}  # fmt: skip  # noqa: E501
_UNITS_SHOWN: Final = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
LABEL: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
LONGEST_ZONE: Final = 253 - 64  # the 32 nibbles of an IPv6 address and their dots precede it
DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?) ?(ms|s|min|h|d)")
_DURATION_UNITS: Final = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_SPELT: Final = {
    "msec": "ms", "sec": "s", "second": "s", "m": "min", "minute": "min", "hr": "h", "hour": "h", "day": "d",
}  # fmt: skip
UNIX: Final = "unix:"  # begins the notation of a Unix socket
_LONGEST_SOCKET: Final = 107  # bytes of its path (unix(7))
_SERVICE_NAME = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9][A-Za-z0-9._+-]{0,31}")
_TYPES: Final = {str: "a string", bool: "a boolean", int: "a whole number", float: "a number", list: "an array", dict: "a table"}  # fmt: skip  # noqa: E501


class MistakeError(ValueError):
    """Reports a value that is not in its notation, with advice.

    `meant` is the TOML that was certainly meant, to write in place of the value.
    """

    def __init__(self, text: str, hint: str | None = None, meant: str | None = None) -> None:
        super().__init__(text)
        self.hint = f"write {meant}" if hint is None and meant is not None else hint
        self.meant = meant


class Rate(NamedTuple):
    """Allows `connections` in `seconds`; all of them may come at once."""

    connections: int
    seconds: float

    def __str__(self) -> str:
        """Return the rate as people write it: `20/min`, `100/2h`."""
        seconds = int(self.seconds)
        size, unit = next((size, unit) for size, unit in _UNITS_SHOWN if seconds % size == 0)
        return f"{self.connections}/{'' if seconds == size else seconds // size}{unit}"


class ServerAddress(NamedTuple):
    """Identifies a name server by its address in text form and its port."""

    address: str
    port: int

    def __str__(self) -> str:
        """Return `192.0.2.1:53` or `[2001:db8::1]:53`."""
        return socket_address.shown(self.address, self.port)


class Local(NamedTuple):
    """Describes a local end that a rule names: a network (None: any) and a port (None: any)."""

    network: IPNetwork | None
    port: int | None


def shown(value: object) -> str:
    """Return a TOML value as text for a message; one that is not short is shown by its type.

    >>> shown("4"), shown(0), shown([1])
    ('"4"', '0', 'an array')
    """
    if isinstance(value, str):
        text = value if len(value) <= _SHOWN else value[: _SHOWN - 3] + "..."
        return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text) + '"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) >= 10**_SHOWN:
        return "a huge number"
    if isinstance(value, int | float):
        return str(value)
    return _TYPES.get(type(value), "a date or time")


def described(value: object) -> str:
    """Return the type of a TOML value and, if it is short, the value.

    >>> described("5"), described(0), described([1])
    ('a string ("5")', 'a whole number (0)', 'an array')
    """
    kind = _TYPES.get(type(value))
    short = isinstance(value, str | int | float) and not (isinstance(value, int) and abs(value) >= 10**_SHOWN)
    return f"{kind} ({shown(value)})" if kind and short else shown(value)


def network(value: object) -> IPNetwork | str:
    """Read an address or a network in CIDR notation, or `"*"`, every address of both families.

    IPv4-mapped IPv6 networks become the IPv4 networks that they stand for.
    """
    if value == "*":
        return "*"
    if not isinstance(value, str):
        raise MistakeError(_network_error(value))
    try:
        found = ipaddress.ip_network(value)
    except ValueError:
        raise MistakeError(_network_error(value), *notations.network(value)) from None
    if isinstance(found, ipaddress.IPv6Network) and found.subnet_of(MAPPED):
        mapped = int(found.network_address) & 0xFFFFFFFF
        return ipaddress.IPv4Network((mapped, found.prefixlen - 96))
    return found


def _network_error(value: object) -> str:
    try:
        meant = ipaddress.ip_network(value if isinstance(value, str) else "", strict=False)
    except ValueError:
        return f'must be an address or network such as "192.0.2.0/24" or "2001:db8::/32", not {shown(value)}'
    return f'{shown(value)} has bits set after its prefix; did you mean "{meant}"?'


def address(value: object) -> str:
    """Read an address to listen on, in canonical form, or `"*"` for all of both families."""
    if value == "*":
        return "*"
    try:
        return str(ipaddress.ip_address(value if isinstance(value, str) else ""))
    except ValueError:
        advice = notations.address(value) if isinstance(value, str) else notations.NONE
        text = f'must be an IPv4 or IPv6 address or "*", not {shown(value)}'
        raise MistakeError(text, *advice) from None


def port(value: object) -> int | str:
    """Read a port number from 1 to 65535, or a service name for the host to look up."""
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_PORT:
        return value
    if isinstance(value, str):
        if value.isascii() and value.isdigit() and 1 <= int(value[:6]) <= MAX_PORT:
            number = int(value[:6])
            raise MistakeError(f"must be a number without quotes: {number}", meant=str(number))
        if _SERVICE_NAME.fullmatch(value):
            return value
    advice = notations.port(value) if isinstance(value, str) else notations.NONE
    if isinstance(value, list):
        advice = notations.Advice("write a [[...listeners]] table for each port")
    text = f'must be a port from 1 to {MAX_PORT} or a service name such as "smtp", not {shown(value)}'
    raise MistakeError(text, *advice)


def local(value: object) -> Local:
    """Read this host's end of a connection.

    It is `ADDRESS`, `NETWORK`, `ADDRESS:PORT`, `[ADDRESS]:PORT` or `*:PORT`.
    """
    error = ValueError(
        f'must be a local address, "ADDRESS:PORT" or "*:PORT", such as "192.0.2.1:25", not {shown(value)}'
    )
    if not isinstance(value, str):
        raise error
    try:
        return Local(_one_network(value), None)
    except ValueError:
        host, separator, digits = value.rpartition(":")
    if not separator or not (digits.isascii() and digits.isdigit()) or not 1 <= int(digits[:6]) <= MAX_PORT:
        raise error
    if host == "*":
        return Local(None, int(digits))
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise error
    try:
        return Local(_one_network(host), int(digits))
    except ValueError:
        raise error from None


def _one_network(value: str) -> IPNetwork:
    found = network(value)
    if isinstance(found, str):
        raise ValueError(value)  # noqa: TRY004 (every reader fails with ValueError)
    return found


def size(value: object) -> int:
    """Read a size in bytes, or a plain number for other limits; `"unlimited"` is -1."""
    if value == "unlimited":
        return -1
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    found = SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        text = f'must be a number, a size such as "512MiB" or "unlimited", not {shown(value)}'
        raise MistakeError(text, *notations.size(value))
    return int(found[1]) * _SIZE_UNITS[found[2]]


def rate(value: object) -> Rate:
    """Read a rate of connections: `"30/min"`, `"5/s"`, `"100/2h"`."""
    found = RATE.fullmatch(value) if isinstance(value, str) else None
    if found is None or int(found[1]) == 0 or found[2] == "0":
        text = f'must be a rate such as "30/min" (units: s, min, h, d), not {shown(value)}'
        raise MistakeError(text, *notations.rate(value))
    return Rate(int(found[1]), float(int(found[2] or 1) * _RATE_UNITS[found[3]]))


def duration(value: object, least: float, most: float, *, above: bool = False, whole: bool = False) -> float:
    """Read a duration as seconds: a number, or `"10s"`, `"5min"`, `"24h"`, `"500ms"`.

    It must be from `least` to `most`; with `above`, more than `least`; with `whole`, without a fraction.
    """
    found = DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is not None:
        seconds = float(found[1]) * _DURATION_UNITS[found[2]] / 1000
    elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf:
        seconds = value
    else:
        text = f'must be a number of seconds or a duration such as "10s", "5min" or "24h", not {shown(value)}'
        raise MistakeError(text, meant=_duration_meant(value))
    if seconds > most:
        raise ValueError(f"must be at most {most:.15g} seconds, not {shown(value)}")
    if seconds < least or (above and seconds == least):
        bound = "more than" if above else "at least"
        raise ValueError(f"must be {bound} {least:.15g} seconds, not {shown(value)}")
    if whole and seconds != int(seconds):
        raise ValueError(f"must be a whole number of seconds, not {shown(value)}")
    return float(seconds)


def _duration_meant(value: object) -> str | None:
    """Return a duration in other units as TOML, or None."""
    found = (
        re.fullmatch(r" *(\d{1,9}(?:\.\d{1,6})?) *([A-Za-z]*?)s? *", value)
        if isinstance(value, str)
        else None
    )
    if found is None:
        return None
    if not found[2]:
        return f'"{found[1]}s"'
    unit = found[2].lower()
    unit = _SPELT.get(unit, unit)
    return f'"{found[1]}{unit}"' if unit in _DURATION_UNITS else None


def umask(value: object) -> int:
    """Read a file mode creation mask: octal digits in a string ("027").

    A number is refused: once parsed, 18 and 0o022 are equal. `load.files` has turned numbers in octal
    notation into strings.
    """
    return _octal(value, "022")


def mode(value: object) -> int:
    """Read the mode of a file, in the notation of `umask`."""
    return _octal(value, "660")


def _octal(value: object, example: str) -> int:
    if isinstance(value, str) and re.fullmatch(r"[0-7]{1,4}", value) and int(value, 8) <= 0o777:
        return int(value, 8)
    text = f'must be octal digits such as "{example}", or 0o{example} without quotes, not {shown(value)}'
    is_number = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 777
    digits = str(value) if is_number else ""
    if isinstance(value, str) and value[:2] in {"0o", "0O"}:
        digits = value[2:]
    is_meant = re.fullmatch(r"[0-7]{1,4}", digits) and int(digits, 8) <= 0o777
    raise MistakeError(text, meant=f'"{digits:0>3}"' if is_meant else None)


def account(value: object) -> int | str:
    """Read a user or group: its name, or its number."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32 - 1:
        return value
    if isinstance(value, str) and value and not set(value) & set(":/\0\n"):
        return value
    advice = notations.account(value) if isinstance(value, str) else notations.NONE
    raise MistakeError(f"must be a name or a number, not {shown(value)}", *advice)


ENGINE_PREFIX: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
HOST_LABEL: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ENGINE_PORT: Final = 6379
_ENGINE_URL: Final = re.compile(
    r"(?P<scheme>rediss?)://(\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9_.-]+))"
    r"(:(?P<port>[0-9]{1,5}))?(/(?P<database>[0-9]{1,4})?)?"
)
_ENGINE_SOCKET: Final = re.compile(r"unix://(?P<path>/[^?#\0]*[^/?#\0])(\?db=(?P<database>[0-9]{1,4}))?")


def path(value: object) -> str:
    """Read an absolute path."""
    if isinstance(value, str) and value.startswith("/") and "\0" not in value:
        return value
    raise MistakeError(f"must be an absolute path, not {shown(value)}", *notations.path(value))


def zone(value: object) -> str:
    """Read the domain of a DNS list: labels of letters, digits, - and _; it may end in a dot."""
    if not isinstance(value, str):
        raise ValueError(f"must be a domain name, not {shown(value)}")  # noqa: TRY004 (every reader fails with ValueError)
    if not value:
        raise ValueError("must not be empty")
    wrong = next((label for label in value.removesuffix(".").split(".") if not LABEL.fullmatch(label)), None)
    if wrong is not None:
        part = f"the label {shown(wrong)}" if wrong else "an empty label"
        text = f"must be a domain name, not {shown(value)} with {part}"
        raise MistakeError(text, *notations.zone(value))
    if len(value.removesuffix(".")) > LONGEST_ZONE:
        raise ValueError(f"must have at most {LONGEST_ZONE} characters, not {len(value)}")
    return value


def server(value: object) -> ServerAddress:
    """Read a name server: `ADDRESS`, `ADDRESS:PORT` or `[ADDRESS]:PORT`; the default port is 53."""
    try:
        return end(value, 53)
    except ValueError:
        text = f'must be a name server such as "127.0.0.1:5353" or "[::1]:53", not {shown(value)}'
        advice = notations.server(value) if isinstance(value, str) else notations.NONE
        raise MistakeError(text, *advice) from None


def end(value: object, default: int | None) -> ServerAddress:
    """Read one end of a connection, in a name server's notation; without a default the port is required."""
    text = value if isinstance(value, str) else ""
    host, digits = text, "" if default is None else str(default)
    if text.startswith("["):
        host, _, digits = text[1:].partition("]:")
    elif text.count(":") == 1:
        host, _, digits = text.partition(":")
    try:
        found = str(ipaddress.ip_address(host))
        number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 6 else -1
    except ValueError:
        number = -1
    if not (1 <= number <= MAX_PORT or number == default):
        kind = "ADDRESS:PORT" if default is None else "an address, perhaps with a port"
        raise ValueError(f'must be {kind}, such as "192.0.2.7:25" or "[2001:db8::7]:25", not {shown(value)}')
    return ServerAddress(found, number)


def http_end(value: object) -> ServerAddress | str:
    """Read the end at which HTTP is served: an address with its port, or the path of a Unix socket."""
    if isinstance(value, str) and value.startswith(UNIX):
        name = value.removeprefix(UNIX)
        if not name.startswith("/") or name.endswith("/") or "\0" in name:
            raise ValueError(f'must be "unix:" and an absolute path, not {shown(value)}')
        if len(os.fsencode(name)) > _LONGEST_SOCKET:
            raise ValueError(f"must have a path of at most {_LONGEST_SOCKET} bytes (unix(7))")
        return name
    try:
        return end(value, None)
    except ValueError:
        text = (
            f'must be ADDRESS:PORT or unix:PATH, such as "127.0.0.1:9435" or "unix:/run/tcpdconf/http.sock",'
            f" not {shown(value)}"
        )
        meant = None
        if isinstance(value, str) and value.startswith("/") and "\0" not in value:
            meant = notations.quoted(UNIX + value)
        raise MistakeError(text, None, meant or _loopback_meant(value)) from None


def agent_end(value: object) -> ServerAddress:
    """Read the end at which an agent answers: an address with its port."""
    try:
        return end(value, None)
    except ValueError:
        text = f'must be ADDRESS:PORT, such as "127.0.0.1:9143" or "[::1]:9143", not {shown(value)}'
        raise MistakeError(text, None, _loopback_meant(value)) from None


def _loopback_meant(value: object) -> str | None:
    """Return the address and port, as TOML, that a port alone or localhost certainly means, or None."""
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_PORT:
        return f'"127.0.0.1:{value}"'
    if isinstance(value, str) and re.fullmatch(r"localhost:[1-9]\d{0,4}", value):
        return f'"127.0.0.1{value.removeprefix("localhost")}"'
    return None


class EngineUrl(NamedTuple):
    """Says where an engine is: at a host and port, with TLS or without, or at the path of a Unix socket."""

    tls: bool
    host: str | None
    port: int
    path: str | None
    database: int

    def __str__(self) -> str:
        """Return the URL, with port and database."""
        if self.host is None:
            return f"unix://{self.path}" + (f"?db={self.database}" if self.database else "")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.tls else 'redis'}://{host}:{self.port}/{self.database}"


def engine_url(value: object) -> EngineUrl:
    """Read the URL of an engine: redis://, rediss:// or unix://."""
    text = value if isinstance(value, str) else ""
    if "@" in text:
        raise MistakeError(
            "must have no user and password", "write username, and the password into password_file", None
        )
    found = _ENGINE_SOCKET.fullmatch(text)
    if found is not None:
        if len(os.fsencode(found["path"])) > _LONGEST_SOCKET:
            raise ValueError(f"must have a path of at most {_LONGEST_SOCKET} bytes (unix(7))")
        return EngineUrl(False, None, 0, found["path"], int(found["database"] or 0))
    found = _ENGINE_URL.fullmatch(text)
    if found is not None:
        host, port = found["v6"] or found["host"], int(found["port"] or _ENGINE_PORT)
        try:
            if found["v6"] is not None:
                ipaddress.IPv6Address(host)
            elif re.fullmatch(r"[0-9.]+", host):
                ipaddress.IPv4Address(host)
            else:
                host = host_name(host)
            if 1 <= port <= MAX_PORT:
                return EngineUrl(found["scheme"] == "rediss", host, port, None, int(found["database"] or 0))
        except ValueError:
            pass
    raise ValueError(
        "must be redis://HOST:PORT/DATABASE, rediss:// with TLS, or unix:///PATH, such as"
        f' "rediss://192.0.2.10:6379/0", not {shown(value)}'
    )


def engine_prefix(value: object) -> str:
    """Read the beginning of the names of keys in an engine; no character of a glob pattern is among them."""
    if isinstance(value, str) and ENGINE_PREFIX.fullmatch(value):
        return value
    raise ValueError(
        f'must be 1 to 64 letters, digits and characters of _ . : -, such as "mail:", not {shown(value)}'
    )


def host_label(value: object) -> str:
    """Read the name of this host among others."""
    if isinstance(value, str) and HOST_LABEL.fullmatch(value):
        return value
    raise ValueError(f'must be 1 to 64 letters, digits, _ . and -, such as "mx1", not {shown(value)}')


def host_name(value: object) -> str:
    """Read the name of a host, as clients write it; it becomes lower case."""
    text = value.lower().removesuffix(".") if isinstance(value, str) else ""
    if not text or len(text) > 253 or not all(LABEL.fullmatch(label) for label in text.split(".")):
        raise ValueError(f'must be the name of a host such as "mail.example.org", not {shown(value)}')
    return text
