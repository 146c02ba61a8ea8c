"""Draws the growth of cost: a panel for each metric and background load, a line for each server."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

import matplotlib as mpl
from matplotlib import axes, figure

from bench import figures


def draw(found: Sequence[figures.Figure], path: Path) -> None:
    """Write an SVG of the figures that have a background load."""
    curves: dict[tuple[str, str, str], list[figures.Figure]] = {}
    for each in found:
        if each.metric.beside:
            curves.setdefault((each.metric.beside, each.metric.name, each.metric.unit), []).append(each)
    if not curves:
        raise ValueError("nothing to draw: only the section growth has curves")
    rows = list(dict.fromkeys(beside for beside, *_ in curves))
    columns = list(dict.fromkeys(name for _, name, _ in curves))
    sheet = figure.Figure(figsize=(4 * len(columns), 3 * len(rows)), layout="constrained")
    panels = sheet.subplots(len(rows), len(columns), squeeze=False)
    for (beside, name, unit), points in curves.items():
        _panel(panels[rows.index(beside)][columns.index(name)], points, f"{name} ({unit})", beside)
    panels[0][0].legend()
    # Text stays text, and equal values give an identical file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tcpdconf"}):
        sheet.savefig(path, format="svg", metadata={"Date": None})


def _panel(panel: axes.Axes, points: Sequence[figures.Figure], title: str, beside: str) -> None:
    for server in points[0].values:
        at = [point.metric.at for point in points]
        middle = [median(point.values[server]) for point in points]
        low = [min(point.values[server]) for point in points]
        high = [max(point.values[server]) for point in points]
        (line,) = panel.plot(at, middle, marker="o", label=server)
        panel.fill_between(at, low, high, alpha=0.15, color=line.get_color())
    panel.set(title=title, xlabel=beside, xscale="log", ylim=(0, None))
