"""Defines the types of configuration values: the readers of `values` as pydantic types with JSON Schema."""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, Strict, WithJsonSchema
from pydantic_core import PydanticCustomError, core_schema

from tcpdconf.config import codes, collisions
from tcpdconf.config.model import answerfilter, notations, values

# The tags of union members that pydantic puts into an error's location; never keys.
TAGS: Final = frozenset(
    {"<any>", "<list>", "<word>", "<file>", "<logger>", "<name>", "<table>", "<switch>", "<times>"}
)

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
EXIT_STATUS: Final = re.compile(r"[1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-5]")  # eight bits (wait(2))
LONGEST_LINE: Final = (
    400  # characters: with a code and an address in an SMTP reply of 512 (RFC 5321, 4.5.3.1.5)
)
LONGEST_INTERFACE: Final = 15  # IFNAMSIZ less the NUL
_LEAST_HEADER: Final = 16 + 216  # bytes of a PROXY header of version 2 with the addresses of UNIX sockets
_MOST_HEADER: Final = 16 + 0xFFFF  # its length has 16 bits
LogLevel = Literal["debug", "info", "notice", "warning"]


def wrong(
    text: str,
    at: tuple[str | int, ...] = (),
    code: codes.Code = "wrong-value",
    *,
    hint: str | None = None,
    meant: str | None = None,
) -> PydanticCustomError:
    """Return the error for a validator to raise: the message, the key below its value, and the code.

    `hint` says what to do; `meant` is the TOML to write in place of the value.
    """
    if hint is None and meant is not None:
        hint = f"write {meant}"
    return PydanticCustomError(code, "{text}", {"text": text, "at": at, "hint": hint, "meant": meant})


def _reader(read: Callable[[Any], Any]) -> PlainValidator:
    """Return a validator for a reader of `values`."""
    return PlainValidator(_validating(read))


