"""Reports the changes that a reload would make (`tcpdconf reload --dry-run`).

The supervisor forks a process that loads the configuration and compares it with the running one. Meanwhile
the supervisor answers other requests. The process has the supervisor's directory and rights, and a copy of
its memory. It binds no port, starts no service and executes nothing. For each service that a reload would
prepare, a further process with the service's rights reads the files that otherwise only a worker reads.
"""

import functools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from tcpdconf.config import changes, host, problems
from tcpdconf.config.load.loaded import Loaded
from tcpdconf.config.model import tables
from tcpdconf.config.model.service import Service
from tcpdconf.daemon.control import server as control_server
from tcpdconf.daemon.control.server import Reply
from tcpdconf.daemon.descriptors import WorkerDescriptors
from tcpdconf.daemon.messages import assignment, wire
from tcpdconf.daemon.messages.assignment import Assignment, Failure, Role, Unusable
from tcpdconf.daemon.process import child, log, loop
from tcpdconf.daemon.supervisor import process_settings
from tcpdconf.daemon.supervisor.process_settings import ProcessSettings
from tcpdconf.daemon.supervisor.reload import queue as reload_queue
from tcpdconf.daemon.supervisor.reload import transaction as reload_step
from tcpdconf.daemon.supervisor.reload.queue import ReloadQueue
from tcpdconf.daemon.supervisor.reload.transaction import Outcome, State
from tcpdconf.daemon.supervisor.service.setups import Setup, Surroundings
from tcpdconf.daemon.supervisor.service.shares import GROUP_CHANGED, group_of
from tcpdconf.daemon.worker import files as service_files
from tcpdconf.daemon.worker.files import ServiceFiles

_SECONDS: Final = 120.0  # enough to read tables of a million networks
_LARGEST: Final = control_server.ANSWER
_DEFECT: Final = "a defect of tcpdconf: see the log"


class Preview:
    """Runs the comparing processes; `read` loads the configuration, and raises ConfigError."""

    def __init__(self, events: loop.Loop, read: Callable[[], Loaded], running: ReloadQueue) -> None:
        self._loop = events
        self._read = read
        self._reloads = running
        self._pids: set[int] = set()

    def answer(self, _: dict[str, Any], reply: Reply) -> None:
        """Answer like the command `reload`, from a new process that only compares."""
        if self._reloads.last is None:
            reply({"ok": False, "error": "the daemon is starting"})
            return
        ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        work = functools.partial(_compare, theirs, self._read, self._reloads.state, self._reloads.around)
        try:
            pid = child.fork(work, {theirs})
        except OSError as error:
            os.close(ours)
            reply({"ok": False, "error": f"cannot start a process: {error.strerror}"})
            return
        finally:
            os.close(theirs)
        self._pids.add(pid)
        _Answer(self._loop, ours, reply, functools.partial(self._kill, pid))

    def ended(self, pid: int) -> bool:
        """Handle the exit of a process; return whether it was a comparing process."""
        known = pid in self._pids
        self._pids.discard(pid)
        return known

    def close(self) -> None:
        """Kill the processes; their requests get no answer."""
        for pid in list(self._pids):
            self._kill(pid)

    def _kill(self, pid: int) -> None:
        """Kill a process and its children, unless its exit has been handled."""
        if pid in self._pids:
            for target in (-pid, pid):  # its setpgid(2) may not have run yet
                try:
                    os.kill(target, signal.SIGKILL)
                except ProcessLookupError:
                    continue


class _Answer:
    """Reads the answer of a process until end of file or a timeout, and then calls `kill`."""

    def __init__(self, events: loop.Loop, end: int, reply: Reply, kill: Callable[[], None]) -> None:
        self._loop = events
        self._end = open(end, "rb", buffering=0)  # noqa: SIM115 (`_finish` closes it)
        self._reply = reply
        self._kill = kill
        self._said = b""
        events.watch(self._end, self._receive)
        self._timer = events.after(_SECONDS, lambda: self._finish(f"no answer within {_SECONDS:g} s"))

    def _receive(self) -> None:
        data = self._end.read(65536)
        if data is None:
            return
        self._said += data
        if not data:
            self._finish(_DEFECT)
        elif len(self._said) > _LARGEST:
            self._finish(f"an answer of more than {_LARGEST} bytes")

    def _finish(self, error: str) -> None:
        """Reply with the answer that was read, or with `error` if it is not complete."""
        self._loop.cancel(self._timer)
        self._loop.forget(self._end)
        self._end.close()
        self._kill()
        try:
            said = json.loads(self._said)
        except ValueError:
            said = {"ok": False, "error": error}
        self._reply(said)


