"""Compares the resources that services may need at their limits with those that kernel and systemd allow.

Each program and each worker is a process, and a worker's thread counts as one. A running program costs
neither the supervisor nor its worker a descriptor. A worker has one for each connection that waits for DNS or
for a PROXY header.
"""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from tcpdconf.config import problems
from tcpdconf.config.load.loaded import Loaded
from tcpdconf.config.model import tables
from tcpdconf.config.model.service import Service
from tcpdconf.daemon.control import runtimedir
from tcpdconf.daemon.control.client import ControlConnection, ControlError

_OWN_TASKS: Final = 4  # the supervisor, the watcher and its threads
_WORKER_TASKS: Final = 3  # a worker, its thread that starts programs, and its thread that reads files
_WORKER_FDS: Final = 64  # descriptors of a worker for everything but connections
_UNIT: Final = "tcpdconf.service"
# the directories of units; an earlier one takes precedence (systemd.unit(5))
_UNITS: Final = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
_FDS_OF_SYSTEMD: Final = "1024"  # systemd-system.conf(5): a unit's default soft limit
_TASKS_OF_SYSTEMD: Final = "15%"  # the same: its default number of tasks


class Limit(NamedTuple):
    """Holds the maximum of a resource, and the name of the setting that limits it."""

    most: int
    origin: str


@dataclasses.dataclass(frozen=True)
class HostLimits:
    """Holds the limits of one process's open descriptors, and of all tasks (processes, threads) together."""

    descriptors: tuple[Limit, ...]
    tasks: tuple[Limit, ...]


def with_warnings(loaded: Loaded, limits: HostLimits) -> Loaded:
    """Return the configuration with a warning added for each limit that it may exceed."""
    return dataclasses.replace(loaded, warnings=(*loaded.warnings, *warnings(loaded, limits)))


def warnings(loaded: Loaded, limits: HostLimits) -> Iterator[problems.Problem]:
    """Yield a warning if the enabled services together may exceed the lowest limit of tasks.

    Also yield one for each service whose worker may exceed the lowest limit of descriptors.
    """
    enabled = loaded.config.enabled()
    tasks = min(limits.tasks, default=None)
    needed = _OWN_TASKS + sum(map(_tasks, enabled.values()))
    if tasks is not None and needed > tasks.most:
        largest = max(enabled, key=lambda name: enabled[name].limits.max_connections)
        programs = sum(each.limits.max_connections for each in enabled.values())
        text = (
            f"{programs} connections of all services, each with a program, and the daemon need at least"
            f" {needed} processes and threads, and {tasks.origin} is {tasks.most}"
        )
        by_kernel = tasks.origin.startswith("kernel.")
        yield _warning(loaded, largest, text, "sysctl(8)" if by_kernel else "TasksMax= in a unit of systemd")
    descriptors = min(limits.descriptors, default=None)
    for name, service in enabled.items():
        most = _descriptors(service)
        if descriptors is not None and most > descriptors.most:
            text = (
                f"connections that wait for DNS or a PROXY header may need {most} descriptors in the worker,"
                f" and {descriptors.origin} is {descriptors.most}"
            )
            yield _warning(loaded, name, text, "LimitNOFILE= in a unit of systemd")


def _warning(loaded: Loaded, name: str, text: str, raised_by: str) -> problems.Problem:
    key = ("services", name, "limits", "max_connections")
    hint = f"lower max_connections, or raise this limit ({raised_by})"
    return loaded.problem(key, text, "above-host-limit", "warning", hint=hint)


def _tasks(service: Service) -> int:
    """Return the number of a service's tasks when all slots are taken; its programs may start more."""
    logger = isinstance(service.stderr, tables.StderrLogger)
    return service.limits.max_connections + _WORKER_TASKS * service.workers + logger


def _descriptors(service: Service) -> int:
    """Return the number of descriptors of a service's worker when as many connections as possible wait."""
    waits = service.lookup_names or bool(service.dns_lists)
    headers = [each.haproxy.max_pending for each in service.listeners if each.haproxy is not None]
    return _WORKER_FDS + len(service.listeners) + sum(headers) + waits * service.limits.max_connections


def running() -> int | None:
    """Return the pid of the running daemon, or None if none answers."""
    try:
        with ControlConnection(runtimedir.find()) as connection:
            return connection.pid
    except (ControlError, OSError):
        return None


