"""Names the metrics of the daemon, and takes their values from its status. Pure.

`exposition` writes them, for /metrics and for `tcpdconf status --format prometheus`. The address of a client
is never a label: each would be a metric of its own.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from tcpdconf.config import printable

_NO_CLASS: Final = frozenset({"state", "why", "asked", "times"})  # not counters of answers


class Family(NamedTuple):
    """Describes one metric: its name, its type and its help text."""

    name: str
    kind: str
    text: str


def _gauge(name: str, text: str) -> Family:
    return Family(f"tcpdconf_{name}", "gauge", text)


def _counter(name: str, text: str) -> Family:
    return Family(f"tcpdconf_{name}_total", "counter", text)


_BUILD: Final = Family("tcpdconf_build_info", "gauge", "The version of tcpdconf, as a label; always 1.")
_RELOADS: Final = _counter("reloads", "Reloads by result; the start is one of them.")
_RELOADED: Final = _gauge("last_reload_timestamp_seconds", "Time of the last reload, rejected or not.")
_OK: Final = _gauge("config_last_reload_successful", "1 if the last reload succeeded, 0 if it was rejected.")
_OK_AT: Final = _gauge(
    "config_last_reload_success_timestamp_seconds", "Time of the last reload that succeeded."
)
_BANS: Final = _gauge("bans", "Bans of addresses and networks.")
_CPU: Final = Family(
    "process_cpu_seconds_total", "counter", "Processor time of the supervisor, and of each worker."
)
_RESIDENT: Final = Family("process_resident_memory_bytes", "gauge", "Resident memory of the same.")
_DESCRIPTORS: Final = Family("process_open_fds", "gauge", "Open descriptors of the same.")
_STARTED: Final = Family("process_start_time_seconds", "gauge", "Start of the same, as Unix time.")
_LOST: Final = _counter("log_lines_lost", "Log lines that standard error did not take, by process.")

_ENGINE: Final = _gauge("cluster_up", "1 if connections of all hosts are counted, 0 if only this host's.")
_HOSTS: Final = _gauge("cluster_hosts", "Daemons with a lease, this one among them.")
_ASKED: Final = _counter(
    "cluster_requests", "Connections for which the engine was asked, by result; unanswered: not in time."
)
_SHARED: Final = _gauge("cluster_connections", "Connections of this host that are told to the engine.")
_ENGINE_TIMES: Final = Family(
    "tcpdconf_cluster_answer_seconds",
    "histogram",
    "Times in which the engine answered, late answers as well.",
)
_CLUSTER_RESTARTS: Final = _counter("cluster_restarts", "Restarts of the cluster process.")

_WORKER: Final = _gauge("worker_up", "1 if the service has a worker, else 0.")
_WORKERS: Final = _gauge("workers", "Workers that accept connections, or will when they are ready.")
_ACCEPTS: Final = _gauge("service_accepts", "1 if the service accepts connections, else 0.")
_DRAINING: Final = _gauge(
    "service_draining", "1 if the service is to stop, though it may still accept, else 0."
)
_RESTARTS: Final = _counter("worker_restarts", "Exits of workers, and failed starts, that led to a restart.")
_CONNECTIONS: Final = _gauge("connections", "Slots in use.")
_MOST: Final = _gauge("max_connections", "Slots of the service (limits.max_connections).")
_WAITING: Final = _gauge("waiting", "Clients that wait for a slot, in the listeners' queues too.")
_HEADERS: Final = _gauge("awaited_headers", "Connections whose PROXY header is awaited; 10 s old at most.")
_ACCEPTED: Final = _counter("accepted", "Connections for which a program was started.")
_EXPIRED: Final = _counter("expired", "Programs that were ended because of max_duration.")
_EARLY: Final = _counter("early_talkers", "Clients that sent data before they were greeted.")
_REFUSED: Final = _counter("refused", "Refused connections, by reason; spawn: no program could be started.")
_WOULD_REFUSE: Final = _counter(
    "would_refuse",
    "Connections that were served, but would be refused if all limits and sources were enforced, by reason.",
)
_PENALTIES: Final = _counter("penalties", "Offences that were penalised.")
_ACTIVE: Final = _gauge("penalties_active", "Networks that are refused because of a penalty.")
_HISTOGRAMS: Final = {
    "connection": Family(
        "tcpdconf_connection_duration_seconds", "histogram", "Times for which programs have run."
    ),
    "start": Family(
        "tcpdconf_start_duration_seconds",
        "histogram",
        "Times from accept to the start of the program, with PROXY header and DNS.",
    ),
    "slot_wait": Family(
        "tcpdconf_slot_wait_seconds",
        "histogram",
        "Times for which connections waited for a slot, after their PROXY header.",
    ),
}

_LIST: Final = _gauge("dns_list_up", "1 if the DNS list is asked, 0 if it is suspended, paused or untested.")
_LIST_STATE: Final = _gauge("dns_list_state", "1 for the state that the DNS list is in, 0 for the others.")
_ANSWERS: Final = _counter("dns_list_answers", "Answers of a DNS list, by class.")
_LIST_TIMES: Final = Family(
    "tcpdconf_dns_list_answer_seconds", "histogram", "Times in which a DNS list answered, without timeouts."
)
_NAMES: Final = _gauge("names_up", "1 if name servers are asked for names, 0 during a pause.")
_NAMED: Final = _counter("names_answers", "Answers of name servers about names, by class.")

_OLD_INFO: Final = _gauge("info", "Deprecated: use tcpdconf_build_info.")
_OLD_OK: Final = _gauge("last_reload_success", "Deprecated: use tcpdconf_config_last_reload_successful.")
_OLD_LOADED: Final = _gauge(
    "config_loaded_timestamp_seconds",
    "Deprecated: use tcpdconf_config_last_reload_success_timestamp_seconds.",
)

_OPTIONAL: Final = {
    "accepts": _ACCEPTS,
    "draining": _DRAINING,
    "restarts": _RESTARTS,
    "early_talkers": _EARLY,
    "waiting": _WAITING,
    "awaited_headers": _HEADERS,
}  # by key of the status; an older daemon lacks them
_STATES: Final = ("up", "untested", "suspended", "paused")  # of a DNS list
_PROCESS: Final = {"cpu": _CPU, "resident": _RESIDENT, "descriptors": _DESCRIPTORS, "started": _STARTED}


class Histogram(NamedTuple):
    """Holds a histogram: for each bound, as text, the number of values up to it."""

    buckets: tuple[tuple[str, int], ...]
    total: float


_Sample = tuple[Family, dict[str, str], float | Histogram]


FAMILIES: Final = tuple(
    each for each in [*globals().values(), *_HISTOGRAMS.values()] if isinstance(each, Family)
)
"""Lists all metrics."""


def samples(answer: Mapping[str, Any]) -> Iterator[_Sample]:
    """Yield each sample of an answer to `status`: its metric, its labels, its value."""
    for family, labels, value in _samples(answer):
        # texts from a worker must not control a terminal
        yield family, {name: printable.replaced(text, but="\n") for name, text in labels.items()}, value


def _samples(answer: Mapping[str, Any]) -> Iterator[_Sample]:
    """Yield the samples of the daemon, then those of each service; an older daemon's answer has fewer."""
    last = answer["last_reload"]
    yield _BUILD, {"version": answer["version"]}, 1
    yield _OLD_INFO, {"version": answer["version"]}, 1
    yield _OLD_LOADED, {}, answer["config"]["loaded_at"]
    if answer["config"]["loaded_at"]:
        yield _OK_AT, {}, answer["config"]["loaded_at"]
    if last is not None:
        yield _RELOADED, {}, last["at"]
        yield _OK, {}, last["ok"]
        yield _OLD_OK, {}, last["ok"]
    for result, count in answer.get("reloads", {}).items():
        yield _RELOADS, {"result": result}, count
    if "bans" in answer:
        yield _BANS, {}, answer["bans"]
    if answer.get("cluster") is not None:
        yield from _cluster(answer["cluster"])
    yield from _process({"process": "supervisor", "service": ""}, answer.get("process"))
    for name, service in answer["services"].items():
        yield from _service({"service": name}, service)
        yield from _process({"process": "worker", "service": name}, service.get("process"))


