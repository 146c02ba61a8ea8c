"""Defines the types of configuration values: the readers of `values` as pydantic types with JSON Schema."""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, Strict, WithJsonSchema
from pydantic_core import PydanticCustomError, core_schema

from tcpdconf.config import codes
from tcpdconf.config.model import answerfilter, notations, values

# The tags of union members that pydantic puts into an error's location; never keys.
TAGS: Final = frozenset({"<any>", "<list>", "<word>", "<file>", "<logger>", "<name>", "<table>", "<switch>"})

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
LONGEST_LINE: Final = (
    400  # characters: with a code and an address in an SMTP reply of 512 (RFC 5321, 4.5.3.1.5)
)
_RATE_UNITS: Final = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
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


def _written_rate(rate: values.Rate) -> str:
    seconds = int(rate.seconds)
    size, unit = next((size, unit) for size, unit in _RATE_UNITS if seconds % size == 0)
    return f"{rate.connections}/{'' if seconds == size else seconds // size}{unit}"


Rate = Annotated[
    values.Rate,
    _reader(values.rate),
    PlainSerializer(_written_rate, return_type=str),
    _string_schema(pattern=f"^{values.RATE.pattern}$", examples=["30/min", "5/s"]),
]
Umask = Annotated[
    int,
    _reader(values.umask),
    PlainSerializer(lambda mask: f"{mask:03o}", return_type=str),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": "^[0-7]{1,4}$"},
                {"type": "integer", "minimum": 0, "maximum": 511},
            ]
        }
    ),
]
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

    def __get_pydantic_core_schema__(self, _source: object, _handler: object) -> core_schema.CoreSchema:
        """Return the validator."""
        read = functools.partial(values.duration, least=self.least, most=self.most, above=self.above)
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
