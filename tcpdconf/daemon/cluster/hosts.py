"""Reads and holds the leases of the daemons that share an engine."""

import json
from typing import Annotated, Final, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from tcpdconf.daemon.cluster import scripts
from tcpdconf.daemon.messages.cluster import HostStatus, Id, Name
from tcpdconf.daemon.process import loop

MOST: Final = 200  # most leases that are read


class Description(BaseModel):
    """Describes a daemon: the name and the random id of its host, and the random id of its supervisor.

    `connections` is the number of its connections when the lease was renewed.
    """

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)
    name: Name
    host: Id
    daemon: Id
    connections: Annotated[int, Field(ge=0, lt=1 << 64)] = 0

    def written(self) -> str:
        """Return the description as JSON text."""
        return json.dumps(self.model_dump(), separators=(",", ":"))


class Lease(NamedTuple):
    """Holds one lease; `ends` is in milliseconds on the engine's clock."""

    ends: int
    about: Description


_LIVES: Final = TypeAdapter[str](Id)


class Leases:
    """Holds the leases as the engine told them last, by the life of their daemon.

    `own` is this daemon's life, and `length` that of a lease, in seconds.
    """

    def __init__(self, own: str, length: float = scripts.LEASE) -> None:
        self._own = own
        self._length = length
        self._found: dict[str, Lease] = {}
        self._told = (0, 0.0)  # the engine's time of them in milliseconds, and that of the loop

    def take(self, reply: object) -> bool:
        """Take the leases from an answer of the engine; return False if it is no such answer."""
        found = _read(reply)
        if found is None:
            return False
        now, self._found = found
        self._told = now, loop.now()
        return True

    def engine_time(self) -> int:
        """Return the engine's time now, in milliseconds."""
        engine, at = self._told
        return engine + int((loop.now() - at) * 1000)

    def others(self, reply: object) -> dict[str, int] | None:
        """Return the counts of the other hosts by name, from an answer that has them by life.

        Ended leases count for nothing. None means that it is no such answer.
        """
        if not isinstance(reply, list):
            return None
        alive = {life: lease for life, lease in self._found.items() if lease.ends > self.engine_time()}
        found: dict[str, int] = {}
        for life, count in zip(reply[::2], reply[1::2], strict=False):
            lease = alive.get(life.decode("ascii", "replace")) if isinstance(life, bytes) else None
            if lease is None or life.decode() == self._own or not count.isdigit():
                continue
            found[lease.about.name] = found.get(lease.about.name, 0) + min(int(count), 1 << 40)
        return found

    def remove_earlier(self, mine: Description, *, alone: bool) -> list[str]:
        """Remove and return the lives of earlier processes of this daemon, or if `alone` of its host."""
        found = [
            life
            for life, lease in self._found.items()
            if life != self._own
            and lease.about.host == mine.host
            and (alone or lease.about.daemon == mine.daemon)
        ]
        for life in found:
            del self._found[life]
        return found

    def statuses(self) -> tuple[HostStatus, ...]:
        """Return the daemons as of the engine's last answer, this one first."""
        leases, now = self._found, self._told[0]
        found = []
        for life in sorted(leases, key=lambda life: (life != self._own, leases[life].about.name, life)):
            ends, about = leases[life]
            renewed = max(0.0, (now - ends) / 1000 + self._length)
            age, alive = min(renewed, 1e9), ends > now
            found.append(HostStatus(about.name, about.host, age, alive, life == self._own, about.connections))
        return tuple(found)


def _read(reply: object) -> tuple[int, dict[str, Lease]] | None:
    """Return the engine's time in milliseconds and the leases by life, or None for a malformed answer.

    Other hosts have written the leases, so a malformed lease is skipped.
    """
    if not (isinstance(reply, list) and len(reply) == 3 and isinstance(reply[2], list)):
        return None
    try:
        now = int(reply[1])
    except (TypeError, ValueError):
        return None
    found: dict[str, Lease] = {}
    fields = reply[2][: 2 * MOST]
    for life, value in zip(fields[::2], fields[1::2], strict=False):
        try:
            ends, _, about = value.split(b" ", 2)
            name = _LIVES.validate_python(life.decode("ascii"))
            found[name] = Lease(int(ends), Description.model_validate_json(about))
        except (AttributeError, ValueError, ValidationError):
            continue
    return now, found