def _compare(end: int, read: Callable[[], Loaded], state: State, around: Surroundings) -> int:
    """Compare, and write the answer to the pipe `end`; return the exit status."""
    os.setpgid(0, 0)  # so that it can be killed with its children
    log.set_level("error")  # the worker logs the warnings about access files
    try:
        outcome = _Comparison(state, read(), around).outcome()
    except problems.ConfigError as error:
        outcome = Outcome([], [], list(error.problems))
    os.set_blocking(end, True)
    with open(end, "wb") as pipe:
        pipe.write(json.dumps(reload_queue.answer(outcome, time.time())).encode())
    return 0


class _Comparison:
    """Compares a loaded configuration with the running one."""

    def __init__(self, state: State, loaded: Loaded, around: Surroundings) -> None:
        self._state = state
        self._loaded = loaded
        self._around = around
        self._changes = changes.between(state.loaded.config, loaded.config)
        self._problems = list(reload_step.forbidden(loaded))
        self._touched: dict[str, list[str]] = {}  # by service, changes outside the configuration

    def outcome(self) -> Outcome:
        """Return the outcome of a reload, as far as a comparison can predict it."""
        if not self._problems:
            for name, settings in self._loaded.config.enabled().items():
                self._compare_files(name, settings)
        if self._problems:
            return Outcome([], [], self._problems)
        changed = sorted({*self._touched, *self._changes.names()})
        lines = changes.lines(self._changes, self._loaded.config.enabled(), self._touched)
        return Outcome(changed, list(lines), list(self._loaded.warnings))

    def _compare_files(self, name: str, settings: Service) -> None:
        """Open the files of a service; read them if a reload would prepare it again."""
        who = host.identity(settings)
        given = WorkerDescriptors()
        try:
            given.open(settings, who, self._loaded.config.dns_chains)
            given.judge_log(settings, who)
            found = list(given.failures)
            known = self._state.services.get(name)
            if known is not None and known.setup is not None:
                lines = list(_others(known.setup, settings, given))
                if known.setup.group != group_of(self._loaded.config, name):
                    lines.append(GROUP_CHANGED)
                self._touched |= {name: lines} if lines else {}
            if not found and {name} & {*self._touched, *self._changes.names()}:
                found = self._unreadable(name, settings, given)
        finally:
            given.close()
        self._problems += [assignment.problem(self._loaded, name, failure) for failure in found]

    def _unreadable(self, name: str, settings: Service, given: WorkerDescriptors) -> list[Failure]:
        """Have a process with the service's rights read its files; return the failures.

        It does not read shell files, since that would execute them.
        """
        part = changes.part(self._loaded.config, name)
        task = Assignment(name, part, self._around.environment, tuple(given.roles), self._around.ways)
        opened = [
            (role, fd)
            for role, fd in zip(given.roles, given.fds, strict=True)
            if role.kind != "environment" or not settings.environment_files[role.place].shell
        ]
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        work = functools.partial(_read_files, theirs, task, opened, process_settings.of(settings))
        try:
            pid = child.fork(work, {theirs, *(fd for _, fd in opened)})
        finally:
            os.close(theirs)
        with open(ours, "rb") as pipe:
            said = pipe.read(_LARGEST)
        os.waitpid(pid, 0)
        try:
            return list(wire.parsed(said, assignment.FROM_READER).failures)
        except wire.MalformedError:
            return [Failure((), "the process that reads its files has failed: see the log")]


def _read_files(
    end: int,
    task: Assignment,
    opened: list[tuple[Role, int]],
    settings: ProcessSettings,
) -> int:
    """Read the files of a service with its rights, and write the failures to the pipe `end`."""
    failures = process_settings.apply(settings)
    found = ServiceFiles(task, opened)
    found.failures.extend(failures)
    found.sources()
    found.base()
    found.chain()
    with open(end, "wb") as pipe:
        pipe.write(wire.written(Unusable(tuple(found.failures))))
    return 0


def _others(setup: Setup, settings: Service, given: WorkerDescriptors) -> Iterator[str]:
    """Yield the changes outside the configuration for which a reload would prepare a service again."""
    if host.identity(settings) != setup.process.identity:
        yield "the ids or groups of its user have changed"
    before = {role[:3]: role.signature for role in setup.roles if role.kind in service_files.READ}
    after = {role[:3]: role.signature for role in given.roles}
    for role in dict.fromkeys((*after, *before)):
        if before.get(role) != after.get(role):
            yield f"{role[2]} has changed"
    for log_file in (role for role in setup.roles if role.kind == "stderr" and role.path):
        if settings.stderr == tables.StderrFile(file=log_file.path) and not _is_open(log_file):
            yield f"{log_file.path} was replaced"


def _is_open(role: Role) -> bool:
    """Return whether the path of a role still leads to the file that was opened."""
    try:
        status = os.stat(role.path)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == role.signature