class Host:
    """Finds the limits of this host, from files below `root`, which is empty except in tests."""

    def __init__(self, root: str = "") -> None:
        self._root = root

    def expected(self) -> HostLimits:
        """Return the limits that the daemon has or will have, as far as they are known.

        They are those of the running daemon, else of the unit that would start it, else of this process.
        """
        pid = running()
        if pid is not None:
            with contextlib.suppress(OSError):
                return self.of_process(str(pid), f"the running daemon (pid {pid})")
        return self.of_unit() or self.own("this process")

    def own(self, whose: str) -> HostLimits:
        """Return the limits of this process; `whose` names it in messages. Without /proc there are none."""
        try:
            return self.of_process("self", whose)
        except OSError:  # perhaps no descriptor is left, which is no reason to refuse a configuration
            return HostLimits((), ())

    def of_process(self, pid: str, whose: str) -> HostLimits:
        """Return the limits of a process.

        Raises:
            OSError: there is no such process, or /proc cannot be read.
        """
        found = re.search(r"^Max open files +(\d+)", self._read(f"/proc/{pid}/limits"), re.MULTILINE)
        descriptors = (Limit(int(found[1]), f"the limit of open files of {whose}"),) if found else ()
        return HostLimits(descriptors, (*self._kernel(), *self._cgroups(pid)))

    def of_unit(self) -> HostLimits | None:
        """Return the limits that systemd sets by the unit, its drop-ins or defaults; None without a unit."""
        files = self.unit()
        if not files:
            return None
        manager = ["/etc/systemd/system.conf", *self._drop_ins("system.conf.d")]
        descriptors = self._setting(files, "LimitNOFILE") or self._setting(manager, "DefaultLimitNOFILE")
        tasks = self._setting(files, "TasksMax") or self._setting(manager, "DefaultTasksMax")
        by_default = f"the default of systemd for {_UNIT}"
        soft, _, _ = (descriptors or _Setting(_FDS_OF_SYSTEMD, "")).value.partition(":")
        found = [Limit(int(soft), _named("LimitNOFILE", descriptors, by_default))] if soft.isdigit() else []
        kernel = tuple(self._kernel())
        most = _number((tasks or _Setting(_TASKS_OF_SYSTEMD, "")).value, min(kernel, default=None))
        limited = () if most is None else (Limit(most, _named("TasksMax", tasks, by_default)),)
        return HostLimits(tuple(found), (*kernel, *limited, *self._cgroups("1")))

    def unit(self) -> list[str]:
        """Return the files of the unit that would start the daemon, in order; none without a unit."""
        paths = (f"{place}/{_UNIT}" for place in _UNITS)
        unit = next((path for path in paths if os.path.isfile(self._root + path)), None)
        return [] if unit is None else [unit, *self._drop_ins(f"system/{_UNIT}.d")]

    def is_of_the_unit(self, pid: int) -> bool:
        """Return whether systemd has started a process by the unit."""
        try:
            return f"/{_UNIT}" in self._read(f"/proc/{pid}/cgroup")
        except OSError:
            return False

    def assigned(self, files: Iterable[str], name: str) -> list[str]:
        """Return the values that systemd's files assign to a key, in order."""
        return [each.value for each in self._assignments(files, name)]

    def _kernel(self) -> Iterator[Limit]:
        for name in ("pid_max", "threads-max"):
            with contextlib.suppress(OSError, ValueError):
                yield Limit(int(self._read(f"/proc/sys/kernel/{name}")), f"kernel.{name}")

    def _cgroups(self, pid: str) -> Iterator[Limit]:
        """Yield the task limits of a process's cgroup and its ancestors, of version 1 and 2 (cgroups(7))."""
        with contextlib.suppress(OSError):
            mounts = list(_mounts(self._read("/proc/self/mountinfo")))
            for line in self._read(f"/proc/{pid}/cgroup").splitlines():
                number, controllers, path = line.split(":", 2)
                kind = "cgroup2" if number == "0" and not controllers else "cgroup"
                if kind == "cgroup2" or "pids" in controllers.split(","):
                    for mount in mounts:
                        if mount.kind == kind:
                            yield from self._levels(mount, path)

    def _levels(self, mount: "_Mount", path: str) -> Iterator[Limit]:
        inside = os.path.relpath(path, mount.root)
        parts = [] if inside.startswith("..") or inside == "." else inside.split("/")
        for depth in range(len(parts), -1, -1):
            file = "/".join([mount.point, *parts[:depth], "pids.max"])
            with contextlib.suppress(OSError, ValueError):
                yield Limit(int(self._read(file)), file)

    def _drop_ins(self, folder: str) -> list[str]:
        """Return drop-ins in order; of those with the same name, the one in the first directory counts."""
        found: dict[str, str] = {}
        for place in _UNITS:
            whole = os.path.join(os.path.dirname(place), folder)
            with contextlib.suppress(OSError):
                names = [name for name in os.listdir(self._root + whole) if name.endswith(".conf")]
                found = {**{name: f"{whole}/{name}" for name in names}, **found}
        return [found[name] for name in sorted(found)]

    def _setting(self, files: Iterable[str], name: str) -> "_Setting | None":
        """Return the last assignment in systemd's files; an empty one cancels those before it."""
        last = None
        for setting in self._assignments(files, name):
            last = setting if setting.value else None
        return last

    def _assignments(self, files: Iterable[str], name: str) -> Iterator["_Setting"]:
        for file in files:
            with contextlib.suppress(OSError):
                text = self._read(file)
                for value in re.findall(rf"^[ \t]*{name}[ \t]*=[ \t]*(.*?)[ \t]*$", text, re.MULTILINE):
                    yield _Setting(value, f"{name}= in {file}")

    def _read(self, path: str) -> str:
        with open(self._root + path, encoding="utf-8", errors="replace") as file:
            return file.read()


class _Setting(NamedTuple):
    """Holds the value of a systemd key, and where it is assigned."""

    value: str
    origin: str


class _Mount(NamedTuple):
    """Describes a mounted hierarchy of cgroups: its kind, the part that is mounted, and where."""

    kind: str
    root: str
    point: str


def _mounts(mountinfo: str) -> Iterator[_Mount]:
    """Yield the mounted hierarchies that may limit tasks (proc_pid_mountinfo(5))."""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2" or (kind == "cgroup" and "pids" in options.split(",")):
            _, _, _, root, point, *_ = before.split(" ")
            yield _Mount(kind, root, point)


def _named(name: str, setting: _Setting | None, by_default: str) -> str:
    return f"{name}, {by_default}," if setting is None else setting.origin


def _number(written: str, kernel: Limit | None) -> int | None:
    """Return a TasksMax= value as a number; a percentage is of the kernel's limit. None means no limit."""
    share = re.fullmatch(r"(\d+)%", written)
    if share and kernel is not None:
        return kernel.most * int(share[1]) // 100
    size = re.fullmatch(r"(\d+)([KMGT]?)", written)
    return int(size[1]) << 10 * " KMGT".index(size[2] or " ") if size else None
