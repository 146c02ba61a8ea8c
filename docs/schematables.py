"""The JSON Schema of a configuration file as tables to read: for `configuration.md` and tcpdconf.toml(5).

Texts have Markdown's backquotes around TOML.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from tcpdconf.config.model import jsonschema as config_schema
from tcpdconf.config.model.service import Service

_FIRST_VERSION: Final = "0.1.0"  # of keys that do not say since when they are there (x-since in the schema)


class Key(NamedTuple):
    """A key of a table; `default` is `required`, TOML in backquotes, or empty."""

    name: str
    type: str
    default: str
    since: str
    words: str


class Table(NamedTuple):
    """A TOML table: its header in backquotes (empty for the file itself), what it is called, its keys."""

    header: str
    name: str
    description: str
    keys: tuple[Key, ...]


def tables() -> Iterator[Table]:
    """The file itself, then every table, each once, where it is first met; what is inside it follows it."""
    written = config_schema.schema()
    yield Table("", "file", written["description"], tuple(_keys(written, set())))
    yield from _below(written["definitions"], written, set())


def _below(
    definitions: dict[str, Any], node: dict[str, Any], known: set[str], path: str = ""
) -> Iterator[Table]:
    for key, value in node["properties"].items():
        inside = f"{path}{key}.NAME" if "patternProperties" in value else path + key
        for name, is_array in _referred(value):
            if name in known:
                continue
            known.add(name)
            header = f"`[[{inside}]]`" if is_array else f"`[{inside}]`"
            definition = definitions[name]
            yield Table(
                header,
                _spaced(name),
                definition["description"],
                tuple(_keys(definition, _required(name, definition))),
            )
            yield from _below(definitions, definition, known, inside + ".")


def _required(name: str, definition: dict[str, Any]) -> set[str]:
    """The keys that a table must have; what a service must have may be in the defaults."""
    if name == "ServiceSettings":
        return {name for name, field in Service.model_fields.items() if field.is_required()}
    return set(definition.get("required", ()))


def _keys(node: dict[str, Any], required: set[str]) -> Iterator[Key]:
    for key, value in node["properties"].items():
        default = "required" if key in required else _default(value)
        yield Key(key, _type(value), default, value.get("x-since", _FIRST_VERSION), _words(value))


def _referred(node: Any, *, is_array: bool = False) -> Iterator[tuple[str, bool]]:  # noqa: ANN401 (JSON)
    """The definitions that a schema refers to, and whether they are items of an array."""
    if isinstance(node, list):
        for item in node:
            yield from _referred(item, is_array=is_array)
    elif isinstance(node, dict):
        if "$ref" in node:
            yield _name(node), is_array
        for word, item in node.items():
            yield from _referred(item, is_array=is_array or word == "items")


def _default(node: dict[str, Any]) -> str:
    return f"`{_toml(node['default'])}`" if "default" in node else ""


def _words(node: dict[str, Any]) -> str:
    """The description, and the examples, unless the type has said all that there is to choose from."""
    chosen = "enum" in node or node.get("type") == "boolean"
    shown = "" if chosen else " or ".join(f"`{_toml(example)}`" for example in node["examples"])
    return str(node.get("description", "")) + (f" Example: {shown}" if shown else "")


def _type(node: dict[str, Any]) -> str:
    """A schema in words."""
    if "$ref" in node:
        return f"table: {_spaced(_name(node))}"
    for word in ("allOf", "anyOf", "oneOf"):
        if word in node:
            return " or ".join(dict.fromkeys(_type(member) for member in node[word]))
    if "const" in node or "enum" in node:
        return " or ".join(f"`{_toml(value)}`" for value in node.get("enum", [node.get("const")]))
    kind = str(node["type"])
    if kind == "array":
        items = node["items"] if isinstance(node["items"], dict) else node["items"][0]
        return f"array of ({_type(items)})"
    if kind == "object":
        return f"table of ({_type(next(iter(node['patternProperties'].values())))})"
    return kind.replace("integer", "whole number") + _bounds(node)


def _bounds(node: dict[str, Any]) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    if "exclusiveMinimum" in node:
        return f" above {node['exclusiveMinimum']}, up to {high}"
    if low is not None and high is not None:
        return f" {low} to {high}"
    return f" from {low}" if low is not None else ""


def _name(node: dict[str, Any]) -> str:
    return str(node["$ref"]).rpartition("/")[2]


def _spaced(name: str) -> str:
    """`DnsList` -> `dns list`; `ServiceSettings` is what everybody calls a service."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.removesuffix("Settings"))
    return words.lower()


def _toml(value: object) -> str:
    """A value in one line of TOML."""
    if isinstance(value, dict):
        inside = ", ".join(f"{key} = {_toml(item)}" for key, item in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return json.dumps(value)
