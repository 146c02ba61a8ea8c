"""One configuration file as it was read: its text, what the TOML says, and where the keys stand."""

import re
import tomllib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

from tcpdconf.config import codes, positions, problems

Spot = Literal["key", "value"]

_PARTS: Final = 100  # of a key
_PART: Final = r"""(?>(?<![\w-])[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
_LONG_KEY: Final = re.compile(rf"{_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{_PARTS}}}")


@dataclass
class Recovered:
    """What is wrong with the syntax of a file, and what the rest says; data is None if nothing is known."""

    told: list[problems.Problem] = field(default_factory=list)
    data: dict[str, Any] | None = None
    text: str = ""  # that was parsed in its place, with the same lines
    lost: list[str] = field(default_factory=list)  # statements that nothing is known of
    touched: dict[int, int] = field(default_factory=dict)  # repaired lines, from 1: the number of the problem


@dataclass(frozen=True)
class SourceFile:
    """One file: its path as messages show it, its text (lines end in LF), and what the TOML holds."""

    path: str
    text: str = field(repr=False)
    data: dict[str, Any] = field(repr=False)
    # what was made of a text that has syntax errors
    recovered: Recovered | None = field(default=None, repr=False, compare=False)

    @cached_property
    def places(self) -> positions.Positions:
        """Where the keys stand."""
        return positions.Positions(self.text)

    @property
    def is_partial(self) -> bool:
        """Whether something stands in the file that could not be read."""
        return self.recovered is not None and bool(self.recovered.lost)

    def span(self, key: positions.Key, spot: Spot = "value") -> problems.Span | None:
        """The place of a key or its value; of the nearest table that is written when the key is not."""
        exact = self.places.get(key)
        place = exact or self.places.nearest(key)
        if place is None:
            return None
        return place.key if exact and spot == "key" else place.value

    def written(self, key: positions.Key) -> str:
        """The text of a value that is written here, as far as it stands on its first line."""
        place = self.places.get(key)
        if place is None:
            return ""
        return self.places.line(place.value.line)[place.value.column - 1 :][: place.value.length]

    def replacement(self, key: positions.Key, spot: Spot, text: str) -> tuple[problems.Edit, ...]:
        """The edits that write a text in place of a value, or of a key wherever it is written here."""
        place = self.places.get(key)
        if place is None:
            return ()
        if spot == "key":
            return tuple(
                problems.Edit(span.line, span.column, span.line, span.column + span.length, text)
                for span in self.places.mentions(key)
            )
        return (problems.Edit(place.value.line, place.value.column, *place.end, text),)

    def problem(
        self,
        span: problems.Span | None,
        key: str,
        text: str,
        code: codes.Code,
        *,
        severity: problems.Severity = "error",
        hint: str | None = None,
        edits: tuple[problems.Edit, ...] = (),
    ) -> problems.Problem:
        """A problem at a place of this file; None is the whole file."""
        if span is None:
            return problems.Problem(self.path, 0, 0, key, text, code, severity, hint)
        line = self.places.line(span.line)
        return problems.Problem(
            self.path, span.line, span.column, key, text, code, severity, hint, line, span.length, edits
        )


def parsed(text: str) -> dict[str, Any]:
    """What a TOML text says.

    Raises:
        ValueError: it is none, or a key has so many parts that tomllib, whose time grows with their square,
            would take minutes.
        RecursionError: it is nested too deeply.
    """
    if any(line.count(".") >= _PARTS for line in text.split("\n")) and _LONG_KEY.search(text):
        raise ValueError(f"a key of more than {_PARTS} parts")
    return tomllib.loads(text)
