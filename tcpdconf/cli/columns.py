"""Formats tables for people: a header, and columns as wide as their cells need. Pure."""

from collections.abc import Iterable, Sequence

from tcpdconf.config import printable


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return the table as text; "" if there are no rows.

    The header may be empty.
    """
    shown = [[printable.replaced(cell) for cell in row] for row in rows]
    if not shown:
        return ""
    if header:
        shown.insert(0, list(header))
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in shown)
    return "".join(line.rstrip() + "\n" for line in lines)
