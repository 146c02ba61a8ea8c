"""TOML and JSON from a configuration: stable order, defaults included, None left out.

tomli-w writes the values; the layout is ours, because each value stands on one line with its comment.
"""

import json
from collections.abc import Callable
from typing import Any

import tomli_w

from tcpdconf.config import model, positions

Comment = Callable[[positions.Key], str | None]


def literal(value: Any) -> str:  # noqa: ANN401 (TOML holds any type)
    """A value on one line.

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
    """One part of a key, quoted where TOML wants it."""
    return tomli_w.dumps({name: 0}).removesuffix(" = 0\n")


def data(config: model.Config) -> dict[str, Any]:
    """A configuration as TOML's and JSON's types. A zone that is shown as another one is a secret."""
    found: dict[str, Any] = config.model_dump(mode="json", by_alias=True, exclude_none=True)
    lists = [item for service in found["services"].values() for item in service["dns_lists"]]
    lists += [item for chain in found["dns_chains"].values() for item in chain["lists"]]
    for item in lists:
        if isinstance(item, dict) and "zone" in item:
            item["zone"] = item.get("display_zone", item["zone"])
    return found


def toml(tables: dict[str, Any], comment: Comment = lambda _: None) -> str:
    """TOML of nested tables; `comment` may say something of each value, by its key path."""
    lines: list[str] = []
    _table(lines, (), "", tables, comment)
    return "\n".join(lines).lstrip("\n") + "\n"


def _table(lines: list[str], key: positions.Key, name: str, table: dict[str, Any], comment: Comment) -> None:
    """The values of a table before the tables below it: what follows a header belongs to that header."""
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
    """Whether a value gets lines of its own: a table, or an array of nothing but tables."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(item, dict) for item in value)
    return isinstance(value, dict) and bool(value)


def leaves(value: Any, key: positions.Key = ()) -> list[positions.Key]:  # noqa: ANN401 (TOML holds any type)
    """The key paths of all values that are no tables; an array of other things is one value."""
    if not _has_header(value):
        return [key]
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return [leaf for part, item in items for leaf in leaves(item, (*key, part))]


def as_json(value: object) -> str:
    """JSON for people and programs."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
