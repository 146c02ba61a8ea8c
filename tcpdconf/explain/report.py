"""Defines an explanation, a verdict and the steps that led to it, and shows it as text and as JSON.

`Recorder` collects the steps; everything else is a value. `decide` makes them with a service's own rights
from data that strangers may have written. So nothing here trusts their strings to be printable.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

from tcpdconf.config import positions, printable
from tcpdconf.config.load.loaded import Loaded
from tcpdconf.policy.access import locate

Kind = Literal[
    "listener",
    "proxy",
    "ban",
    "penalty",
    "access",
    "limit",
    "cluster",
    "name",
    "list",
    "early_talker",
    "drop",
    "program",
]
Verdict = Literal["admitted", "refused"]

_WIDEST: Final = 30  # columns of a subject; a longer one gets its own line
_NAMES: Final = {"per_ip": "per address", "per_network": "per network"}


class Step(NamedTuple):
    """Records one decision step.

    `subject` is the object of the step: a listener, source, limit, variable or DNS list. `effect` is one word
    for scripts, `text` a few for people. `place` is where it is configured. `sets` are the variables that it
    sets.
    """

    kind: Kind
    subject: str
    effect: str
    text: str
    place: locate.RulePlace | None = None
    sets: Mapping[str, str] = {}


class Recorder:
    """Records the steps of one connection to a service, each with the place of its setting in the files."""

    def __init__(self, loaded: Loaded, service: str) -> None:
        self.steps: list[Step] = []
        self._loaded = loaded
        self._service = service

    def step(
        self,
        kind: Kind,
        subject: str,
        effect: str,
        text: str,
        *,
        place: locate.RulePlace | None = None,
        sets: Mapping[str, str] | None = None,
    ) -> None:
        """Record a step."""
        self.steps.append(Step(kind, subject, effect, text, place, sets or {}))

    def place(self, *key: str | int) -> locate.RulePlace | None:
        """Return where a key of the service is written; None for a default."""
        return self.at(("services", self._service, *key))

    def at(self, key: positions.Key) -> locate.RulePlace | None:
        """Return where any key of the configuration is written; None for a default."""
        found = self._loaded.origin(key)
        return None if found is None else locate.RulePlace(*found, "")


class Explanation(NamedTuple):
    """Describes what would happen to a connection.

    A refusal has `reason` and `message`, the text that the client would read (None: nothing). An admission
    has `environment`, the complete one of the program, and perhaps `would_refuse`, the reason for which it
    would be refused if all limits and sources were enforced. A reason is one of the log's, or `listener` if
    no listener would accept.
    """

    service: str
    verdict: Verdict
    reason: str | None
    would_refuse: str | None
    message: str | None
    client: str
    local: str
    proxy: str | None
    steps: tuple[Step, ...]
    program: tuple[str, ...]
    environment: Mapping[str, str] | None


def data(explained: Explanation) -> dict[str, Any]:
    """Return an explanation as the object that docs/reference/explain.md describes."""
    steps = [
        {
            "step": step.kind,
            "subject": step.subject,
            "effect": step.effect,
            "text": step.text,
            "place": None if step.place is None else step.place._asdict(),
            "sets": dict(step.sets),
        }
        for step in explained.steps
    ]
    return {**explained._asdict(), "program": list(explained.program), "steps": steps}


def as_json(explained: Mapping[str, Any]) -> str:
    """Return one JSON object in ASCII.

    Bytes of a variable that are not UTF-8 are lone surrogates (PEP 383).
    """
    return json.dumps(explained, indent=2) + "\n"


def as_text(explained: Mapping[str, Any]) -> str:
    """Return the explanation as text for people."""
    lines = [_headline(explained), "", *_steps(explained["steps"]), ""]
    if explained["environment"] is None:
        said = explained["message"]
        lines.append(
            "The client reads nothing."
            if said is None
            else f"The client reads: {printable.escaped(said.strip())}"
        )
    else:
        lines.append(f"{' '.join(map(printable.escaped, explained['program']))} runs with:")
        lines += [f"  {_pair(name, value)}" for name, value in sorted(explained["environment"].items())]
    return "\n".join(lines) + "\n"


def _headline(explained: Mapping[str, Any]) -> str:
    by = f" by way of {explained['proxy']}" if explained["proxy"] else ""
    verdict = explained["verdict"]
    if explained["reason"] is not None:
        verdict += f" ({_NAMES.get(explained['reason'], explained['reason'])})"
    if explained["would_refuse"] is not None:
        reason = explained["would_refuse"]
        verdict += f", would be refused if enforced ({_NAMES.get(reason, reason)})"
    ends = f"{explained['client']}{by} to {explained['local']}"
    return printable.escaped(f"{explained['service']}: {ends}: {verdict}")


def _steps(steps: list[dict[str, Any]]) -> Iterator[str]:
    kinds = max(len(step["step"]) for step in steps)
    short = [
        len(printable.escaped(step["subject"]))
        for step in steps
        if len(printable.escaped(step["subject"])) <= _WIDEST
    ]
    width = max(short, default=0)
    last = ""
    for step in steps:
        kind = "" if step["step"] == last else step["step"]
        last = step["step"]
        subject = printable.escaped(step["subject"])
        margin = " " * (kinds + width + 4)
        if len(subject) > width:
            yield f"{kind:<{kinds}}  {subject}"
            first = margin
        else:
            first = f"{kind:<{kinds}}  {subject:<{width}}  "
        yield (first + printable.escaped(step["text"]) + _where(step["place"])).rstrip()
        yield from (f"{margin}sets {_pair(name, value)}" for name, value in step["sets"].items())


def _where(place: Mapping[str, Any] | None) -> str:
    if place is None:
        return ""
    at = f"{place['path']}:{place['line']}" if place["line"] else f"{place['path']}, record {place['text']}"
    return f" ({printable.escaped(at)})"


def _pair(name: str, value: str) -> str:
    return printable.escaped(f"{name}={value}")
