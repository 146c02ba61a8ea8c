"""The supervisor: keeps a configuration's services running, takes on the next one, stops them.

It may be root and therefore reads no byte that came from the network.
"""

import ctypes
import gc
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any, Final

from tcpdconf.config import load, model, problems
from tcpdconf.daemon import assignment, listeners, log, loop, notify, reloading, service, signals
from tcpdconf.policy import dialect

_PR_SET_CHILD_SUBREAPER: Final = 36  # linux/prctl.h
_GRACE: Final = 5.0  # seconds that a worker has to end after its programs had their time
_HURRY: Final = 1.0

Load = Callable[[], load.Loaded]
"""Reads the configuration; raises ConfigError."""


class StartError(Exception):
    """The host does not let the daemon start; `problems` say why."""

    def __init__(self, found: list[problems.Problem]) -> None:
        super().__init__(*(problem.text for problem in found))
        self.problems = found


class Supervisor:
    """Runs the enabled services of a configuration until a signal says stop."""

    def __init__(
        self,
        load_: Load,
        arrived: signals.Signals,
        environment: dict[str, str],
        *,
        ways: dialect.Dialect = dialect.TOML,
        started: Callable[[], None] = lambda: None,
    ) -> None:
        self._load = load_
        self._tell_started = started
        self._arrived = arrived
        self._loop = loop.Loop()
        self._notifier = notify.Notifier()
        self._around = service.Surroundings(self._loop, environment, ways)
        self._state = reloading.State(load.Loaded("", model.Config(), ()), {}, {})
        self._activated = listeners.Activated(environment)
        self._all: list[service.Service] = []  # with those that are coming, or drain
        self._reload: reloading.Reload | None = None
        self._again = False  # whether another reload is wanted after this one
        self._started = False
        self._failure: list[problems.Problem] = []
        self._stopping = False
        self._pings = 0

    def run(self) -> None:
        """Serve until told to stop.

        Raises:
            ConfigError: the first configuration cannot be used.
            StartError: the host refuses what it needs.
        """
        loaded = self._read()
        _adopt_orphans()
        # From here on processes are forked: what is alive now they share for good.
        gc.collect()
        gc.freeze()
        self._loop.watch(self._arrived, self._signalled)
        self._loop.after(0, lambda: self._take_on(loaded, again=False))
        self._loop.run()
        for each in self._all:
            each.close()
        if any(problem.code in {"cannot-bind", "unclaimed-socket"} for problem in self._failure):
            raise StartError(self._failure)
        if self._failure:
            raise problems.ConfigError(self._failure)

    def reload(self, *, again: bool) -> None:
        """Take on the configuration as it is now; while one is being taken on, afterwards.

        `again` reads files again that may read others (see `Service.prepare`).
        """
        if self._stopping or not self._started or self._reload is not None:
            self._again = True
            return
        self._notifier.reloading()
        try:
            loaded = self._read()
        except problems.ConfigError as error:
            self._reloaded(reloading.Outcome([], [], list(error.problems)), self._state)
            return
        self._take_on(loaded, again=again)

    def _read(self) -> load.Loaded:
        loaded = self._load()
        log.excerpt("warning", problems.render(loaded.warnings))
        return loaded

    def _take_on(self, loaded: load.Loaded, *, again: bool) -> None:
        self._reload = reloading.Reload(
            self._state,
            loaded,
            around=self._around,
            activated=self._activated,
            again=again,
            make=self._make,
            done=self._reloaded,
        )
        self._reload.begin()

    def _make(self, name: str) -> service.Service:
        made = service.Service(name, self._around, self._heard)
        self._all.append(made)
        return made

    def _reloaded(self, outcome: reloading.Outcome, state: reloading.State) -> None:
        """Go on with what a reload has come to."""
        self._reload = None
        before, self._state = self._state, state
        daemon = state.loaded.config.daemon
        for name, each in before.services.items():
            if name not in state.services:
                each.stop(daemon.drain_timeout, daemon.stop_timeout)
        self._forget()
        if self._stopping:
            self._end_when_idle()
        elif not self._started:
            self._begin(outcome)
        else:
            self._report(outcome)
        if self._again:
            self._again = False
            self.reload(again=True)

    def _begin(self, outcome: reloading.Outcome) -> None:
        """The first configuration runs, or cannot."""
        if outcome.problems:
            self._failure = outcome.problems
            self._stop(0)
            return
        self._started = True
        log.set_level(self._state.loaded.config.daemon.log_level)
        log.info("running", services=len(self._state.services), pid=os.getpid())
        self._notifier.ready(self._status())
        self._tell_started()
        seconds = notify.watchdog_seconds()
        if seconds is not None:
            self._watch(seconds / 3)

    def _report(self, outcome: reloading.Outcome) -> None:
        log.set_level(self._state.loaded.config.daemon.log_level)
        if outcome.problems:
            log.excerpt("error", problems.render(outcome.problems))
            log.error("the configuration is not taken on; the one before goes on")
            count = len(outcome.problems)
            status = f"reload refused: {count} problem{'s' if count > 1 else ''}; {self._status()}"
        else:
            log.info("reloaded", changed=",".join(outcome.changed) or "nothing")
            status = self._status()
        self._notifier.ready(status)

    def _status(self) -> str:
        count = len(self._state.services)
        return f"{count} service{'' if count == 1 else 's'}"

    def _heard(self, each: service.Service, message: dict[str, Any]) -> None:
        """Take note of what a worker says, or what is said in its place when it could not be started."""
        if message["kind"] == "serving" and message["first"]:
            log.info("ready", service=each.name, pid=each.pids[0])
        if self._reload is not None and self._reload.concerns(each.name):
            self._reload.heard(each.name, message)
        elif message["kind"] == "failed":
            for key, text in assignment.failures(message):
                log.error(text, service=each.name, key=problems.dotted(key))

    def _watch(self, every: float) -> None:
        """Tell the service manager that all is well while all workers answer."""
        if self._stopping:
            return
        services = self._state.services.values()
        if all(each.answered == self._pings for each in services):
            self._notifier.watchdog()
        self._pings += 1
        for each in services:
            each.tell("ping", number=self._pings)
        self._loop.after(every, lambda: self._watch(every))

    def _signalled(self) -> None:
        for number in self._arrived.take():
            match number:
                case signal.SIGCHLD:
                    self._reap()
                case signal.SIGTERM | signal.SIGINT if self._stopping:
                    self._hurry()
                case signal.SIGTERM | signal.SIGINT:
                    log.info("stopping", signal=signal.Signals(number).name)
                    self._stop(0)
                case signal.SIGHUP:
                    self.reload(again=True)

    def _reap(self) -> None:
        """Take note of processes that ended: workers, loggers, programs whose worker had gone before."""
        for pid, status in _ended():
            if not any(each.ended(pid, status) for each in self._all):
                for each in self._all:
                    each.tell("gone", pid=pid, status=status)
        self._forget()
        self._end_when_idle()

    def _forget(self) -> None:
        """Let go of services that were removed, or never came to be, when their last worker has ended."""
        if self._reload is not None:
            return
        for each in [one for one in self._all if one is not self._state.services.get(one.name)]:
            if not each.pids:
                each.close()
                self._all.remove(each)

    def _stop(self, drain: float) -> None:
        self._stopping = True
        self._notifier.stopping()
        seconds = self._state.loaded.config.daemon.stop_timeout
        for each in self._all:
            each.stop(drain, seconds)
        self._loop.after(drain + seconds + _GRACE, self._kill)
        self._end_when_idle()

    def _hurry(self) -> None:
        for each in self._all:
            each.stop(0, 0)
        self._loop.after(_HURRY, self._kill)

    def _kill(self) -> None:
        for each in self._all:
            for pid in each.pids:
                log.error(f"worker of {each.name} does not stop", pid=pid)
            each.kill()

    def _end_when_idle(self) -> None:
        if self._stopping and not any(each.pids for each in self._all):
            self._loop.stop()


def _adopt_orphans() -> None:
    """Become the parent of programs whose worker dies, so that their end is known (prctl(2)).

    Where that fails a restarted worker counts them until it is restarted itself.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        log.warning(f"cannot become a subreaper: {os.strerror(ctypes.get_errno())}")


def _ended() -> Iterator[tuple[int, int]]:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status
