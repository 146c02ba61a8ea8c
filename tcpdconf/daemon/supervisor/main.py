"""Runs the supervisor, which keeps a configuration's services running, reloads it, and stops them.

It may be root and therefore reads no byte that came from the network.
"""

import contextlib
import ctypes
import functools
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from tcpdconf.config import dialect, problems
from tcpdconf.config.load.loaded import Loaded
from tcpdconf.config.model.service import Config
from tcpdconf.daemon.broker.client import BrokerClient
from tcpdconf.daemon.cluster.client import ClusterClient
from tcpdconf.daemon.control.server import Command
from tcpdconf.daemon.guard.bans import Bans
from tcpdconf.daemon.http.client import HttpClient
from tcpdconf.daemon.messages.assignment import Failure
from tcpdconf.daemon.messages.worker import Ended, Gone, LogFile, Reported
from tcpdconf.daemon.process import log, loop, procfs, signals
from tcpdconf.daemon.process.logs import own_file
from tcpdconf.daemon.supervisor import (
    commands,
    control_sockets,
    fdstore,
    guard,
    heartbeat,
    listeners,
    notify,
    takeover,
    worker_process,
)
from tcpdconf.daemon.supervisor.reload import preview
from tcpdconf.daemon.supervisor.reload.queue import Last, ReloadQueue
from tcpdconf.daemon.supervisor.service.agent import Agents
from tcpdconf.daemon.supervisor.service.elsewhere import Elsewhere
from tcpdconf.daemon.supervisor.service.managed import ManagedService
from tcpdconf.daemon.supervisor.service.setups import Surroundings
from tcpdconf.daemon.supervisor.service.shares import SharedCounts
from tcpdconf.daemon.supervisor.worker_process import Observer
from tcpdconf.daemon.watch import process as watch_process
from tcpdconf.daemon.watch.client import WatchClient
from tcpdconf.daemon.worker import books

_PR_SET_CHILD_SUBREAPER: Final = 36  # linux/prctl.h
_GRACE: Final = 5.0  # seconds that a worker has to end after `stop_timeout`
_HURRY: Final = 1.0
_EXPIRE: Final = 60.0  # seconds between two removals of ended bans
_SAVE: Final = 300.0  # seconds between two calls of `_save`
_OF_THE_HOST: Final = frozenset({"cannot-bind", "unclaimed-socket"})


class StartError(Exception):
    """Reports that the host does not let the daemon start; `problems` give the reasons."""

    def __init__(self, found: list[problems.Problem]) -> None:
        super().__init__(*(problem.text for problem in found))
        self.problems = found


class Order(NamedTuple):
    """Tells the supervisor what to run: `read` loads the configuration, and raises ConfigError.

    `environment` is the one that the daemon was started with. `runtime` is the directory of control.sock and
    guard.sock; None means neither. `started` is called when everything serves. `predecessor` is the daemon
    that this one replaces.
    """

    read: Callable[[], Loaded]
    environment: dict[str, str]
    ways: dialect.Dialect = dialect.TOML
    runtime: str | None = None
    started: Callable[[], None] = lambda: None
    predecessor: takeover.Predecessor | None = None


