"""Writes pieces of HTML for the page: text, numbers, tables and drawings. Pure."""

import html
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from tcpdconf.config import printable
from tcpdconf.daemon.http import history
from tcpdconf.daemon.http.history import Sample

_WINDOW: Final = (history.SAMPLES - 1) * history.INTERVAL  # least seconds that a sparkline shows
_WIDTH, _HEIGHT = 120, 20  # of a sparkline, in SVG units


class Html(str):
    """Marks text that is HTML already."""

    __slots__ = ()


Cell = str | int


class Column(NamedTuple):
    """Describes a column of a table; its class is "n" for numbers, and "whole" for unbroken lines."""

    title: str
    kind: str = ""


def text(value: object) -> Html:
    """Return text as HTML, without control characters, which a worker may have reported."""
    return value if isinstance(value, Html) else Html(html.escape(printable.replaced(str(value))))


def element(tag: str, content: object, **attributes: str) -> Html:
    """Return an element; `class_` stands for its class."""
    written = "".join(f' {name.strip("_")}="{text(value)}"' for name, value in attributes.items())
    return Html(f"<{tag}{written}>{text(content)}</{tag}>")


def table(label: str, caption: object, columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> Html:
    """Return a table in a region that scrolls by itself; `label` is the id of its heading.

    The first cell of a row is its header.
    """
    head = "".join(f'<th scope="col"{_class(column)}>{text(column.title)}</th>' for column in columns)
    body = "\n".join(f"<tr>{''.join(map(_cell, columns, row, range(len(row))))}</tr>" for row in rows)
    return Html(
        f'<div class="scroll" role="region" aria-labelledby="{label}" tabindex="0"><table>\n'
        f"<caption><span>{text(caption)}</span></caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n"
        "</table></div>"
    )


def bar(used: int, of: int) -> Html:
    """Return a drawing of the used share; screen readers use the numbers beside it."""
    width = min(100, 100 * used // max(1, of)) or min(1, used)
    return Html(
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="{width}" height="8"/></svg>'
    )


def sparkline(samples: Sequence[Sample]) -> Html:
    """Return a drawing of the samples, its name in words, and the peak beside it.

    The right end is the last sample. The peak has the full height.
    """
    if len(samples) < 2:
        return Html("")
    counts = [each.connections for each in samples]
    last, peak = samples[-1].at, max(counts)
    scale = _WIDTH / max(_WINDOW, last - samples[0].at)
    points = " ".join(
        f"{_WIDTH - (last - at) * scale:.0f},{_HEIGHT - 1 - (_HEIGHT - 2) * count // max(1, peak)}"
        for at, count in _corners(samples)
    )
    least = f"{min(counts):,} to " if min(counts) < peak else ""
    name = f"{least}{peak:,} in {printable.duration(last - samples[0].at)}"
    return Html(
        f'<svg class="line" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{name}">'
        f'<polyline points="{points}"/></svg>{beside(f"{peak:,}")}'
    )


def beside(numbers: str) -> Html:
    """Return numbers beside a drawing, aligned as in a column."""
    return element("span", numbers, class_="of")


def _corners(samples: Sequence[Sample]) -> Iterable[Sample]:
    """Yield the samples without those in the middle of a level stretch."""
    for index, each in enumerate(samples):
        around = samples[max(0, index - 1) : index + 2]
        if len(around) < 3 or any(one.connections != each.connections for one in around):
            yield each


def _class(column: Column) -> str:
    return f' class="{column.kind}"' if column.kind else ""


def _cell(column: Column, value: Cell, index: int) -> str:
    shown = f"{value:,}" if isinstance(value, int) else text(value)
    if index == 0:
        return f'<th scope="row">{shown}</th>'
    if value == 0:
        return f'<td class="n zero">{shown}</td>'
    return f"<td{_class(column)}>{shown}</td>"
