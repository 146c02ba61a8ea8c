"""Finds settings of services that the daemon's unit forbids (systemd.exec(5)), before the daemon starts.

It reads the unit and its drop-ins, and judges what the unit says of the system call and the capabilities that
these settings need. Only the kernel knows for certain: the worker tries them (`supervisor.process_settings`).
"""

from collections.abc import Iterator, Sequence
from typing import Final

from tcpdconf.config import problems
from tcpdconf.config.load.loaded import Loaded
from tcpdconf.config.model.service import Service
from tcpdconf.daemon import capacity
from tcpdconf.daemon.supervisor import process_settings
from tcpdconf.daemon.supervisor.process_settings import MissingRight

_SETPRIORITY: Final = frozenset(
    {"setpriority", "@resources", "@system-service"}
)  # the groups that contain it


def warnings(loaded: Loaded, host: capacity.Host) -> Iterator[problems.Problem]:
    """Yield a warning for each setting that the unit forbids; none if the daemon runs without the unit."""
    files, pid = host.unit(), capacity.running()
    if not files or (pid is not None and not host.is_of_the_unit(pid)):
        return
    rights = _UnitRights(host, files)
    for name, service in loaded.config.enabled().items():
        for key, missing in rights.missing(service):
            where = ("services", name, key)
            yield loaded.problem(where, missing.text, "needs-capability", "warning", hint=missing.hint)


class _UnitRights:
    """Holds what the unit says of the rights that settings need."""

    def __init__(self, host: capacity.Host, files: Sequence[str]) -> None:
        bounding = host.assigned(files, "CapabilityBoundingSet")
        filters = host.assigned(files, "SystemCallFilter")
        last_empty = max((place for place, value in enumerate(filters) if not value), default=-1)
        self._may_call = _listed(filters[last_empty + 1 :], _SETPRIORITY)  # an empty one begins anew
        self._may_raise = _listed(bounding, {"CAP_SYS_NICE"})
        self._may_lower_score = _listed(bounding, {"CAP_SYS_RESOURCE"})
        self._nice = _number(host.assigned(files, "Nice"))
        self._score = _number(host.assigned(files, "OOMScoreAdjust"))

    def missing(self, service: Service) -> Iterator[tuple[str, MissingRight]]:
        """Yield the keys of a service that the unit forbids, each with the right that is missing."""
        nice, score = service.nice, service.oom_score_adjust
        if nice is not None and nice != self._nice:
            if not self._may_call:
                yield "nice", process_settings.NO_CALL
            elif nice < self._nice and not self._may_raise:
                yield "nice", process_settings.NO_SYS_NICE
        if score is not None and score < self._score and not self._may_lower_score:
            yield "oom_score_adjust", process_settings.no_sys_resource(score)


def _listed(values: Sequence[str], names: frozenset[str] | set[str]) -> bool:
    """Return whether a list in a unit allows one of these names; without any value it allows all.

    The first value decides whether the list allows or denies what it does not mention. "~" inverts a value.
    An empty one stands for nothing at all.
    """
    allowed = True
    for place, value in enumerate(values):
        inverted = value.startswith("~")
        if place == 0 or not value:
            allowed = inverted
        if not names.isdisjoint(word.partition(":")[0] for word in value.removeprefix("~").split()):
            allowed = not inverted
    return allowed


def _number(values: Sequence[str]) -> int:
    """Return the last number that is assigned, or 0."""
    try:
        return int(values[-1])
    except (IndexError, ValueError):
        return 0
