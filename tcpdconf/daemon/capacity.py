"""Compares what services may need at their limits with what the kernel and systemd let the daemon have.

A program is a process, and so is each worker; a worker's thread counts as one. Of descriptors neither the
supervisor nor a worker keeps one for a running program: a worker has one for each connection that waits for
answers of DNS or for a PROXY header.
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
_WORKER_TASKS: Final = 3  # a worker, its thread that starts programs, and the one that reads files
_WORKER_FDS: Final = 64  # of a worker, for all but connections
_UNIT: Final = "tcpdconf.service"
# the places of units, the first goes before the others (systemd.unit(5))
_UNITS: Final = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
_FDS_OF_SYSTEMD: Final = "1024"  # systemd-system.conf(5): the soft limit and
_TASKS_OF_SYSTEMD: Final = "15%"  # the number of tasks that a unit has if it says nothing


class Limit(NamedTuple):
    """The most that there may be of something, and what says so."""

    most: int
    origin: str


@dataclasses.dataclass(frozen=True)
class HostLimits:
    """Limits of the open descriptors of a process, and of the tasks (processes, threads) of all together."""

    descriptors: tuple[Limit, ...]
    tasks: tuple[Limit, ...]


def with_warnings(loaded: Loaded, limits: HostLimits) -> Loaded:
    """Return the configuration with a warning for each limit that it may exceed beside its others."""
    return dataclasses.replace(loaded, warnings=(*loaded.warnings, *warnings(loaded, limits)))


def warnings(loaded: Loaded, limits: HostLimits) -> Iterator[problems.Problem]:
    """Yield a warning for the lowest limit that the enabled services together, or one of them, may exceed."""
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
    """The processes and threads of a service when all its slots are taken; its programs may start more."""
    logger = isinstance(service.stderr, tables.StderrLogger)
    return service.limits.max_connections + _WORKER_TASKS + logger


def _descriptors(service: Service) -> int:
    """The descriptors of its worker when all connections wait for what they can wait for."""
    waits = service.lookup_names or bool(service.dns_lists)
    headers = [each.haproxy.max_pending for each in service.listeners if each.haproxy is not None]
    return _WORKER_FDS + len(service.listeners) + sum(headers) + waits * service.limits.max_connections


class Host:
    """The limits of this host; its files are looked for below `root`, which is empty but in tests."""

    def __init__(self, root: str = "") -> None:
        self._root = root

    def expected(self) -> HostLimits:
        """Return the limits that the daemon has or will have, as far as they are known.

        Those of the daemon that runs, else of the unit that would start it, else of this process.
        """
        with contextlib.suppress(ControlError, OSError):
            with ControlConnection(runtimedir.find()) as connection:
                pid = connection.pid
            return self.of_process(str(pid), f"the running daemon (pid {pid})")
        return self.of_unit() or self.own("this process")

    def own(self, whose: str) -> HostLimits:
        """Return the limits of this process; `whose` names it in messages. None if /proc cannot be read."""
        try:
            return self.of_process("self", whose)
        except OSError:  # perhaps no descriptor is left, which is no reason to refuse a configuration
            return HostLimits((), ())

    def of_process(self, pid: str, whose: str) -> HostLimits:
        """Return the limits of a process.

        Raises:
            OSError: there is no such process.
        """
        found = re.search(r"^Max open files +(\d+)", self._read(f"/proc/{pid}/limits"), re.MULTILINE)
        descriptors = (Limit(int(found[1]), f"the limit of open files of {whose}"),) if found else ()
        return HostLimits(descriptors, (*self._kernel(), *self._cgroups(pid)))

    def of_unit(self) -> HostLimits | None:
        """Return the limits that a unit of systemd sets, by itself, its drop-ins or by default."""
        unit = next((f"{place}/{_UNIT}" for place in _UNITS if self._is_there(f"{place}/{_UNIT}")), None)
        if unit is None:
            return None
        files = [unit, *self._drop_ins(f"system/{_UNIT}.d")]
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

    def _kernel(self) -> Iterator[Limit]:
        for name in ("pid_max", "threads-max"):
            with contextlib.suppress(OSError, ValueError):
                yield Limit(int(self._read(f"/proc/sys/kernel/{name}")), f"kernel.{name}")

    def _cgroups(self, pid: str) -> Iterator[Limit]:
        """Yield the limits of a process's cgroup and of those above it, of version 1 and 2 (cgroups(7))."""
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
        """Return drop-ins in their order; of the same name, that in the first place counts."""
        found: dict[str, str] = {}
        for place in _UNITS:
            whole = os.path.join(os.path.dirname(place), folder)
            with contextlib.suppress(OSError):
                names = [name for name in os.listdir(self._root + whole) if name.endswith(".conf")]
                found = {**{name: f"{whole}/{name}" for name in names}, **found}
        return [found[name] for name in sorted(found)]

    def _setting(self, files: Iterable[str], name: str) -> "_Setting | None":
        """Return the last assignment in files of systemd's; an empty one undoes those before it."""
        last = None
        for file in files:
            with contextlib.suppress(OSError):
                text = self._read(file)
                for value in re.findall(rf"^[ \t]*{name}[ \t]*=[ \t]*(.*?)[ \t]*$", text, re.MULTILINE):
                    last = _Setting(value, f"{name}= in {file}") if value else None
        return last

    def _is_there(self, path: str) -> bool:
        return os.path.isfile(self._root + path)

    def _read(self, path: str) -> str:
        with open(self._root + path, encoding="utf-8", errors="replace") as file:
            return file.read()


class _Setting(NamedTuple):
    """The value of a key of systemd's, and where it is assigned."""

    value: str
    origin: str


class _Mount(NamedTuple):
    """A mounted hierarchy of cgroups: its kind, what of it is mounted, and where."""

    kind: str
    root: str
    point: str


def _mounts(mountinfo: str) -> Iterator[_Mount]:
    """Yield the hierarchies that may limit processes (proc_pid_mountinfo(5))."""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2" or (kind == "cgroup" and "pids" in options.split(",")):
            _, _, _, root, point, *_ = before.split(" ")
            yield _Mount(kind, root, point)


def _named(name: str, setting: _Setting | None, by_default: str) -> str:
    return f"{name}, {by_default}," if setting is None else setting.origin


def _number(written: str, kernel: Limit | None) -> int | None:
    """Return a number of tasks, which may be a share of the kernel's; None where nothing limits them."""
    share = re.fullmatch(r"(\d+)%", written)
    if share and kernel is not None:
        return kernel.most * int(share[1]) // 100
    size = re.fullmatch(r"(\d+)([KMGT]?)", written)
    return int(size[1]) << 10 * " KMGT".index(size[2] or " ") if size else None
