"""Compares two configurations, service by service. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from tcpdconf.config import problems, render
from tcpdconf.config.model.cluster import Cluster
from tcpdconf.config.model.dns import Dns
from tcpdconf.config.model.service import Config, Daemon
from tcpdconf.config.model.values import EngineUrl

_MOST: Final = 20  # details that are listed of one service


class Changes(NamedTuple):
    """Names the services that differ; `changed` has the details for people (`limits.max_per_ip 4 -> 8`).

    `daemon` has the details that concern all services.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: dict[str, tuple[str, ...]]
    daemon: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """Return the names of all services that differ, sorted."""
        return sorted({*self.added, *self.removed, *self.changed})


def between(old: Config, new: Config) -> Changes:
    """Return the changes that lead from one configuration to another."""
    before, after = old.enabled(), new.enabled()
    changed = {}
    for name in before.keys() & after.keys():
        parts = part(old, name), part(new, name)
        if parts[0] != parts[1]:
            changed[name] = tuple(_details(("services", name), *parts))
    return Changes(
        tuple(name for name in after if name not in before),
        tuple(name for name in before if name not in after),
        changed,
        tuple(_details(("daemon",), _of_the_daemon(old), _of_the_daemon(new))),
    )


def lines(found: Changes, services: Iterable[str], others: Mapping[str, Iterable[str]]) -> Iterator[str]:
    """Yield a line for each difference, by service in this order; `others` are further lines of a service."""
    for detail in found.daemon:
        yield f"[daemon]: {detail}"
    for name in services:
        if name in found.added:
            yield f"{name}: added"
            continue
        for detail in (*found.changed.get(name, ()), *others.get(name, ())):
            yield f"{name}: {detail}"
    for name in found.removed:
        yield f"{name}: removed"


def part(config: Config, name: str) -> Config:
    """Return the part of a configuration that concerns one service: all that its worker needs."""
    service = config.services[name]
    asks = service.lookup_names or service.dns_lists
    chains = {item: config.dns_chains[item] for item in service.dns_lists if isinstance(item, str)}
    daemon = Daemon(log_level=config.daemon.log_level, log_format=config.daemon.log_format)
    if service.max_duration is not None:
        daemon = daemon.model_copy(update={"stop_timeout": config.daemon.stop_timeout})
    return Config.model_construct(
        services={name: service},
        dns=config.dns if asks else Dns(),
        dns_chains=chains,
        daemon=daemon,
        cluster=_of_workers(config.cluster) if service.limits.scope == "cluster" else None,
    )


def _of_workers(cluster: Cluster | None) -> Cluster | None:
    """Return the settings of the cluster that workers need; they know neither its engine nor its files."""
    if cluster is None:
        return None
    nowhere = EngineUrl(False, None, 0, "/", 0)
    return Cluster.model_construct(url=nowhere, deadline=cluster.deadline, on_failure=cluster.on_failure)


def _of_the_daemon(config: Config) -> Config:
    """Return the part that concerns no single service; changes of the log are reported with each service."""
    plain = Daemon()
    daemon = config.daemon.model_copy(update={"log_level": plain.log_level, "log_format": plain.log_format})
    return Config.model_construct(services={}, daemon=daemon, cluster=config.cluster)


def _details(prefix: tuple[str, ...], old: Config, new: Config) -> Iterator[str]:
    """Yield a line for each value that differs, by its key below `prefix`.

    A secret zone that differs is not shown.
    """
    if old == new:
        return
    one, other = render.data(old), render.data(new)
    before, after = dict(render.differing(one, other)), dict(render.differing(other, one))
    keys = list({**before, **after})
    for key in keys[:_MOST]:
        shown = problems.dotted(key[len(prefix) :] if key[: len(prefix)] == prefix else key)
        if key not in before:
            yield f"{shown} = {render.literal(after[key])}"
        elif key not in after:
            yield f"{shown} removed"
        else:
            yield f"{shown} {render.literal(before[key])} -> {render.literal(after[key])}"
    if len(keys) > _MOST:
        yield f"and {len(keys) - _MOST} more"
    if not keys:
        yield "dns_lists"