def _cluster(cluster: Mapping[str, Any]) -> Iterator[_Sample]:
    yield _ENGINE, {}, cluster["state"] == "up"
    yield _CLUSTER_RESTARTS, {}, cluster["restarts"]
    yield _HOSTS, {}, sum(each["alive"] for each in cluster["hosts"])
    if "asked" in cluster:  # the process has reported
        for result in ("admitted", "refused", "unanswered"):
            yield _ASKED, {"result": result}, cluster[result]
        yield _SHARED, {}, cluster["connections"]
        yield _ENGINE_TIMES, {}, _histogram(cluster["times"])


def _process(labels: dict[str, str], used: Mapping[str, Any] | None) -> Iterator[_Sample]:
    if used is None:
        return
    for key, family in _PROCESS.items():
        yield family, labels, used[key]
    yield _LOST, labels, used["lost_lines"]


def _workers(labels: dict[str, str], service: Mapping[str, Any]) -> Iterator[_Sample]:
    yield _WORKER, labels, service["pid"] is not None
    if "pids" in service:  # an older daemon lacks them
        yield _WORKERS, labels, len(service["pids"])


def _service(labels: dict[str, str], service: Mapping[str, Any]) -> Iterator[_Sample]:
    yield from _workers(labels, service)
    for key, family in _OPTIONAL.items():
        if key in service:
            yield family, labels, service[key]
    yield _CONNECTIONS, labels, service["connections"]
    yield _MOST, labels, service["max_connections"]
    yield _ACCEPTED, labels, service["accepted"]
    yield _EXPIRED, labels, service.get("expired", 0)
    for reason, count in service["refused"].items():
        yield _REFUSED, labels | {"reason": reason}, count
    for reason, count in service.get("would_refuse", {}).items():
        yield _WOULD_REFUSE, labels | {"reason": reason}, count
    for zone, each in service["dns_lists"].items():
        yield from _list(labels | {"zone": zone}, each)
    names = service.get("names")
    if names is not None:
        yield _NAMES, labels, names["state"] == "up"
        for which in sorted(names.keys() - _NO_CLASS):
            yield _NAMED, labels | {"class": which}, names[which]
    penalties = service.get("penalties")
    if penalties is not None:
        yield _PENALTIES, labels, penalties["charged"]
        yield _ACTIVE, labels, penalties["active"]
    for name, found in service.get("histograms", {}).items():
        yield _HISTOGRAMS[name], labels, _histogram(found)


def _list(labels: dict[str, str], each: Mapping[str, Any]) -> Iterator[_Sample]:
    yield _LIST, labels, each["state"] == "up"
    for state in _STATES:
        yield _LIST_STATE, labels | {"state": state}, each["state"] == state
    for which in sorted(each.keys() - _NO_CLASS):
        yield _ANSWERS, labels | {"class": which}, each[which]
    if "times" in each:
        yield _LIST_TIMES, labels, _histogram(each["times"])


def _histogram(found: Mapping[str, Any]) -> Histogram:
    """Return a histogram with cumulative counts, as Prometheus expects."""
    bounds = [*(f"{bound:g}" for bound in found["bounds"]), "+Inf"]
    counts = itertools.accumulate(found["counts"])
    return Histogram(tuple(zip(bounds, counts, strict=True)), found["sum"])
