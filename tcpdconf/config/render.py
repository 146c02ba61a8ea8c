"""Renders a configuration as TOML and JSON, in stable order and without None.

A whole configuration shows its defaults; one service is written as by hand. tomli-w writes the values. The
layout is done here, because each value stands on one line with its comment.
"""

import json
import textwrap
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import tomli_w

from tcpdconf.config import positions, printable
from tcpdconf.config.couriertcpd import grammar
from tcpdconf.config.model import notations
from tcpdconf.config.model.service import Config, Service

Comment = Callable[[positions.Key], str | None]

_WIDTH: Final = 100
_HEADED: Final = frozenset({"listeners", "limits", "access", "dns_lists", "dns"})  # tables on their own
_BYTES: Final = ("as", "core", "data", "fsize", "memlock", "stack")
_UNITS: Final = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def literal(value: Any) -> str:  # noqa: ANN401 (TOML holds any type)
    """Return a TOML value on one line.

    >>> literal([25, "smtp", {"address": "*"}])
    '[25, "smtp", { address = "*" }]'
    """
    if isinstance(value, dict):
        pairs = ", ".join(f"{key_part(key)} = {literal(item)}" for key, item in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(literal(item) for item in value) + "]"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").rstrip("\n")


def key_part(name: str) -> str:
    """Return one part of a key, quoted if TOML requires it."""
    return tomli_w.dumps({name: 0}).removesuffix(" = 0\n")


def data(config: Config) -> dict[str, Any]:
    """Return a configuration as TOML's and JSON's types.

    A zone with a different display_zone is secret. It is replaced by text that is no zone, so that nobody can
    use the output as a configuration that asks another list.
    """
    found: dict[str, Any] = config.model_dump(mode="json", by_alias=True, exclude_none=True)
    lists = [item for service in found["services"].values() for item in service["dns_lists"]]
    lists += [item for chain in found["dns_chains"].values() for item in chain["lists"]]
    for item in lists:
        if (
            isinstance(item, dict)
            and "zone" in item
            and item.get("display_zone", item["zone"]) != item["zone"]
        ):
            item["zone"] = notations.HIDDEN
    return found


def toml(tables: dict[str, Any], comment: Comment = lambda _: None) -> str:
    """Return nested tables as TOML; `comment` may return a comment for each value, by its key path."""
    lines: list[str] = []
    _table(lines, (), "", tables, comment)
    return "\n".join(lines).lstrip("\n") + "\n"


def _table(lines: list[str], key: positions.Key, name: str, table: dict[str, Any], comment: Comment) -> None:
    """Add a table's values, then the tables below it: a value belongs to the header above it."""
    for part, value in table.items():
        if not _has_header(value):
            said = comment((*key, part))
            lines.append(f"{key_part(part)} = {literal(value)}" + (f"  # {said}" if said else ""))
    for part, value in table.items():
        if not _has_header(value):
            continue
        below = f"{name}.{key_part(part)}" if name else key_part(part)
        if isinstance(value, dict):
            if not all(isinstance(item, dict) and item for item in value.values()):
                lines += ["", f"[{below}]"]
            _table(lines, (*key, part), below, value, comment)
        else:
            for index, item in enumerate(value):
                lines += ["", f"[[{below}]]"]
                _table(lines, (*key, part, index), below, item, comment)


def _has_header(value: object) -> bool:
    """Return whether a value gets headers: a table, or an array of tables only."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(item, dict) for item in value)
    return isinstance(value, dict) and bool(value)


def service(name: str, written: Service, notes: Iterable[grammar.Note] = ()) -> str:
    """Return one service as TOML without defaults; reading it gives the same service.

    A note with a key becomes a comment above the nearest line; each reason is given once.
    """
    blocks = list(_blocks(f"services.{key_part(name)}", _brief(written)))
    said = _remarks(notes, {key for key, _ in blocks})
    lines = []
    for key, text in blocks:
        if text.startswith("["):
            lines.append("")
        lines += [*said.get(key, ()), text]
    return "\n".join(lines[1:]) + "\n"


def _brief(written: Service) -> dict[str, Any]:
    """Return a service without its defaults, except for max_connections, which people look for first."""
    brief: dict[str, Any] = written.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude_defaults=True
    )
    brief["limits"] = {"max_connections": written.limits.max_connections} | brief.pop("limits", {})
    files = brief.get("environment_files", [])
    files[:] = [file if "shell" in file else file["path"] for file in files]
    for place, listener in enumerate(brief["listeners"]):
        if "address" in listener:
            brief["listeners"][place] = {"address": listener["address"]} | listener
    for key in brief.get("rlimits", {}).keys() & set(_BYTES):
        brief["rlimits"][key] = _size(brief["rlimits"][key])
    order = [key for key in Service.model_fields if key in brief]
    return {key: brief[key] for key in order}


def _size(value: int | str) -> int | str:
    for size, unit in _UNITS:
        if isinstance(value, int) and value and value % size == 0:
            return f"{value // size}{unit}"
    return value


def _blocks(header: str, table: dict[str, Any]) -> Iterator[tuple[positions.Key, str]]:
    """Yield headers and values in order, each with its key below the service."""
    below = {key: value for key, value in table.items() if _stands_alone(key, value)}
    yield (), f"[{header}]"
    yield from _values((), {key: value for key, value in table.items() if key not in below})
    for key, value in below.items():
        if isinstance(value, dict):
            yield (key,), f"[{header}.{key}]"
            yield from _values((key,), value)
        else:
            for place, item in enumerate(value):
                yield (key, place), f"[[{header}.{key}]]"
                yield from _values((key, place), item)


def _stands_alone(key: str, value: object) -> bool:
    return _has_header(value) and (
        key in _HEADED or (isinstance(value, dict) and len(f"{key} = {literal(value)}") > _WIDTH)
    )


def _values(key: positions.Key, table: dict[str, Any]) -> Iterator[tuple[positions.Key, str]]:
    for part, value in table.items():
        yield (*key, part), f"{key_part(part)} = {_spread(value, len(key_part(part)) + 3)}"


def _spread(value: Any, used: int) -> str:  # noqa: ANN401 (TOML holds any type)
    """Return a value on one line, or an array with a line for each item.

    The latter is for arrays that are too long for the line, or have several tables.
    """
    line = literal(value)
    is_array = isinstance(value, list) and value
    if not is_array or (used + len(line) <= _WIDTH and sum(isinstance(item, dict) for item in value) < 2):
        return line
    return "[\n" + "".join(f"  {literal(item)},\n" for item in value) + "]"


def _remarks(notes: Iterable[grammar.Note], keys: set[positions.Key]) -> dict[positions.Key, list[str]]:
    """Return comment lines by the key above which they stand."""
    found: dict[positions.Key, list[str]] = {}
    reasons: set[str] = set()
    for note in notes:
        if not note.key or note.why in reasons:
            continue
        reasons.add(note.why)
        place = next(note.key[:size] for size in range(len(note.key), -1, -1) if note.key[:size] in keys)
        what = printable.replaced(note.what, " ")
        if len(what) > _WIDTH // 2:
            what = what[: _WIDTH // 2] + "..."
        text = ("Risk: " if note.kind == "risk" else "") + f"{what}: {note.why}"
        wrapped = textwrap.wrap(text, _WIDTH - 2, break_long_words=False, break_on_hyphens=False)
        found.setdefault(place, []).extend(f"# {line}" for line in wrapped)
    return found


def leaves(value: Any, key: positions.Key = ()) -> list[positions.Key]:  # noqa: ANN401 (TOML holds any type)
    """Return the key paths of all values that are not tables; another array is one value."""
    if not _has_header(value):
        return [key]
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return [leaf for part, item in items for leaf in leaves(item, (*key, part))]


def differing(
    value: Any,  # noqa: ANN401 (TOML holds any type)
    other: Any,  # noqa: ANN401
    key: positions.Key = (),
) -> Iterator[tuple[positions.Key, Any]]:
    """Yield each leaf of `value`, with its key path, that `other` lacks or has with another value."""
    if value == other:
        return
    if not (_has_header(value) and _has_header(other) and type(value) is type(other)):
        for leaf in leaves(value):
            found = value
            for step in leaf:
                found = found[step]
            yield (*key, *leaf), found
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from differing(item, other.get(name), (*key, name))
    else:
        for index, item in enumerate(value):
            yield from differing(item, other[index] if index < len(other) else None, (*key, index))


def as_json(value: object) -> str:
    """Return a value as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
