"""Assigns places in shared memory to workers that count together: those of one service, or of one group."""

import itertools
import os
from dataclasses import dataclass
from typing import Final

from tcpdconf.config import host
from tcpdconf.config.model.service import Config, Service
from tcpdconf.daemon.messages.assignment import Group
from tcpdconf.daemon.shared.memory import NoPlaceError, SharedMemory
from tcpdconf.policy.shared_limits import shapes

Key = tuple[str, str]
_UNKNOWN: Final = -1  # no user has this number
GROUP_CHANGED: Final = "other services of its group have changed"
"""Says for people why a service is prepared again if `group_of` differs."""


class SharedCounts:
    """Holds the memory of each group, and of each service with several workers, while it is in use."""

    def __init__(self) -> None:
        self._memories: dict[Key, SharedMemory] = {}
        self._numbers = itertools.count(1)

    def number(self) -> int:
        """Return a number for a service; no service gets the same number again."""
        return next(self._numbers)

    def memory(self, key: Key) -> SharedMemory:
        """Return the memory with this key, which is created if it is missing.

        Raises:
            OSError: no descriptor is available.
        """
        found = self._memories.get(key)
        if found is None:
            found = self._memories[key] = SharedMemory()
        return found

    def tidy(self, key: Key) -> None:
        """Close the memory with this key if no worker has a place there."""
        found = self._memories.get(key)
        if found is not None and not found.places:
            del self._memories[key]
            found.close()


@dataclass(frozen=True, slots=True)
class Share:
    """Holds the means to publish counts: a memory, the worker's place there, and the service's eventfd."""

    counts: SharedCounts
    key: Key
    place: int
    wake: int

    @property
    def fd(self) -> int:
        """Return the descriptor of the memory."""
        return self.counts.memory(self.key).fd

    def leave(self) -> None:
        """Clear the place, which removes its counts from the sums."""
        self.counts.memory(self.key).remove(self.place)
        self.counts.tidy(self.key)


class ServiceShares:
    """Makes the shares of one service's workers."""

    def __init__(self, name: str, counts: SharedCounts) -> None:
        self._name = name
        self._counts = counts
        self._number = counts.number()
        self._wake = -1

    def of(self, service: Service, present: Share | None, *, brokered: bool = False) -> Share | None:
        """Return the share of a worker with these settings, or None if it counts alone.

        It is the `present` (current) share as long as the settings allow: workers that count together do so
        until the service ends, even if only one is left. With `brokered` only the service's own workers count
        together.

        Raises:
            NoPlaceError: too many workers are in the group.
            OSError: no descriptor is available.
        """
        own = ("service", self._name)
        if service.limits.group is not None and not brokered:
            key = ("group", service.limits.group)
        elif service.workers > 1 or (present is not None and present.key == own):
            key = own
        else:
            return None
        if present is not None and present.key == key:
            return present
        if self._wake < 0:
            self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        memory = self._counts.memory(key)
        try:
            return Share(self._counts, key, memory.add(self._number), self._wake)
        except NoPlaceError:
            self._counts.tidy(key)
            raise

    def close(self) -> None:
        """Close the eventfd, once no worker is left."""
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1


def group_of(config: Config, name: str) -> Group:
    """Return the group of a service."""
    group = config.services[name].limits.group
    if group is None:
        return Group()
    members = {other: each for other, each in config.enabled().items() if each.limits.group == group}
    others = [each for other, each in members.items() if other != name]
    found = frozenset(shape for each in others for shape in shapes(each.limits))
    users = {_user(each) for each in (config.services[name], *others)} - {_UNKNOWN}
    return Group(found, brokered=len(users) > 1)


def _user(service: Service) -> int | None:
    try:
        return host.identity(service).uid
    except host.UnknownNameError:
        return _UNKNOWN  # reported as a problem of its own
