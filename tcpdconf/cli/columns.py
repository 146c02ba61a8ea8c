"""Formats tables for people: a header, and columns as wide as their cells need. Pure."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from tcpdconf.config import printable

RED: Final = "1;31"  # ECMA-48, SGR
YELLOW: Final = "1;33"
BOLD: Final = "1"
_GAP: Final = "  "
_BOUND: Final = "\xa0"  # a space that does not end a line; cells have none, since it is not printable
_WORD: Final = 30  # characters of a word that is kept whole at the cost of other columns


Text = str | list[str]
"""Holds the text of a cell, or a list of items, each of which is kept in one line."""


class Painted(NamedTuple):
    """Holds the text of a cell and its colour, which shows only on a terminal."""

    text: Text
    colour: str


Cell = Text | Painted


class _Shown(NamedTuple):
    """Holds a cell whose text is printable."""

    text: str
    colour: str


def table(
    header: Sequence[str], rows: Iterable[Sequence[Cell]], *, width: int | None = None, colour: bool = False
) -> str:
    """Return the table as text; "" if there are no rows.

    The header may be empty. No line is longer than `width`, if there is one: the widest columns become
    narrower, and their cells have several lines.
    """
    shown = [[_shown(cell) for cell in row] for row in rows]
    if not shown:
        return ""
    if header:
        shown.insert(0, [_Shown(text, BOLD) for text in header])
    texts = [[cell.text for cell in column] for column in zip(*shown, strict=True)]
    widths = _widths(texts, None if width is None else width - len(_GAP) * (len(texts) - 1))
    return "".join(f"{line}\n" for row in shown for line in _lines(row, widths, colour=colour))


def _shown(cell: Cell) -> _Shown:
    text, colour = cell if isinstance(cell, Painted) else (cell, "")
    if isinstance(text, list):
        return _Shown(
            ", ".join(printable.replaced(item).replace(" ", _BOUND) for item in text) or "-", colour
        )
    return _Shown(printable.replaced(text), colour)


def _widths(columns: Sequence[Sequence[str]], most: int | None) -> list[int]:
    """Return the width of each column; words that are not very long are broken only if nothing else helps."""
    widths = [max(map(len, column)) for column in columns]
    if most is None:
        return widths
    words = [max(len(word) for text in column for word in text.split(" ")) for column in columns]
    for least in ([max(1, min(_WORD, longest)) for longest in words], [1] * len(widths)):
        while sum(widths) > most:
            widest = max(range(len(widths)), key=lambda at: widths[at] if widths[at] > least[at] else 0)
            if widths[widest] <= least[widest]:
                break
            widths[widest] -= 1
    return widths


def _lines(row: Sequence[_Shown], widths: Sequence[int], *, colour: bool) -> Iterator[str]:
    parts = [_wrapped(cell.text, width) for cell, width in zip(row, widths, strict=True)]
    for at in range(max(map(len, parts))):
        line = ""
        for cell, part, width in zip(row, parts, widths, strict=True):
            text = part[at] if at < len(part) else ""
            if text and colour and cell.colour:
                line += f"\x1b[{cell.colour}m{text}\x1b[0m"
            else:
                line += text
            line += " " * (width - len(text)) + _GAP
        yield line.rstrip().replace(_BOUND, " ")


def _wrapped(text: str, width: int) -> list[str]:
    if len(text) <= width:
        return [text]
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    return [line[at : at + width] for line in lines for at in range(0, len(line), width)] or [""]
