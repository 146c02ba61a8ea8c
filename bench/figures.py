"""Measures cases in rounds, each with all cases and servers in turn, and holds the results.

So a change of the host's speed affects all servers alike. A ratio is of values of the same round, and the
median of the ratios is compared with the target.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

SUBJECT: Final = "tcpdconf"
Better = Literal["less", "more"]


class Metric(NamedTuple):
    """Describes one line of the table.

    `targets` has the wanted ratio to each other server, or the wanted value under the subject's own name.
    `beside` names a background load and `at` is its size: the metrics with one name form a curve.
    A `difference` is what remains when one measurement is taken from another: chance can make it negative.
    """

    name: str
    unit: str
    better: Better
    targets: Mapping[str, float] = {}
    beside: str = ""
    at: int = 0
    difference: bool = False

    @property
    def title(self) -> str:
        """The name, with the background load."""
        return f"{self.name}, {self.at} {self.beside}" if self.beside else self.name


class Case(NamedTuple):
    """Groups metrics that are measured together; each server's function in `measure` returns their values."""

    metrics: tuple[Metric, ...]
    measure: Mapping[str, Callable[[], Sequence[float]]]


class Figure(NamedTuple):
    """Holds a metric and, by server, its value of each round."""

    metric: Metric
    values: dict[str, list[float]]

    def ratios(self, other: str) -> list[float]:
        """Return the subject's values divided by the other's, round by round."""
        return [own / theirs for own, theirs in zip(self.values[SUBJECT], self.values[other], strict=True)]

    def reached(self, server: str) -> float:
        """Return the value that is compared with the target."""
        return statistics.median(self.values[SUBJECT] if server == SUBJECT else self.ratios(server))

    def met(self, server: str) -> bool:
        """Return whether the target is met."""
        target, reached = self.metric.targets[server], self.reached(server)
        return reached <= target if self.metric.better == "less" else reached >= target

    def plain(self) -> dict[str, Any]:
        """Return the figure as JSON data."""
        others = [name for name in self.values if name != SUBJECT and SUBJECT in self.values]
        return {
            **self.metric._asdict(),
            "values": self.values,
            "medians": {name: statistics.median(values) for name, values in self.values.items()},
            "ratios": {name: self.ratios(name) for name in others},
            "met": {name: self.met(name) for name in self.metric.targets},
        }


def measure(cases: Sequence[Case], rounds: int) -> list[Figure]:
    """Measure all cases on all servers in turn, `rounds` times."""
    figures = [
        [Figure(metric, {name: [] for name in case.measure}) for metric in case.metrics] for case in cases
    ]
    for _ in range(rounds):
        for case, found in zip(cases, figures, strict=True):
            for name, once in case.measure.items():
                for figure, value in zip(found, once(), strict=True):
                    figure.values[name].append(value)
    return [figure for found in figures for figure in found]


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as a Markdown table: medians, the rounds' range, ratios, targets."""
    names = list(dict.fromkeys(name for figure in figures for name in figure.values))
    others = [name for name in names if name != SUBJECT]
    head = ["case", "unit", *names, *(f"ratio to {name}" for name in others), "target"]
    rows = [head, ["---"] * len(head)]
    for figure in figures:
        cells = [_spread(figure.values[name]) if name in figure.values else "" for name in names]
        ratios = [
            _spread(figure.ratios(name)) if {name, SUBJECT} <= figure.values.keys() else "" for name in others
        ]
        rows.append([figure.metric.title, figure.metric.unit, *cells, *ratios, _targets(figure)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _spread(values: Sequence[float]) -> str:
    return f"{_shown(statistics.median(values))} ({_shown(min(values))}..{_shown(max(values))})"


def _shown(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _targets(figure: Figure) -> str:
    sign = "<=" if figure.metric.better == "less" else ">="
    return ", ".join(
        f"{name} {sign} {target:g}: {'met' if figure.met(name) else 'NOT met'}".removeprefix(f"{SUBJECT} ")
        for name, target in figure.metric.targets.items()
    )
