"""Defines the settings of a worker that only a new process can change, and applies them.

Programs inherit all of them. Changes that only root may make come before the change of the user.
"""

import errno
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from tcpdconf.config import host
from tcpdconf.config.model.service import Service
from tcpdconf.daemon.messages.assignment import Failure
from tcpdconf.daemon.process import privileges

_NICE_DROP_IN: Final = "a drop-in for the unit gives it: share/tcpdconf/systemd/nice.conf"


class MissingRight(NamedTuple):
    """Names a right that the daemon lacks, and how to give it."""

    text: str
    hint: str


NO_CALL: Final = MissingRight(
    "needs the system call setpriority, which SystemCallFilter= of the unit forbids", _NICE_DROP_IN
)
NO_SYS_NICE: Final = MissingRight("needs CAP_SYS_NICE", _NICE_DROP_IN)


def no_sys_resource(value: int) -> MissingRight:
    """Return the right that is needed to set an OOM score below the daemon's."""
    hint = f"write OOMScoreAdjust={value} in a drop-in for the unit: services may have it, and any above it"
    return MissingRight("needs CAP_SYS_RESOURCE, because the daemon has a higher value", hint)


class ProcessSettings(NamedTuple):
    """Holds these settings; with None, a process keeps the supervisor's value."""

    identity: host.Identity
    directory: str
    umask: int | None
    nice: int | None = None
    oom_score_adjust: int | None = None
    no_new_privileges: bool = False


def of(service: Service) -> ProcessSettings:
    """Return the settings of a service's worker.

    Raises:
        UnknownNameError: its user or one of its groups does not exist.
    """
    return ProcessSettings(
        host.identity(service),
        service.directory,
        service.umask,
        service.nice,
        service.oom_score_adjust,
        service.no_new_privileges,
    )


def apply(settings: ProcessSettings) -> list[Failure]:
    """Apply the settings to this process; return the failures, which leave it without the setting.

    The worker itself enters the directory and sets the umask, since the drop-in does neither.

    Raises:
        OSError: the kernel refuses the identity.
    """
    failures = list(_scheduled(settings))
    privileges.become(settings.identity)
    if settings.no_new_privileges:
        privileges.forbid_new()
    return failures


def _scheduled(settings: ProcessSettings) -> Iterator[Failure]:
    """Set nice value and OOM score; yield a failure for each that the kernel refuses."""
    nice, score = settings.nice, settings.oom_score_adjust
    if nice is not None:
        # the unit has SystemCallErrorNumber=EPERM
        missing = {errno.EACCES: NO_SYS_NICE, errno.EPERM: NO_CALL}
        yield from _tried("nice", lambda: privileges.set_nice(nice), missing)
    if score is not None:
        missing = {errno.EACCES: no_sys_resource(score)}
        yield from _tried("oom_score_adjust", lambda: privileges.set_oom_score_adjust(score), missing)


def _tried(key: str, change: Callable[[], None], missing: Mapping[int, MissingRight]) -> Iterator[Failure]:
    """Change a setting, or yield the failure; `missing` maps error numbers to the right that is needed."""
    try:
        change()
    except OSError as error:
        right = missing.get(error.errno or 0)
        if right is None:
            yield Failure((key,), f"cannot be set: {error.strerror}")
        else:
            yield Failure((key,), right.text, code="needs-capability", hint=right.hint)
