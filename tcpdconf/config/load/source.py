"""Holds one configuration file as it was read: its text, its data, and where its keys are."""

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
    """Holds the syntax errors of a file and the rest of its data; data is None if nothing can be read."""

    told: list[problems.Problem] = field(default_factory=list)
    data: dict[str, Any] | None = None
    text: str = ""  # the text that was parsed instead, with the same line numbers
    lost: list[str] = field(default_factory=list)  # statements that could not be read
    touched: dict[int, int] = field(default_factory=dict)  # repaired lines, from 1 -> index of the problem


@dataclass(frozen=True)
class SourceFile:
    """Holds one file: its path as messages show it, its text (lines end in LF), and its data."""

    path: str
    text: str = field(repr=False)
    data: dict[str, Any] = field(repr=False)
    # set if the text has syntax errors
    recovered: Recovered | None = field(default=None, repr=False, compare=False)

    @cached_property
    def places(self) -> positions.Positions:
        """Return the positions of the keys."""
        return positions.Positions(self.text)

    @property
    def is_partial(self) -> bool:
        """True if a part of the file could not be read."""
        return self.recovered is not None and bool(self.recovered.lost)

    def span(self, key: positions.Key, spot: Spot = "value") -> problems.Span | None:
        """Return the place of a key or of its value.

        For a key that is not written: that of the nearest table around it.
        """
        exact = self.places.get(key)
        place = exact or self.places.nearest(key)
        if place is None:
            return None
        return place.key if exact and spot == "key" else place.value

    def written(self, key: positions.Key) -> str:
        """Return the text of a value that is written here, as far as it is on its first line."""
        place = self.places.get(key)
        if place is None:
            return ""
        return self.places.line(place.value.line)[place.value.column - 1 :][: place.value.length]

    def replacement(self, key: positions.Key, spot: Spot, text: str) -> tuple[problems.Edit, ...]:
        """Return the edits that replace a value, or a key wherever it is written here."""
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
        """Return a problem at a place of this file; None means the whole file."""
        if span is None:
            return problems.Problem(self.path, 0, 0, key, text, code, severity, hint)
        line = self.places.line(span.line)
        return problems.Problem(
            self.path, span.line, span.column, key, text, code, severity, hint, line, span.length, edits
        )


def parsed(text: str) -> dict[str, Any]:
    """Parse a TOML text.

    Raises:
        ValueError: it is not TOML, or a key has so many parts that tomllib would take minutes: its time grows
            with their square.
        RecursionError: the text is nested too deeply.
    """
    if any(line.count(".") >= _PARTS for line in text.split("\n")) and _LONG_KEY.search(text):
        raise ValueError(f"a key with more than {_PARTS} parts")
    return tomllib.loads(text)
