"""Reads the presets, DNS lists that are known by name, from the data file of this package."""

import functools
import tomllib
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType
from typing import Any

from pydantic_core import core_schema

from tcpdconf.config.model import fields, values
from tcpdconf.config.near import near


@functools.cache
def known() -> Mapping[str, dict[str, Any]]:
    """Return the tables of presets.toml by the name of the preset."""
    text = resources.files(__package__).joinpath("presets.toml").read_text(encoding="utf-8")
    return MappingProxyType(tomllib.loads(text))


def allowing() -> list[str]:
    """Return the names of the presets that are allow lists."""
    return [name for name, preset in known().items() if preset["settings"].get("action") == "allow"]


def expanded(written: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a DNS list, completed from its preset; an unknown preset adds none.

    A key of the list replaces the preset's key, and with it the preset's keys that depend on that key.
    """
    name = written.get("preset")
    preset = known().get(name) if isinstance(name, str) else None
    if preset is None:
        return dict(written)
    settings = dict(preset["settings"])
    if written.get("zone_file") is not None:
        del settings["zone"]
    if written.get("action") == "allow":
        settings.pop("message", None)
    return {**settings, **written}


def needs_key(name: str) -> bool:
    """Return whether the zone of a preset begins with the customer's key."""
    return bool(known()[name].get("needs_key", False))


def by_key(name: str) -> str | None:
    """Return the name of the preset for the same list with a customer's key, or None."""
    return next((other for other in known() if other.startswith(f"{name}-") and needs_key(other)), None)


class Preset:
    """Annotates a string that must be the name of a preset."""

    def __get_pydantic_core_schema__(self, _source: object, _handler: object) -> core_schema.CoreSchema:
        """Return the schema of the validator."""
        return core_schema.no_info_plain_validator_function(_name)

    def __get_pydantic_json_schema__(self, _schema: object, _handler: object) -> dict[str, Any]:
        """Return the JSON schema, which editors use."""
        return {"type": "string", "enum": list(known())}


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise fields.wrong(f"must be the name of a preset, not {values.described(value)}", code="wrong-type")
    if value not in known():
        meant = near(value.lower(), known())
        hint = f'did you mean "{meant}"?' if meant else "known presets: " + ", ".join(known())
        text = f"there is no preset {values.shown(value)}"
        raise fields.wrong(
            text, code="unknown-preset", hint=hint, meant=None if meant is None else f'"{meant}"'
        )
    return value
