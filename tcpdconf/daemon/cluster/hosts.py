"""Reads the leases of the daemons that share an engine."""

import json
from collections.abc import Mapping
from typing import Annotated, Final, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from tcpdconf.daemon.cluster import scripts
from tcpdconf.daemon.messages.cluster import HostStatus, Id, Name

MOST: Final = 200  # leases that are read


class Description(BaseModel):
    """Describes a daemon: its host's name and random id, the random id of its supervisor, and what it holds.

    `connections` is their number when the lease was renewed.
    """

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)
    name: Name
    host: Id
    daemon: Id
    connections: Annotated[int, Field(ge=0, lt=1 << 64)] = 0

    def written(self) -> str:
        """Return it as JSON."""
        return json.dumps(self.model_dump(), separators=(",", ":"))


class Lease(NamedTuple):
    """Holds one lease: `ends` in milliseconds on the engine's clock."""

    ends: int
    about: Description


_LIVES: Final = TypeAdapter[str](Id)


def read(reply: object) -> tuple[int, dict[str, Lease]] | None:
    """Return the engine's time in milliseconds and the leases by life, or None if it is no such answer.

    Other hosts have written the leases. One that is malformed is left out.
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


def statuses(
    leases: Mapping[str, Lease], now: int, own: str, length: float = scripts.LEASE
) -> tuple[HostStatus, ...]:
    """Return the daemons, this one first; `now` is the engine's time, `own` this daemon's life.

    `length` is that of a lease, in seconds.
    """
    order = sorted(leases, key=lambda life: (life != own, leases[life].about.name, life))
    found = []
    for life in order:
        ends, about = leases[life]
        renewed = max(0.0, (now - ends) / 1000 + length)
        age, alive = min(renewed, 1e9), ends > now
        found.append(HostStatus(about.name, about.host, age, alive, life == own, about.connections))
    return tuple(found)
