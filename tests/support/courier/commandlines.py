"""Translates couriertcpd's command lines for the tests of the translation."""

from typing import Any

import pytest

from tcpdconf.config.couriertcpd import parse

PROGRAM = ("25", "/bin/cat")


def service(*options: str, rest: tuple[str, ...] = PROGRAM) -> dict[str, Any]:
    """The exact service of a command line as TOML's types, what is default left out."""
    found = parse.parse([*options, *rest], exact=True).service
    assert found is not None
    return found.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def listeners(ports: str, *options: str) -> list[dict[str, Any]]:
    """The listeners of a port list."""
    found: list[dict[str, Any]] = service(*options, rest=(ports, "/bin/cat"))["listeners"]
    return found


def refusal(*words: str) -> str:
    """Why a command line is refused."""
    with pytest.raises(parse.CommandLineError) as error:
        parse.parse(words, exact=True)
    return str(error.value)


def kinds(*options: str) -> list[tuple[str, str]]:
    """The kind of each note on an exact translation, and what it is about."""
    return [note[:2] for note in parse.parse([*options, *PROGRAM], exact=True).notes]
