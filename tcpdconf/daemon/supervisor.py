"""The supervisor: binds, forks a worker per service, keeps them running, stops them.

It may be root and therefore reads no byte that came from the network.
"""

import ctypes
import gc
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any, Final

from tcpdconf.config import host, load, model, problems
from tcpdconf.daemon import assignment, listeners, log, loop, notify, privileges, service, signals

_PR_SET_CHILD_SUBREAPER: Final = 36  # linux/prctl.h
_GRACE: Final = 5.0  # seconds that a worker has to end after its programs had their time
_HURRY: Final = 1.0


class StartError(Exception):
    """The host does not let the daemon start; the text has a line for each reason."""


class Supervisor:
    """Runs the enabled services of a configuration until a signal says stop."""

    def __init__(self, loaded: load.Loaded, arrived: signals.Signals, environment: dict[str, str]) -> None:
        self._loaded = loaded
        self._config = loaded.config
        self._arrived = arrived
        self._loop = loop.Loop()
        self._notifier = notify.Notifier()
        self._around = service.Surroundings(self._loop, self._config, environment)
        self._services: list[service.Service] = []
        self._starting: set[str] = set()  # services whose worker has not answered yet
        self._failures: list[problems.Problem] = []
        self._stopping = False
        self._pings = 0

    def run(self) -> None:
        """Serve until told to stop.

        Raises:
            ConfigError: what a service is configured to use cannot be used.
            StartError: the host refuses a socket.
        """
        _check_privileges(self._loaded)
        _adopt_orphans()
        log.set_level(self._config.daemon.log_level)
        sockets = _bind(self._config, listeners.Activated(self._around.environment))
        # From here on processes are forked: what is alive now they share for good.
        gc.collect()
        gc.freeze()
        self._loop.watch(self._arrived, self._signalled)
        for name in self._config.enabled():
            self._services.append(service.Service(name, sockets[name], self._around, heard=self._heard))
        self._starting = {each.name for each in self._services}
        for each in self._services:
            each.start()
        self._loop.run()
        for each in self._services:
            each.close()
        if self._failures:
            raise problems.ConfigError(self._failures)

    def _heard(self, each: service.Service, message: dict[str, Any]) -> None:
        """Take note of what a worker says, or what is said in its place when it could not be started."""
        match message["kind"]:
            case "ready":
                log.info("ready", service=each.name, pid=each.worker.pid)
                self._answered(each)
            case "failed":
                self._failed(each, assignment.failures(message))

    def _failed(self, each: service.Service, failures: list[assignment.Failure]) -> None:
        if each.name in self._starting:
            each.worker.finish()
            for key, text in failures:
                where = ("services", each.name, *key)
                self._failures.append(self._loaded.problem(where, text, "cannot-use"))
            self._answered(each)
        else:
            for key, text in failures:
                log.error(text, service=each.name, key=problems.dotted(key))

    def _answered(self, each: service.Service) -> None:
        """One more worker is ready or has failed; after the last one the daemon is ready, or stops."""
        if each.name not in self._starting:
            return
        self._starting.discard(each.name)
        if self._starting or self._stopping:
            return
        if self._failures:
            self._stop()
            return
        count = len(self._services)
        self._notifier.ready(f"{count} service{'s' if count > 1 else ''}")
        log.info("running", services=count, pid=os.getpid())
        seconds = notify.watchdog_seconds()
        if seconds is not None:
            self._watch(seconds / 3)

    def _watch(self, every: float) -> None:
        """Tell the service manager that all is well while all workers answer."""
        if self._stopping:
            return
        if all(each.answered == self._pings for each in self._services):
            self._notifier.watchdog()
        self._pings += 1
        for each in self._services:
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
                    self._stop()
                case signal.SIGHUP:
                    log.warning("this version does not reload: restart it for a changed configuration")

    def _reap(self) -> None:
        """Take note of processes that ended: workers, loggers, programs whose worker had died before."""
        children = {one.pid: one for each in self._services for one in (each.worker, each.logger) if one}
        for pid, status in _ended():
            known = children.get(pid)
            if known is None:
                for each in self._services:
                    each.tell("gone", pid=pid, status=status)
            else:
                known.ended(status)
        for each in self._services:
            if each.name in self._starting and each.worker.pid is None:
                self._failed(
                    each, [assignment.Failure((), "the worker ended before it was ready; see the log")]
                )
        self._end_when_idle()

    def _stop(self) -> None:
        self._stopping = True
        self._notifier.stopping()
        seconds = self._config.daemon.stop_timeout
        for each in self._services:
            each.stop(seconds)
        self._loop.after(seconds + _GRACE, self._kill)
        self._end_when_idle()

    def _hurry(self) -> None:
        for each in self._services:
            each.stop(0)
        self._loop.after(_HURRY, self._kill)

    def _kill(self) -> None:
        for each in self._services:
            if each.worker.pid is not None:
                log.error(f"{each.worker.name} does not stop", pid=each.worker.pid)
                each.kill()

    def _end_when_idle(self) -> None:
        if self._stopping and all(each.worker.pid is None for each in self._services):
            self._loop.stop()


def _check_privileges(loaded: load.Loaded) -> None:
    """Refuse what this process may not do, before anything is bound.

    Raises:
        ConfigError: a port or a user needs root.
    """
    found = []
    for name, settings in loaded.config.enabled().items():
        for index, listener in enumerate(settings.listeners):
            port = host.port_number(listener.port)
            if not privileges.may_bind(port):
                key = ("services", name, "listeners", index, "port")
                found.append(loaded.problem(key, f"listening on port {port} needs root", "needs-root"))
        if not privileges.may_become(host.identity(settings)):
            which = "user" if settings.user is not None else "group"
            text = f"running as another {which} needs root"
            found.append(loaded.problem(("services", name, which), text, "needs-root"))
    if found:
        raise problems.ConfigError(found)


def _bind(config: model.Config, activated: listeners.Activated) -> dict[str, list[tuple[int, socket.socket]]]:
    """The sockets of each service, with the place of their listener: passed on to us, or bound here.

    Raises:
        StartError: with every socket that cannot be had, and every one that nobody wants.
    """
    found: dict[str, list[tuple[int, socket.socket]]] = {}
    errors = []
    for name, settings in config.enabled().items():
        found[name] = []
        for place, listener in enumerate(settings.listeners):
            port = host.port_number(listener.port)
            try:
                sockets = activated.claim(listener, port) or [listeners.bind(listener, port)]
                found[name] += [(place, each) for each in sockets]
            except OSError as error:
                errors.append(
                    f"cannot bind {listeners.name(listener.address, port)}: {error.strerror} (service {name})"
                )
    errors += [f"no listener is configured for the passed-on {which}" for which in activated.unclaimed()]
    if errors:
        raise StartError("\n".join(errors))
    return found


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
