"""Translates pydantic's errors for the administrator: key, message, code and advice.

No text of pydantic's gets through; a test walks the models for every error that they can raise.
"""

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, cast

import pydantic
from pydantic_core import ErrorDetails

from tcpdconf.config import codes, positions, problems
from tcpdconf.config.load import model_paths, rewriting
from tcpdconf.config.load.source import Spot
from tcpdconf.config.model import fields, notations, values
from tcpdconf.config.near import near

Context = dict[str, Any]


class Finding(NamedTuple):
    """Describes one error of a table: the key from its top, the message, and the `spot`: key or value.

    `meant` is TOML that does what the hint says, in place of the key or value; otherwise `edits` may do it.
    """

    key: positions.Key
    text: str
    code: codes.Code
    hint: str | None = None
    spot: Spot = "value"
    meant: str | None = None
    edits: tuple[problems.Edit, ...] = ()


_KINDS: Final = {
    "string_type": "a string", "bool_type": "true or false", "int_type": "a whole number",
    "float_type": "a number", "model_type": "a table", "dict_type": "a table", "tuple_type": "an array",
}  # fmt: skip
# the other shapes that a value may have, by pydantic's tag of the shape that was tried
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
    """Yield a finding for each error of one validation of `data`, which is at `top` below a `model`."""
    details = error.errors(include_url=False)
    misspelt = set()
    for found in details:
        if found["type"] == "extra_forbidden":
            finding = _unknown((*top, *_key(found["loc"], data)), model, _beside(data, found["loc"]))
            misspelt.add((finding.key[:-1], finding.meant))
            if isinstance(found["input"], dict):  # a name with a dot: the service's keys are below it
                misspelt |= {(finding.key[:-1], name) for name in found["input"]}
                misspelt |= {(finding.key[:-1], name) for name in ("program", "listeners")}
            yield finding
    for found in details:
        key = (*top, *_key(found["loc"], data))
        if found["type"] == "missing":
            if (key[:-1], key[-1]) not in misspelt:  # a misspelt key explains the missing one
                yield Finding(key, "is missing", "missing-key", model_paths.example(model, key))
        elif found["type"] == "too_short" and found["input"]:
            continue  # it has elements, but no valid one
        elif found["type"] != "extra_forbidden":
            yield _wrong(key, found)


def wrong(error: pydantic.ValidationError) -> set[str | int]:
    """Return the keys of the validated table that have errors, or have errors below them."""
    found = error.errors(include_url=False, include_input=False)
    keys = ((*each["loc"], *each.get("ctx", {}).get("at", ())) for each in found)
    return {key[0] for key in keys if key}


def _key(location: tuple[str | int, ...], data: object) -> positions.Key:
    """Return the keys of an error's location without pydantic's tags; a TOML key may be spelt like a tag."""
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


def _beside(data: object, location: tuple[str | int, ...]) -> dict[str, Any]:
    """Return the table that contains an error's key."""
    for part in _key(location, data)[:-1]:
        data = data[part]  # type: ignore[index] # the key leads through tables and arrays
    return data if isinstance(data, dict) else {}


def _unknown(key: positions.Key, model: type[pydantic.BaseModel], beside: dict[str, Any]) -> Finding:
    place = tuple(0 if isinstance(part, int) else part for part in key)  # each element has the same keys
    hint, meant = _instead(place, model)
    if meant is not None and meant in beside:
        hint, meant = f"delete it, or write it as {meant}, which is set as well", None
    return Finding(key, "unknown key", "unknown-key", hint, "key", meant)


@functools.lru_cache(maxsize=256)
def _instead(key: positions.Key, model: type[pydantic.BaseModel]) -> tuple[str, str | None]:
    """Return a hint for an unknown key, and the key that was meant if that is clear.

    The hint names the key meant, or the table where the key belongs, or the known keys.
    """
    name, known = str(key[-1]), model_paths.keys(model, key[:-1])
    places = model_paths.homes(model, key)
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().replace("-", "_")
    meant = plain if plain in known else near(name, known, 0.85 if places else 0.6)
    if places and not (meant and plain == meant):
        return f"belongs to {_alternatives(places)}", None
    theirs = rewriting.courier(key, known)
    if theirs and not (meant and plain == meant):
        return theirs
    if meant:
        return f"did you mean {meant}?", meant
    return "known keys: " + ", ".join(known), None


def _wrong(key: positions.Key, found: ErrorDetails) -> Finding:
    kind, value, context = found["type"], found["input"], found.get("ctx", {})
    if "text" in context:  # one of our own
        text, _, guess = context["text"].partition("; did you mean ")
        spot: Spot = "key" if found["loc"][-1:] == ("[key]",) else "value"
        hint, meant = (
            (f"did you mean {guess}", guess.rstrip("?")) if guess else (context["hint"], context["meant"])
        )
        return Finding((*key, *context["at"]), text, cast("codes.Code", kind), hint, spot, meant)
    otherwise = next((_OTHERWISE[str(part)] for part in found["loc"][-1:] if part in _OTHERWISE), "")
    if kind == "literal_error":
        words = re.findall(r"'([^']*)'", context["expected"])
        return _no_word(key, words, value, otherwise)
    if kind in _KINDS:
        text = f"must be {_KINDS[kind]}{otherwise}, not {values.described(value)}"
        hint, meant = rewriting.advice(kind, value, key)
        hint = f"write {meant}" if hint is None and meant is not None else hint
        return Finding(key, text, "wrong-type", hint, meant=meant)
    if kind in _BOUNDS:
        return Finding(key, f"must be {_BOUNDS[kind](context)}, not {values.shown(value)}", "wrong-value")
    return Finding(key, "must not be empty" if kind in _EMPTY else "is not valid", "wrong-value")


def _alternatives(words: list[str]) -> str:
    """Return words as text: "A", "A or B", "A, B or C"."""
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _no_word(key: positions.Key, words: list[str], value: object, otherwise: str) -> Finding:
    allowed = _alternatives([f'"{word}"' for word in words])
    found = rewriting.word(value, words)
    meant = f'"{found}"' if found else None
    hint = f"did you mean {meant}?" if meant else None
    if words == ["any"] and isinstance(value, str) and meant is None:  # one proxy, without its brackets
        meant = f"[{notations.quoted(value)}]"
        hint = f"write {meant}"
    if key[-1] == "stderr" and isinstance(value, str) and value.startswith("/"):
        meant = f"{{ file = {notations.quoted(value)} }}"
        hint = f"write {meant}"
    if key[-1] == "action" and isinstance(value, str) and "," in value:
        meant, hint = None, 'write action = "allow" and environment = { NAME = "VALUE" }, each as a key'
    code: codes.Code = "wrong-value" if isinstance(value, str) else "wrong-type"
    return Finding(key, f"must be {allowed}{otherwise}, not {values.shown(value)}", code, hint, meant=meant)