class Supervisor(Observer[ManagedService]):
    """Runs the enabled services of a configuration until told to stop."""

    def __init__(self, order: Order, arrived: signals.Signals) -> None:
        self._order = order
        self._arrived = arrived
        self._loop = loop.Loop()
        self._notifier = notify.Notifier(self._loop)
        taken = () if order.predecessor is None else order.predecessor.sockets
        self._activated = listeners.Activated(order.environment, taken)
        self._store = fdstore.Store(self._notifier, self._activated)
        self._bans = Bans(order.environment, self._renew_bans)
        self._http = HttpClient(self._loop, lambda then: self._commands.ask(then))  # noqa: PLW0108 (made below)
        self._cluster = self._make_cluster()
        self._broker = BrokerClient(self._loop, self._renew_links)
        self._helpers = (self._http, self._cluster, self._broker)
        self._agents = Agents(self._loop)
        self._reloads = ReloadQueue(
            self._surroundings(),
            order.read,
            self._activated,
            self._make,
            release=self._store.release,
            began=self._notifier.reloading,
            ended=self._reloaded,
        )
        self._watching = WatchClient(self._loop, self._changed)
        self._preview = preview.Preview(self._loop, order.read, self._reloads)
        self._commands = commands.Commands(
            self._loop,
            self._reloads,
            self._activated,
            self._drain,
            self._bans,
            cluster=self._cluster.status,
        )
        self._guard = guard.Guard(
            self._bans,
            self._services,
            self._running_config,
            stopping=lambda: self._stopping or self._commands.ending,
            ask_workers=self._commands.ask_workers,
            cluster=self._cluster,
        )
        self._sockets = control_sockets.ControlSockets(self._loop, order.runtime, self._known_commands())
        self._all: list[ManagedService] = []  # also services that are being started or drained
        self._started = False
        self._failure: tuple[problems.Problem, ...] = ()
        self._stopping = False
        self._announcing: dict[ManagedService, int] = {}  # services that will stop, each with its timer
        self._log_file = own_file.OwnFile()
        self._log_format: log.Format = "plain"

    def _make_cluster(self) -> ClusterClient:
        return ClusterClient(
            self._loop,
            self._order.environment,
            self._renew_links,
            alone=self._order.predecessor is None,
            page=lambda start: self._guard.page(start),  # noqa: PLW0108 (made later)
            mirrored=lambda message: self._guard.mirror(message),  # noqa: PLW0108 (as above)
        )

    def _surroundings(self) -> Surroundings:
        """Return what services need of the daemon."""
        return Surroundings(
            self._loop,
            self._order.environment,
            self._order.ways,
            lambda: self._bans.table,
            self._http,
            self._agents,
            SharedCounts(),
            cluster=self._cluster,
            broker=self._broker,
        )

    def _known_commands(self) -> dict[str, Command]:
        """Return the commands by name."""
        return {
            **self._commands.all(),
            "compare": self._preview.answer,
            **self._guard.all(),
            "elsewhere": Elsewhere(self._cluster, self._services).answer,
        }

    def run(self) -> None:
        """Serve until told to stop.

        Raises:
            ConfigError: the first configuration cannot be used.
            StartError: the host refuses what it needs.
            RunningError: another daemon has this runtime directory.
        """
        read_at, loaded = time.time(), self._order.read()
        self._set_format(loaded)
        if self._order.predecessor is None:  # else the predecessor uses the socket until this daemon serves
            self._sockets.open(replace=False)
        _adopt_orphans()
        if self._order.ways is dialect.TOML:
            self._bans.load()
        if loaded.config.daemon.watch is True:
            watch_process.preload()
        # From here on the supervisor forks: frozen objects stay in memory that all processes share. First to
        # collect the garbage is not worth it: of 88,000 objects it finds 124.
        gc.freeze()
        gc.enable()  # the commands disable it
        _clear_type_cache()
        self._loop.watch(self._arrived, self._signalled)
        self._loop.after(0, lambda: self._reloads.begin(loaded, read_at))
        self._loop.run()
        self._preview.close()
        for each in self._all:
            each.close()
        for helper in self._helpers:
            self._loop.attempt(helper.close)
        self._loop.attempt(self._agents.close)
        self._sockets.close()
        self._bans.close()
        if any(problem.code in _OF_THE_HOST for problem in self._failure):
            raise StartError(list(self._failure))
        if self._failure:
            raise problems.ConfigError(self._failure)

    def _set_format(self, loaded: Loaded) -> None:
        chosen = "plain" if self._order.ways.plain_log else loaded.config.daemon.log_format
        log.set_format(chosen, self._loop.after)
        if chosen != self._log_format:
            self._renew_helpers()
        self._log_format = chosen

    def _renew_helpers(self) -> None:
        """Have the helper processes log as this process does now."""
        for helper in self._helpers:
            helper.renew()

    def _services(self) -> dict[str, ManagedService]:
        return self._reloads.state.services

    def _running_config(self) -> Config:
        return self._reloads.state.loaded.config

    def _renew_bans(self) -> None:
        for each in self._all:
            self._loop.attempt(each.renew_bans)

    def _renew_links(self) -> None:
        for each in self._all:
            self._loop.attempt(each.renew_link)

    def _make(self, name: str) -> ManagedService:
        made = ManagedService(name, self._reloads.around, self)
        self._all.append(made)
        return made

    def _changed(self, _: list[str]) -> None:
        self._reloads.request(again=False)

    def _reloaded(self, last: Last) -> None:
        """Handle the end of a reload: serve, or stop if the first configuration has failed."""
        self._forget()
        if self._stopping:
            self._end_when_idle()
        elif self._started or last.ok:
            self._begin(last)
        else:
            self._failure = tuple(last.outcome.problems)
            self._stop(0)

    def _begin(self, last: Last) -> None:
        """Log and announce the result of a reload, and watch the files of the configuration."""
        self._loop.attempt(self._reopen_log)
        loaded = self._reloads.state.loaded
        log.set_level(loaded.config.daemon.log_level)
        self._set_format(loaded)
        count = len(self._reloads.state.services)
        status = f"{count} service{'' if count == 1 else 's'}"
        if not self._started:
            log.info("running", services=count, pid=os.getpid())
            self._order.started()
            self._loop.guard()  # an earlier defect ends the daemon, so that its starter notices
            self._loop.attempt(self._succeed)
            watchdog = notify.watchdog_seconds()
            self._keep_alive(watchdog)
            heartbeat.Heartbeat(self._loop, watchdog, self._workers).start()
            self._save()
            self._expire_bans()
        elif last.ok:
            level: log.Level = "info" if last.outcome.details or last.asked else "debug"
            only = "[daemon]" if last.outcome.details else "nothing"
            log.write(level, "reloaded", changed=",".join(last.outcome.changed) or only)
        else:
            log.problems(last.outcome.problems)
            log.error("reload rejected: the previous configuration stays in effect")
            status += f"; last reload rejected: {last.outcome.problems[0]}"
        self._started = True
        self._loop.attempt(lambda: self._sockets.follow(loaded.config.daemon.control_group))
        self._loop.attempt(lambda: self._store.keep(self._reloads.state.sockets))
        self._notifier.ready(status)
        running = self._reloads
        self._watching.watch(loaded.config, running.refused, loaded.directory, running.read, running.read_at)

    def _reopen_log(self) -> None:
        """Write the log to another file if this one has been rotated; couriertcpd never does."""
        fd = None if self._order.ways.plain_log else self._log_file.reopened()
        if fd is None:
            return
        try:
            log.redirect(fd)
            for worker in self._workers():
                worker.tell(LogFile(), [fd])
            self._renew_helpers()
        finally:
            os.close(fd)

    def _succeed(self) -> None:
        """Replace the predecessor, since this daemon serves now."""
        self._activated.settled()
        if self._order.predecessor is not None:
            self._sockets.open(replace=True)
            seconds = self._reloads.state.loaded.config.daemon.drain_timeout
            self._order.predecessor.dismiss(seconds)
            self._bans.load()  # the predecessor may have changed them

    def prepared(self, each: ManagedService) -> None:
        """Tell the current reload that a service has prepared."""
        self._reloads.tell(lambda reload: reload.prepared(each))

    def failed(self, each: ManagedService, failures: Sequence[Failure]) -> None:
        """Tell the current reload that a service cannot be served with its settings, and why."""
        self._reloads.tell(lambda reload: reload.failed(each, failures))

    def serves(self, each: ManagedService, *, first: bool) -> None:
        """Tell the current reload that a service serves.

        The first time, also tell the watcher which files were read.
        """
        if first:
            self._watching.read(each.opened)
        self._reloads.tell(lambda reload: reload.serves(each))

    def broken(self, each: ManagedService, failures: Sequence[Failure]) -> None:
        """Log the failures."""
        for failure in failures:
            log.error(failure.text, service=each.name, key=problems.dotted(failure.key))

    def stopped(self, each: ManagedService) -> None:
        """Tell the current reload that a service no longer accepts."""
        self._reloads.tell(lambda reload: reload.stopped(each))

    def reported(self, each: ManagedService, report: Reported) -> None:  # noqa: ARG002 (the service keeps it)
        """Tell the `status` command."""
        self._commands.reported(each)

    def _keep_alive(self, seconds: float | None) -> None:
        """Tell the service manager at intervals that the daemon is alive; `Heartbeat` checks the workers."""
        if self._stopping or seconds is None:
            return
        self._loop.after(seconds / 3, lambda: self._keep_alive(seconds))  # first, in case of a defect
        self._notifier.watchdog()

    def _save(self) -> None:
        """Save, at intervals, the state that a crash of this process would lose."""
        self._loop.after(_SAVE, self._save)
        for each in self._all:
            self._loop.attempt(each.passes.save)

    def _expire_bans(self) -> None:
        """Remove ended bans at intervals."""
        self._loop.after(_EXPIRE, self._expire_bans)
        self._bans.expire()

    def _workers(self) -> list[worker_process.WorkerProcess]:
        """Return all workers, including those that are being started or drained."""
        return [worker for each in self._all for worker in each.workers]

    def _signalled(self) -> None:
        for number in self._arrived.take():
            self._loop.attempt(functools.partial(self._handle_signal, number))

    def _handle_signal(self, number: int) -> None:
        match number:
            case signal.SIGCHLD:
                self._reap()
            case signal.SIGTERM | signal.SIGINT if self._stopping:
                self._loop.after(_HURRY, self._kill)
                self._loop.attempt(self._end_announcements)
                for each in self._all:
                    self._loop.attempt(functools.partial(each.stop, 0, 0))
            case signal.SIGTERM | signal.SIGINT:
                log.info("stopping", signal=signal.Signals(number).name)
                self._stop(0)
            case signal.SIGHUP:
                self._reloads.request(again=True)

    def _reap(self) -> None:
        """Handle the exits of child processes: workers, loggers, programs whose worker has ended before."""
        programs: list[Ended] = []
        for found, status in _exits():
            self._loop.attempt(functools.partial(self._handle_exit, found, status, programs))
        for each in self._all:
            each.forget_workers()
        for some in books.parts(programs):
            for each in self._all:
                each.tell(Gone(tuple(some)))
        self._forget()
        self._end_when_idle()

    def _handle_exit(self, found: procfs.Process, status: int, programs: list[Ended]) -> None:
        """Handle one exit; a process that is unknown here was a program, and is added to `programs`."""
        pid = found.pid
        if any(each.ended(pid, status) for each in (self._watching, *self._helpers)):
            return
        if self._preview.ended(pid):
            return
        if not any(each.ended(pid, status) for each in self._all):
            programs.append(Ended(pid, found.start, status))

    def _forget(self) -> None:
        """Close services that were removed, or never started, once their last worker has ended."""
        if self._reloads.busy:
            return
        services = self._reloads.state.services
        for each in [one for one in self._all if one is not services.get(one.name)]:
            if not each.pids:
                each.close()
                self._all.remove(each)

    def _drain(self, seconds: float | None) -> None:
        """Stop on command; programs may continue for some seconds.

        Services with an agent announce their end first, unless the command gives programs no time (None),
        another daemon has the listeners, or this one is stopping already.
        """
        log.info("stopping", drain=f"{seconds or 0:g}s")
        self._store.clear()  # gives up the ports: no restart follows this command, unlike a signal
        announces = seconds is not None and not self._stopping and not self._commands.replaced
        self._stop(seconds or 0, announces=announces)

    def _stop(self, drain: float, *, announces: bool = False) -> None:
        self._stopping = True
        self._loop.attempt(self._end_announcements)
        seconds = self._reloads.state.loaded.config.daemon.stop_timeout
        # the successor has the sockets of HTTP and of agents, too, and this daemon would take its clients
        replaced = self._commands.replaced
        http = self._http.close if replaced else self._http.drain
        for step in (self._notifier.stopping, self._reloads.close, self._watching.close, http):
            self._loop.attempt(step)
        if replaced:
            self._loop.attempt(self._agents.close)
        waits = {each: each.announce() for each in self._reloads.state.services.values() if announces}
        for each, wait in waits.items():
            if wait:
                log.info("announcing", service=each.name, **{"for": f"{wait:g}s"})
                stop = functools.partial(self._stop_announced, each, drain, seconds)
                self._announcing[each] = self._loop.after(wait, stop)
        self._loop.after(max(waits.values(), default=0) + drain + seconds + _GRACE, self._kill)
        open_ = {
            listening for each in self._announcing for listening in each.listening
        } | self._agents.sockets
        for sockets in self._reloads.state.sockets.values():
            for listening in sockets:
                if listening not in open_:
                    listening.close()  # from now on the kernel refuses clients, which would wait in vain
        for each in self._all:
            if each not in self._announcing:
                self._loop.attempt(functools.partial(each.stop, drain, seconds))
        self._end_when_idle()

    def _stop_announced(self, each: ManagedService, drain: float, seconds: float) -> None:
        """Stop a service whose end has been announced for long enough."""
        del self._announcing[each]
        for listening in each.listening:
            listening.close()
        each.stop(drain, seconds)
        self._end_when_idle()

    def _end_announcements(self) -> None:
        """Close the listeners of services whose end is being announced; the caller stops them."""
        for each, timer in self._announcing.items():
            self._loop.cancel(timer)
            for listening in each.listening:
                listening.close()
        self._announcing.clear()

    def _kill(self) -> None:
        """Kill the workers, and end this process soon afterwards even if some have not ended."""
        self._loop.after(_HURRY, self._loop.stop)
        for each in self._all:
            for pid in each.pids:
                log.error(f"worker of {each.name} does not stop", pid=pid)
            each.kill()

    def _end_when_idle(self) -> None:
        if self._stopping and not self._announcing and not any(each.pids for each in self._all):
            self._loop.stop()


def _clear_type_cache() -> None:
    """Clear the interpreter's cache of attributes, so that processes forked from now on share more memory.

    Before Python 3.12 a new entry decrements the reference count of the name that it displaces. So every
    process would write to the pages of many names, and get its own copies of them: 0.2 MB.
    """
    if sys.version_info < (3, 12):
        sys._clear_type_cache()  # noqa: SLF001 (there is no other way)


def _adopt_orphans() -> None:
    """Become the parent of programs whose worker dies, so that their exit is known (prctl(2)).

    If that fails, a restarted worker counts them until it is restarted itself.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        log.warning(f"cannot become a subreaper: {os.strerror(ctypes.get_errno())}")


def _exits() -> Iterator[tuple[procfs.Process, int]]:
    """Wait for each process that has ended, and yield it with its status.

    The process is looked up first: once it has been waited for, the kernel may reuse its pid.
    """
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            found = procfs.look(ended.si_pid)
            _, status = os.waitpid(ended.si_pid, 0)
            yield found or procfs.Process(ended.si_pid, True, 0, 0, 0), status
