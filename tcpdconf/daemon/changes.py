"""What a new configuration changes, service by service. Pure: nothing is opened, nobody is told."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from tcpdconf.config import dnstables, model, problems, render

_MOST: Final = 20  # details of one service that are told


class Changes(NamedTuple):
    """Names of services; those `changed` with what is different, for people (`limits.max_per_ip 4 -> 8`)."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: dict[str, tuple[str, ...]]

    def names(self) -> list[str]:
        """All services that are not what they were."""
        return sorted({*self.added, *self.removed, *self.changed})


def between(old: model.Config, new: model.Config) -> Changes:
    """The changes that lead from one configuration to another."""
    before, after = old.enabled(), new.enabled()
    changed = {}
    for name in before.keys() & after.keys():
        parts = part(old, name), part(new, name)
        if parts[0] != parts[1]:
            changed[name] = tuple(_details(name, *parts))
    return Changes(
        tuple(name for name in after if name not in before),
        tuple(name for name in before if name not in after),
        changed,
    )


def part(config: model.Config, name: str) -> model.Config:
    """What of a configuration concerns one service: what its worker has to know."""
    service = config.services[name]
    asks = service.lookup_names or service.dns_lists
    chains = {item: config.dns_chains[item] for item in service.dns_lists if isinstance(item, str)}
    return model.Config.model_construct(
        services={name: service},
        dns=config.dns if asks else dnstables.Dns(),
        dns_chains=chains,
        daemon=model.Daemon(log_level=config.daemon.log_level),
    )


def _details(name: str, old: model.Config, new: model.Config) -> Iterator[str]:
    """One line for each value that is different; a secret zone is different without being shown."""
    before, after = _values(name, old), _values(name, new)
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    for key in keys[:_MOST]:
        if key not in before:
            yield f"{key} = {after[key]}"
        elif key not in after:
            yield f"{key} removed"
        else:
            yield f"{key} {before[key]} -> {after[key]}"
    if len(keys) > _MOST:
        yield f"and {len(keys) - _MOST} more"
    if not keys:
        yield "dns_lists"


def _values(name: str, config: model.Config) -> dict[str, str]:
    """Each value below the service, and beside it what else concerns it, as TOML by dotted key."""
    data = render.data(config)
    found: dict[str, str] = {}
    for key in render.leaves(data):
        value: Any = data
        for step in key:
            value = value[step]
        own = key[:2] == ("services", name)
        found[problems.dotted(key[2:] if own else key)] = render.literal(value)
    return found
