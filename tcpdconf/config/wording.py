"""What pydantic found, in the administrator's words: key, message, code and what to write instead.

No text of pydantic's gets through; a test walks the models for every error that they can raise.
"""

import difflib
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, cast

import pydantic
from pydantic_core import ErrorDetails

from tcpdconf.config import codes, fields, positions, shape, sources, values

Context = dict[str, Any]


class Finding(NamedTuple):
    """One thing wrong with a table: the key from its top, the message, and whether key or value is meant."""

    key: positions.Key
    text: str
    code: codes.Code
    hint: str | None = None
    spot: sources.Spot = "value"


_KINDS: Final = {
    "string_type": "a string", "bool_type": "true or false", "int_type": "a whole number",
    "float_type": "a number", "model_type": "a table", "dict_type": "a table", "tuple_type": "an array",
}  # fmt: skip
# what else a value may be that is one shape of several, by pydantic's tag of the shape that was tried
_OTHERWISE: Final = {
    "<word>": ', { file = "..." } or { logger = ["..."] }',
    "<any>": " or an array of addresses and networks",
    "<table>": " or a string that names a chain",
    "<switch>": " or { listed = [...], unlisted = [...] }",
}
_BOUNDS: Final[dict[str, Callable[[Context], str]]] = {
    "greater_than_equal": lambda context: f"at least {context['ge']:.15g}",
    "less_than_equal": lambda context: f"at most {context['le']:.15g}",
    "greater_than": lambda context: f"more than {context['gt']:.15g}",
    "finite_number": lambda _: "a finite number",
}
_EMPTY: Final = frozenset({"too_short", "string_too_short"})
KNOWN: Final = frozenset({"extra_forbidden", "missing", "literal_error", *_KINDS, *_BOUNDS, *_EMPTY})


def findings(
    error: pydantic.ValidationError, data: object, model: type[pydantic.BaseModel], top: positions.Key = ()
) -> Iterator[Finding]:
    """Every error of one validation of `data`, which stands at `top` below the root of a `model`."""
    details = error.errors(include_url=False)
    misspelt = set()
    for found in details:
        if found["type"] == "extra_forbidden":
            finding = _unknown((*top, *_key(found["loc"], data)), model)
            misspelt.add((finding.key[:-1], (finding.hint or "").removeprefix("did you mean ").rstrip("?")))
            yield finding
    for found in details:
        key = (*top, *_key(found["loc"], data))
        if found["type"] == "missing":
            if (key[:-1], key[-1]) not in misspelt:  # the misspelt key is the problem
                yield Finding(key, "is missing", "missing-key", shape.example(model, key))
        elif found["type"] == "too_short" and found["input"]:
            continue  # it has elements, but none that is right
        elif found["type"] != "extra_forbidden":
            yield _wrong(key, found)


def wrong(error: pydantic.ValidationError) -> set[str | int]:
    """Return the keys of the validated table that have errors, or have them below."""
    found = error.errors(include_url=False, include_input=False)
    keys = ((*each["loc"], *each.get("ctx", {}).get("at", ())) for each in found)
    return {key[0] for key in keys if key}


def near(word: str, known: Iterator[str] | list[str], cutoff: float = 0.6) -> str | None:
    """The known word that was probably meant."""
    return next(iter(difflib.get_close_matches(word, list(known), 1, cutoff)), None)


def _key(location: tuple[str | int, ...], data: object) -> positions.Key:
    """The keys of an error's location, without pydantic's tags (a TOML key may be spelt like one)."""
    key: positions.Key = ()
    for number, part in enumerate(location):
        if (isinstance(data, dict) and part in data) or (isinstance(data, list) and isinstance(part, int)):
            data = data[part]  # type: ignore[index] # the part fits the container
        elif part in fields.TAGS or part == "[key]" or not isinstance(data, dict):
            continue
        elif number < len(location) - 1:
            break
        key = (*key, part)
    return key


def _unknown(key: positions.Key, model: type[pydantic.BaseModel]) -> Finding:
    place = tuple(0 if isinstance(part, int) else part for part in key)  # each element has the same keys
    return Finding(key, "unknown key", "unknown-key", _instead(place, model), "key")


@functools.lru_cache(maxsize=256)
def _instead(key: positions.Key, model: type[pydantic.BaseModel]) -> str:
    """What was meant by an unknown key, or where it belongs, or the keys that there are."""
    name, known = str(key[-1]), shape.keys(model, key[:-1])
    places = shape.homes(model, key)
    meant = near(name, known, 0.85 if places else 0.6)
    if meant:
        return f"did you mean {meant}?"
    return "belongs to " + " or ".join(places) if places else "known keys: " + ", ".join(known)


def _wrong(key: positions.Key, found: ErrorDetails) -> Finding:
    kind, value, context = found["type"], found["input"], found.get("ctx", {})
    if "text" in context:  # one of our own
        text, _, guess = context["text"].partition("; did you mean ")
        spot: sources.Spot = "key" if found["loc"][-1:] == ("[key]",) else "value"
        hint = f"did you mean {guess}" if guess else context.get("hint")
        return Finding((*key, *context.get("at", ())), text, cast("codes.Code", kind), hint, spot)
    otherwise = next((_OTHERWISE[str(part)] for part in found["loc"][-1:] if part in _OTHERWISE), "")
    if kind == "literal_error":
        words = re.findall(r"'([^']*)'", context["expected"])
        return Finding(key, *_no_word(words, value, otherwise))
    if kind in _KINDS:
        text = f"must be {_KINDS[kind]}{otherwise}, not {values.described(value)}"
        return Finding(key, text, "wrong-type", _rewritten(kind, value, key))
    if kind in _BOUNDS:
        return Finding(key, f"must be {_BOUNDS[kind](context)}, not {values.shown(value)}", "wrong-value")
    return Finding(key, "must not be empty" if kind in _EMPTY else "is not valid", "wrong-value")


def _no_word(words: list[str], value: object, otherwise: str) -> tuple[str, codes.Code, str | None]:
    quoted = [f'"{word}"' for word in words]
    allowed = " or ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)
    meant = near(value, words) if isinstance(value, str) else None
    hint = f'did you mean "{meant}"?' if meant else None
    if words == ["any"] and isinstance(value, str):  # one proxy, without its brackets
        hint = f"write [{values.shown(value)}]"
    code: codes.Code = "wrong-value" if isinstance(value, str) else "wrong-type"
    return f"must be {allowed}{otherwise}, not {values.shown(value)}", code, hint


def _rewritten(kind: str, value: object, key: positions.Key) -> str | None:
    """How a value of the wrong type is written right, where that is plain."""
    header = ".".join(str(part) for part in key if isinstance(part, str))
    if isinstance(value, str):
        number = kind in {"int_type", "float_type"} and re.fullmatch(r"-?\d{1,9}(\.\d{1,9})?", value)
        if number or (kind == "bool_type" and value in {"true", "false"}):
            return f"write {value} without quotes"
        if kind == "tuple_type":
            return f"write [{values.shown(value)}]"
    if kind == "tuple_type" and isinstance(value, dict):
        return f"write [[{header}]]"
    one = isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict)
    if one and kind in {"model_type", "dict_type"}:
        return f"write [{header}]"
    return None