def _validating(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Wrap a reader of `values` so that the text of its ValueError is the whole message."""

    def validate(value: Any) -> Any:  # noqa: ANN401 (TOML gives any type)
        try:
            return read(value)
        except PydanticCustomError:
            raise
        except values.MistakeError as error:
            raise wrong(str(error), hint=error.hint, meant=error.meant) from None
        except ValueError as error:
            raise wrong(str(error)) from None

    return validate


def _variable(name: str) -> str:
    if not VARIABLE.fullmatch(name):
        raise wrong(f"must be a variable name (letters, digits, _), not {values.shown(name)}")
    return name


def _no_nul(value: str) -> str:
    if "\0" in value:
        raise wrong("must not contain a NUL character")
    return value


def _one_line(value: str) -> str:
    """Check text for a variable that often becomes part of one line of a reply."""
    if not value.isprintable():
        raise wrong("must be one line without control characters")
    if len(value) > LONGEST_LINE:
        raise wrong(f"must have at most {LONGEST_LINE} characters, not {len(value)}")
    return value


def _name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise wrong(f"must be a name of letters, digits, '.', '_' and '-', not {values.shown(name)}")
    return name


def _exit_status(text: str) -> str:
    if not EXIT_STATUS.fullmatch(text):
        raise wrong(f"must be an exit status from 1 to 255, not {values.shown(text)}")
    return text


def _string_schema(**extra: object) -> WithJsonSchema:
    """Return the schema of a notation; its pattern may allow text that the reader refuses."""
    return WithJsonSchema({"type": "string", **extra})


def _written_network(network: values.IPNetwork | str) -> str:
    if isinstance(network, str) or network.prefixlen < network.max_prefixlen:
        return str(network)
    return str(network.network_address)


Text = Annotated[str, AfterValidator(_no_nul)]
Line = Annotated[str, AfterValidator(_one_line)]
Name = Annotated[str, AfterValidator(_name), _string_schema(pattern=f"^{NAME.pattern}$")]
Variable = Annotated[str, AfterValidator(_variable), _string_schema(pattern=f"^{VARIABLE.pattern}$")]
Environment = dict[Variable, Text]
ExitStatus = Annotated[
    str, AfterValidator(_exit_status), _string_schema(pattern=f"^({EXIT_STATUS.pattern})$")
]
Path = Annotated[str, _reader(values.path), _string_schema(pattern="^/")]
Network = Annotated[
    values.IPNetwork | str,
    _reader(values.network),
    PlainSerializer(_written_network, return_type=str),
    _string_schema(
        pattern=r"^(\*|[0-9A-Fa-f:.]+(/[0-9]{1,3})?)$", examples=["192.0.2.0/24", "2001:db8::/32", "*"]
    ),
]
Address = Annotated[
    str,
    _reader(values.address),
    _string_schema(pattern=r"^(\*|[0-9A-Fa-f:.]+(%.+)?)$", examples=["127.0.0.1", "::1", "*"]),
]
Port = Annotated[
    int | str,
    _reader(values.port),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": values.MAX_PORT},
                {
                    "type": "string",
                    "pattern": "^([0-9][0-9._+-]*)?[A-Za-z][A-Za-z0-9._+-]*$",
                    "maxLength": values.LONGEST_SERVICE_NAME,
                },
            ]
        }
    ),
]
Account = Annotated[
    int | str,
    _reader(values.account),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": "^[^:/]+$"},
                {"type": "integer", "minimum": 0, "maximum": 2**32 - 2},
            ]
        }
    ),
]


def _written_local(value: object) -> str:
    values.local(value)
    return str(value)


LocalEnd = Annotated[
    str,
    _reader(_written_local),
    _string_schema(pattern=r"^[\[\]0-9A-Fa-f:./*]+$", examples=["192.0.2.1:25", "*:25"]),
]


def _written_size(size: int) -> int | str:
    return "unlimited" if size < 0 else size


Size = Annotated[
    int,
    _reader(values.size),
    PlainSerializer(_written_size, return_type=int | str),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": f"^(unlimited|{values.SIZE.pattern})$"},
            ],
            "examples": ["512MiB"],
        }
    ),
]


def _header_size(value: object) -> int:
    found = values.size(value)
    if not _LEAST_HEADER <= found <= _MOST_HEADER:
        raise ValueError(f"must be {_LEAST_HEADER} to {_MOST_HEADER} bytes, not {values.shown(value)}")
    return found


HeaderSize = Annotated[
    int,
    _reader(_header_size),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": _LEAST_HEADER, "maximum": _MOST_HEADER},
                {"type": "string", "pattern": f"^{values.SIZE.pattern}$"},
            ]
        }
    ),
]


Rate = Annotated[
    values.Rate,
    _reader(values.rate),
    PlainSerializer(str, return_type=str),
    _string_schema(pattern=f"^{values.RATE.pattern}$", examples=["30/min", "5/s"]),
]
_written_bits = PlainSerializer(lambda bits: f"{bits:03o}", return_type=str)
_BITS_SCHEMA: Final = WithJsonSchema(
    {
        "anyOf": [
            {"type": "string", "pattern": "^[0-7]{1,4}$"},
            {"type": "integer", "minimum": 0, "maximum": 511},
        ]
    }
)
Umask = Annotated[int, _reader(values.umask), _written_bits, _BITS_SCHEMA]
Mode = Annotated[int, _reader(values.mode), _written_bits, _BITS_SCHEMA]
Count = Annotated[int, Field(ge=1, le=10_000_000)]


def _written_duration(seconds: float) -> float:
    """Return seconds as an integer if they have no fraction."""
    return int(seconds) if seconds == int(seconds) else seconds


@dataclass(frozen=True)
class Duration:
    """Makes a float a duration in seconds, from `least` (or above it) to `most`."""

    least: float
    most: float
    above: bool = False
    whole: bool = False  # the kernel counts whole seconds

    def __get_pydantic_core_schema__(self, _source: object, _handler: object) -> core_schema.CoreSchema:
        """Return the validator."""
        read = functools.partial(
            values.duration, least=self.least, most=self.most, above=self.above, whole=self.whole
        )
        written = core_schema.plain_serializer_function_ser_schema(_written_duration)
        return core_schema.no_info_plain_validator_function(_validating(read), serialization=written)

    def __get_pydantic_json_schema__(self, _schema: object, _handler: object) -> dict[str, Any]:
        """Return the schema for editors."""
        low = "exclusiveMinimum" if self.above else "minimum"
        return {
            "anyOf": [
                {"type": "number", low: self.least, "maximum": self.most},
                {"type": "string", "pattern": f"^{values.DURATION.pattern}$"},
            ]
        }


Seconds = Annotated[float, Duration(0, 86400, above=True)]
Ttl = Annotated[float, Duration(0, 604800)]
PenaltySeconds = Annotated[float, Duration(0, 604800, above=True)]
KeepaliveSeconds = Annotated[float, Duration(1, 32767, whole=True)]  # tcp(7): MAX_TCP_KEEPIDLE


def _no_keepalive(value: object) -> Literal[False, "kernel"]:
    """Read a value of `keepalive` that is no table."""
    if value is False:
        return False
    if value == "kernel":
        return "kernel"
    text = f'must be a table with time, interval and count, false or "kernel", not {values.shown(value)}'
    if value is True:
        raise wrong(text, hint="leave it out to have the default")
    try:
        time = values.duration(value, 1, 32767)
    except ValueError:
        raise wrong(text, code="wrong-value" if isinstance(value, str) else "wrong-type") from None
    written = notations.quoted(value) if isinstance(value, str) else f"{time:g}"
    raise wrong(text, meant=f"{{ time = {written} }}")


NoKeepalive = Annotated[
    Literal[False, "kernel"],
    _reader(_no_keepalive),
    PlainSerializer(lambda value: value),
    WithJsonSchema({"enum": [False, "kernel"]}),
]


def _interface(value: object) -> str:
    """Read the name of a network interface, as the kernel allows it (dev_valid_name)."""
    text = f"must be the name of a network interface, not {values.shown(value)}"
    if not isinstance(value, str) or value in {"", ".", ".."} or re.search(r"[/\s]|[^ -~]", value):
        raise wrong(text, code="wrong-value" if isinstance(value, str) else "wrong-type")
    name, colon, _ = value.partition(":")
    if colon:
        meant = notations.quoted(name) if name else None
        raise wrong(f"{text}: an alias is only an address", meant=meant)
    if len(value) > LONGEST_INTERFACE:
        raise wrong(f"must have at most {LONGEST_INTERFACE} characters, not {len(value)}")
    return value


Interface = Annotated[
    str,
    _reader(_interface),
    _string_schema(pattern=r"^[^/:\s]+$", maxLength=LONGEST_INTERFACE, examples=["eth0"]),
]


def _program(argv: tuple[str, ...]) -> tuple[str, ...]:
    if not argv[0].startswith("/"):
        advice = notations.path(argv[0])
        text = f"must be an absolute path (no PATH search), not {values.shown(argv[0])}"
        raise wrong(text, (0,), hint=advice.hint, meant=advice.meant)
    return argv


Program = Annotated[
    tuple[Text, ...],
    Strict(False),
    Field(min_length=1),
    AfterValidator(_program),
    WithJsonSchema(
        {
            "type": "array",
            "items": [{"type": "string", "pattern": "^/"}],
            "additionalItems": {"type": "string"},
            "minItems": 1,
        }
    ),
]


def _inherited(value: object) -> bool | tuple[str, ...]:
    if isinstance(value, bool):
        return value
    if not isinstance(value, list | tuple):
        raise ValueError(  # noqa: TRY004 (every reader fails with ValueError)
            f"must be true, false or an array of variable names, not {values.shown(value)}"
        )
    for index, name in enumerate(value):
        if not isinstance(name, str) or not VARIABLE.fullmatch(name):
            raise wrong(f"must be a variable name (letters, digits, _), not {values.shown(name)}", (index,))
    return tuple(value)


def _watched(value: object) -> bool | Literal["poll"]:
    if isinstance(value, bool):
        return value
    if value != "poll":
        raise ValueError(f'must be true, false or "poll", not {values.shown(value)}')
    return "poll"


Watched = Annotated[
    bool | Literal["poll"],
    _reader(_watched),
    PlainSerializer(lambda value: value),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"const": "poll"}]}),
]


def _written_inherited(value: bool | tuple[str, ...]) -> bool | list[str]:
    return value if isinstance(value, bool) else list(value)


Inherited = Annotated[
    bool | tuple[str, ...],
    _reader(_inherited),
    PlainSerializer(_written_inherited),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "boolean"},
                {"type": "array", "items": {"type": "string", "pattern": f"^{VARIABLE.pattern}$"}},
            ]
        }
    ),
]
Zone = Annotated[
    str,
    _reader(values.zone),
    _string_schema(
        pattern=rf"^({values.LABEL.pattern}\.)*{values.LABEL.pattern}\.?$",
        maxLength=values.LONGEST_ZONE + 1,
        examples=["dnsbl.example.org"],
    ),
]
Server = Annotated[
    values.ServerAddress,
    _reader(values.server),
    PlainSerializer(str, return_type=str),
    _string_schema(pattern=r"^[\[\]0-9A-Fa-f:.%]+$", examples=["127.0.0.1:5353", "::1"]),
]


def _written_http_end(value: values.ServerAddress | str) -> str:
    return values.UNIX + value if isinstance(value, str) else str(value)


HttpEnd = Annotated[
    values.ServerAddress | str,
    _reader(values.http_end),
    PlainSerializer(_written_http_end, return_type=str),
    _string_schema(
        pattern=r"^(unix:/.*[^/]|[0-9.]+:[0-9]{1,5}|\[[0-9A-Fa-f:.]+\]:[0-9]{1,5})$",
        examples=["127.0.0.1:9435", "unix:/run/tcpdconf/http.sock"],
    ),
]
EngineUrl = Annotated[
    values.EngineUrl,
    _reader(values.engine_url),
    PlainSerializer(str, return_type=str),
    _string_schema(
        pattern=r"^(rediss?://[^@/?#]+(:[0-9]{1,5})?(/[0-9]{0,4})?|unix:///[^?#]+(\?db=[0-9]{1,4})?)$",
        examples=["rediss://192.0.2.10:6379/0"],
    ),
]
EnginePrefix = Annotated[
    str,
    _reader(values.engine_prefix),
    _string_schema(pattern=f"^{values.ENGINE_PREFIX.pattern}$", examples=["mail:"]),
]
HostLabel = Annotated[
    str,
    _reader(values.host_label),
    _string_schema(pattern=f"^{values.HOST_LABEL.pattern}$", examples=["mx1"]),
]
AgentEnd = Annotated[
    values.ServerAddress,
    _reader(values.agent_end),
    PlainSerializer(str, return_type=str),
    _string_schema(
        pattern=r"^([0-9.]+:[0-9]{1,5}|\[[0-9A-Fa-f:.]+\]:[0-9]{1,5})$", examples=["127.0.0.1:9143"]
    ),
]


def require_allow(listen: values.ServerAddress, allow: tuple[object, ...]) -> None:
    """Raise an error if other hosts reach `listen` and no network is allowed to ask there."""
    if not allow and not collisions.is_loopback(listen.address):
        raise wrong(
            f"{listen} is no loopback address, so allow must say who may ask",
            ("listen",),
            "missing-key",
            hint='add allow = ["NETWORK", ...], or listen on 127.0.0.1',
        )


HostName = Annotated[
    str,
    _reader(values.host_name),
    _string_schema(
        pattern=rf"^({values.LABEL.pattern}\.)*{values.LABEL.pattern}\.?$", examples=["mail.example.org"]
    ),
]


def _written_filter(value: object) -> str:
    answerfilter.read(value)
    return str(value)


_FILTER: Final = r"^[\[\]0-9.;/]+$"
Filter = Annotated[
    str,
    _reader(_written_filter),
    _string_schema(pattern=_FILTER, examples=["127.0.0.2", "127.0.0.[2..11]", "127.0.0.0/28"]),
]


def _expected(value: object) -> bool | tuple[str, ...]:
    if isinstance(value, bool):
        return value
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"must be true, false or an array of answers, not {values.shown(value)}")
    for index, item in enumerate(value):
        try:
            answerfilter.read(item)
        except ValueError as error:
            raise wrong(str(error), (index,)) from None
    return tuple(value)


Expected = Annotated[
    bool | tuple[str, ...],
    _reader(_expected),
    PlainSerializer(_written_inherited),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "boolean"},
                {"type": "array", "items": {"type": "string", "pattern": _FILTER}, "minItems": 1},
            ]
        }
    ),
]
Weight = Annotated[int, Field(ge=-1000, le=1000)]
Threshold = Annotated[int, Field(ge=1, le=1000)]
