"""Builds the JSON Schema (draft-07) of one configuration file, for editors and other checkers.

pydantic writes draft 2020-12. Editors know draft-07 best, and TOML has no null. So definitions move, a
nullable value becomes an optional key, and a reference keeps its description beside it. Rules that the models
check in code are repeated here, as far as JSON Schema can express them.
"""

from typing import Any, Final

from tcpdconf.config.model import presets
from tcpdconf.config.model.service import Settings

_NULL: Final = {"type": "null"}
ID: Final = "https://json.schemastore.org/tcpdconf.json"  # where SchemaStore serves it, once it is there
_FIRST: Final = ("$schema", "title", "description", "type", "default", "examples")  # keywords, in order


def _any_of(*keys: str) -> dict[str, Any]:
    return {"anyOf": [{"required": [key]} for key in keys]}


def _one_of(*keys: str) -> dict[str, Any]:
    return {"oneOf": [{"required": [key]} for key in keys]}


def _where(key: str, *words: str) -> dict[str, Any]:
    """Return the condition that a key has one of these values."""
    return {"required": [key], **_also(**{key: {"enum": [*words]}})}


def _also(**keys: dict[str, Any]) -> dict[str, Any]:
    """Return further rules for some keys; Tombi must be told that the others remain allowed."""
    return {"properties": keys, "additionalProperties": True}


def _allowing() -> dict[str, Any]:
    """Return the condition that a DNS list is an allow list, by its action or that of its preset."""
    preset = {**_where("preset", *presets.allowing()), "not": {"required": ["action"]}}
    return {"anyOf": [_where("action", "allow"), preset]}


def _by_key() -> dict[str, Any]:
    """Return the condition that the zone of a DNS list stands below a key."""
    names = [name for name in presets.known() if presets.needs_key(name)]
    return {
        **_where("preset", *names),
        "not": {"anyOf": [{"required": ["zone"]}, {"required": ["zone_file"]}]},
    }


_FORBIDDEN: Final[dict[str, Any]] = {"not": {}}
_RULES: Final[dict[str, dict[str, Any]]] = {
    "AccessRule": _any_of("network", "local", "proxied_local"),
    "AccessSource": {
        **_one_of("file", "rules"),
        "dependencies": {"format": ["file"], "action": ["file"]},
        "allOf": [
            {"if": _where("format", "cidr"), "then": {"required": ["action"]}},
            {
                "if": _where("format", "gdbm", "db", "courier", "toml"),
                "then": _also(action=_FORBIDDEN),
            },
        ],
    },
    "DnsList": {
        "anyOf": [{"required": ["preset"]}, _one_of("zone", "zone_file")],
        "not": {"required": ["zone", "zone_file"]},
        "dependencies": {"zone_file": ["display_zone"]},
        "allOf": [
            {"if": {"required": ["key_file"]}, "then": {"not": {"required": ["zone_file"]}}},
            {"if": _by_key(), "then": {"required": ["key_file"]}},
        ],
        "if": _allowing(),
        "then": _also(message=_FORBIDDEN, weight={"maximum": -1}),
        "else": _also(weight={"minimum": 1}),
    },
    "Level": {"allOf": [_any_of("ipv4", "ipv6"), _any_of("max_connections", "rate")]},
}
# keywords for Tombi and Taplo, two TOML tools for editors: which keys they offer, and their labels
_FOR_EDITORS: Final[dict[str, dict[str, Any]]] = {
    "ServiceSettings": {"x-taplo": {"initKeys": ["program", "listeners"]}},
    "Listener": {"x-taplo": {"initKeys": ["port"]}},
    "AccessRule": {"x-taplo": {"initKeys": ["network", "action"]}},
    "DnsList": {"x-taplo": {"initKeys": ["zone"]}},
    "HAProxy": {"x-taplo": {"initKeys": ["trusted"]}},
}
_NAMES: Final = {"services": "service", "dns_chains": "chain"}  # labels of keys that the user names


def schema() -> dict[str, Any]:
    """Return the schema as JSON types, always in the same order."""
    found = Settings.model_json_schema(by_alias=True, ref_template="#/definitions/{model}")
    definitions = found.pop("$defs")
    for name, rules in _RULES.items():
        definitions[name] |= rules
    for name, words in _FOR_EDITORS.items():
        definitions[name] |= words
    found = _draft7(found)
    for key, label in _NAMES.items():
        found["properties"][key]["x-tombi-additional-key-label"] = label
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": ID,
        "title": "tcpdconf configuration file",
        "x-tombi-toml-version": "v1.0.0",
        **found,
        "definitions": {name: _draft7(definitions[name]) for name in sorted(definitions)},
    }


def _draft7(node: Any) -> Any:  # noqa: ANN401 (JSON holds any type)
    """Return a schema without anything that draft-07 or TOML lacks."""
    if isinstance(node, list):
        return [_draft7(item) for item in node]
    if not isinstance(node, dict):
        return node
    found = {key: _converted(key, value) for key, value in node.items()}
    if isinstance(found.get("title"), str):
        del found["title"]
    if _is_told_elsewhere(found):
        del found["default"]
    if _NULL in found.get("anyOf", ()):
        found = _never_null(found)
    if "patternProperties" in found:
        found.setdefault("additionalProperties", False)
    if "$ref" in found and len(found) > 1:  # draft-07 ignores keywords beside a reference
        found = {"allOf": [{"$ref": found.pop("$ref")}], **found}
    return dict(sorted(found.items(), key=_place))


def _place(item: tuple[str, Any]) -> tuple[int, str]:
    """Return a sort key for a keyword, independent of pydantic's order."""
    return (_FIRST.index(item[0]) if item[0] in _FIRST else len(_FIRST)), item[0]


def _is_told_elsewhere(node: dict[str, Any]) -> bool:
    """Return whether a default adds nothing.

    It is None, or a table whose keys have their own defaults.
    """
    default = node.get("default", ...)
    return default is None or ("$ref" in node and isinstance(default, dict))


def _converted(key: str, value: Any) -> Any:  # noqa: ANN401 (JSON holds any type)
    if key == "properties":  # names of keys, not keywords of the schema
        return {name: _exemplified(_draft7(item)) for name, item in value.items()}
    return value if key in {"default", "examples", "enum", "const"} else _draft7(value)


def _exemplified(node: dict[str, Any]) -> dict[str, Any]:
    """Return a key's schema with examples.

    A switch gets the opposite of its default, a choice all its values.
    """
    if "description" in node and "examples" not in node:
        shown = node.get("enum") or [not node.get("default", False)]
        node = dict(sorted({**node, "examples": shown}.items(), key=_place))
    return node


def _never_null(node: dict[str, Any]) -> dict[str, Any]:
    members = [member for member in node["anyOf"] if member != _NULL]
    rest = {key: value for key, value in node.items() if key != "anyOf"}
    return {**members[0], **rest} if len(members) == 1 else {"anyOf": members, **rest}
