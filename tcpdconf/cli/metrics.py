"""Formats the daemon's status for `tcpdconf status --format prometheus`. Pure.

The output is Prometheus's text format, version 0.0.4, for node_exporter's textfile collector or any other
scraper of files.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from tcpdconf.config import printable

_NO_CLASS: Final = frozenset({"state", "why", "asked"})  # of what is said of a list or of names


class _Family(NamedTuple):
    """Describes one metric: its name, its type and its help text."""

    name: str
    kind: str
    text: str


_CONNECTIONS: Final = _Family("tcpdconf_connections", "gauge", "Slots taken.")
_MOST: Final = _Family("tcpdconf_max_connections", "gauge", "Slots that there are.")
_ACCEPTED: Final = _Family("tcpdconf_accepted_total", "counter", "Connections that got a program.")
_REFUSED: Final = _Family("tcpdconf_refused_total", "counter", "Connections that were refused, by reason.")
_WORKER: Final = _Family("tcpdconf_worker_up", "gauge", "Whether the service has a worker.")
_LIST: Final = _Family("tcpdconf_dns_list_up", "gauge", "Whether a DNS list is asked at present.")
_ANSWERS: Final = _Family("tcpdconf_dns_list_answers_total", "counter", "Answers of a DNS list, by class.")
_NAMES: Final = _Family("tcpdconf_names_up", "gauge", "Whether name servers are asked for names at present.")
_NAMED: Final = _Family("tcpdconf_names_answers_total", "counter", "Answers about names, by class.")
_LOADED: Final = _Family(
    "tcpdconf_config_loaded_timestamp_seconds", "gauge", "When the configuration was taken on."
)
_RELOADED: Final = _Family("tcpdconf_last_reload_timestamp_seconds", "gauge", "When it was tried last.")
_OK: Final = _Family("tcpdconf_last_reload_success", "gauge", "Whether that one was taken on.")
_INFO: Final = _Family("tcpdconf_info", "gauge", "The version.")

_Sample = tuple[_Family, dict[str, str], float]


def exposition(answer: Mapping[str, Any]) -> str:
    """Return the metrics of one answer to `status`."""
    families: dict[_Family, list[str]] = {}
    for family, labels, value in _samples(answer):
        families.setdefault(family, []).append(f"{family.name}{_labels(labels)} {value:.17g}\n")
    return "".join(
        f"# HELP {family.name} {family.text}\n# TYPE {family.name} {family.kind}\n{''.join(lines)}"
        for family, lines in families.items()
    )


def _samples(answer: Mapping[str, Any]) -> Iterator[_Sample]:
    yield _INFO, {"version": answer["version"]}, 1
    yield _LOADED, {}, answer["config"]["loaded_at"]
    if answer["last_reload"] is not None:
        yield _RELOADED, {}, answer["last_reload"]["at"]
        yield _OK, {}, answer["last_reload"]["ok"]
    for name, service in answer["services"].items():
        yield from _service({"service": name}, service)


def _service(labels: dict[str, str], service: Mapping[str, Any]) -> Iterator[_Sample]:
    yield _WORKER, labels, service["pid"] is not None
    yield _CONNECTIONS, labels, service["connections"]
    yield _MOST, labels, service["max_connections"]
    yield _ACCEPTED, labels, service["accepted"]
    for reason, count in service["refused"].items():
        yield _REFUSED, labels | {"reason": reason}, count
    for zone, each in service["dns_lists"].items():
        yield _LIST, labels | {"zone": zone}, each["state"] == "up"
        for which in sorted(each.keys() - _NO_CLASS):
            yield _ANSWERS, labels | {"zone": zone, "class": which}, each[which]
    names = service.get("names")
    if names is not None:
        yield _NAMES, labels, names["state"] == "up"
        for which in sorted(names.keys() - _NO_CLASS):
            yield _NAMED, labels | {"class": which}, names[which]


def _labels(labels: Mapping[str, str]) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _escaped(value: str) -> str:
    value = printable.replaced(value, but="\n")  # what a worker says of its lists drives no terminal
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
