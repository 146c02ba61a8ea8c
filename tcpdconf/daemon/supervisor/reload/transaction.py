"""Carries out a reload: prepares everything, then lets all of it count, or nothing.

Starting is the reload from nothing. While it is prepared nothing that serves is touched: files are opened,
sockets bound, workers read and compile beside their work, new ones are forked. What fails ends the reload,
and only what it has opened is closed again. `steps` says what comes next; here it is done.
"""

import functools
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from tcpdconf.config import changes, host, problems
from tcpdconf.config.file_signature import Signature
from tcpdconf.config.load.loaded import Loaded
from tcpdconf.config.model.service import Service
from tcpdconf.daemon.messages import assignment
from tcpdconf.daemon.messages.assignment import Failure
from tcpdconf.daemon.process import descriptors, log, loop, privileges
from tcpdconf.daemon.supervisor import listeners
from tcpdconf.daemon.supervisor import service as service_process
from tcpdconf.daemon.supervisor.reload import steps
from tcpdconf.daemon.supervisor.service import CannotPrepareError, Sockets, Surroundings

_TURN: Final = 0.05  # seconds for which the supervisor prepares services before it does what else there is
_PREPARE: Final = 60.0  # seconds that all workers together have to prepare
_COMMIT: Final = 20.0  # seconds that they have to begin, when one waits for its predecessor

Open = Mapping[listeners.ListenerKey, list[socket.socket]]
Release = Callable[[frozenset[socket.socket], Callable[[], None]], None]


class Outcome(NamedTuple):
    """What a reload has come to: `changed` are services, `details` lines for people.

    `read` are the services' files, each with its signature when it was opened.
    """

    changed: list[str]
    details: list[str]
    problems: list[problems.Problem]
    read: Mapping[str, Signature] = MappingProxyType({})

    @property
    def ok(self) -> bool:
        """Whether the configuration was taken on."""
        return all(problem.severity == "warning" for problem in self.problems)


class State(NamedTuple):
    """What runs: a configuration, its services, its sockets."""

    loaded: Loaded
    services: dict[str, service_process.ManagedService]
    sockets: Open


class Reload:
    """A reload on its way.

    `release` lets the service manager give up its copies of sockets, and then calls back. `counts` is called
    with what runs as soon as that is another configuration, `done` once with what it has come to. Timers call
    what they call by way of `attempt`, whose business a defect is.
    """

    def __init__(
        self,
        before: State,
        loaded: Loaded,
        *,
        around: Surroundings,
        activated: listeners.Activated,
        again: bool,
        make: Callable[[str], service_process.ManagedService],
        release: Release,
        counts: Callable[[State], None],
        done: Callable[[Outcome], None],
        attempt: Callable[[Callable[[], None]], None],
    ) -> None:
        self._before = before
        self._loaded = loaded
        self._around = around
        self._activated = activated
        self._again = again
        self._make = make
        self._release = release
        self._counts = counts
        self._done = done
        self._attempt = attempt
        self._changes = changes.between(before.loaded.config, loaded.config)
        self._opening = listeners.Opening(before.sockets, activated)
        self._services: dict[str, service_process.ManagedService] = {}
        self._removed: dict[str, service_process.ManagedService] = {}
        self._touched: list[service_process.ManagedService] = []
        self._ahead: list[tuple[str, Sockets]] = []  # services that are to be prepared, the last first
        self._progress = steps.Progress()
        self._problems: list[problems.Problem] = []
        self._emptied: set[socket.socket] = set()
        self._read: list[tuple[str, Signature]] = []
        self._timer = 0
        self._broken = ""

    def begin(self) -> None:
        """Prepare; `done` is called now or later."""
        for found in forbidden(self._loaded):
            self._cannot(found)
        sockets = {} if self._problems else self._bind()
        if not self._problems:
            self._ahead = list(reversed(sockets.items()))
        self._prepare_some()

    def prepared(self, each: service_process.ManagedService) -> None:
        """Take note that a service could be served as it is wanted."""
        self._answered(each, "prepared")

    def failed(self, each: service_process.ManagedService, failures: Sequence[Failure]) -> None:
        """Take note that it cannot: one that has prepared may still fail, by its end, until all have."""
        if self._concerns(each) and self._progress.stage in {"preparing", "releasing"}:
            self._problems += [assignment.problem(self._loaded, each.name, failure) for failure in failures]
            self._take(steps.Failed())

    def serves(self, each: service_process.ManagedService) -> None:
        """Take note that a service is served as it is wanted."""
        self._answered(each, "serving")

    def stopped(self, each: service_process.ManagedService) -> None:
        """Take note that a service that was removed accepts no more."""
        if each is self._removed.get(each.name):
            self._answered(each, "stopped")

    def _answered(self, each: service_process.ManagedService, answer: steps.Answer) -> None:
        if self._concerns(each):
            self._take(steps.Answered(each.name, answer))

    def _concerns(self, each: service_process.ManagedService) -> bool:
        return each in (self._services.get(each.name), self._removed.get(each.name))

    def give_up(self, why: str) -> None:
        """Undo what is being prepared; what counts already goes on."""
        if self._progress.stage in {"preparing", "releasing"}:
            self._ahead.clear()
            self._problems.append(self._of_all(why, "error"))
            self._take(steps.GivenUp())

    def abandon(self, why: str) -> None:
        """End it after a defect: undo what can be undone, or go on with what counts already."""
        self._around.loop.cancel(self._timer)
        self._ahead.clear()
        self._broken = why
        self._problems.append(self._of_all(why, "error"))
        if self._progress.stage == "over":  # the defect was met at the end itself
            self._undo()
        else:
            self._take(steps.Broken())

    def _take(self, event: steps.Event) -> None:  # noqa: C901 (a case for each action)
        """Take the step that an event leads to, and do what is to be done."""
        self._progress, actions = steps.step(self._progress, event)
        for do, services in actions:
            match do:
                case steps.Do.RELEASE:
                    self._around.loop.cancel(self._timer)
                    self._release(self._opening.unwanted(), lambda: self._attempt(self._released))
                case steps.Do.COMMIT:
                    self._commit()
                case steps.Do.UNDO:
                    self._undo()
                case steps.Do.FINISH:
                    self._finish()
                case steps.Do.FINISH_BROKEN:
                    self._finish_broken()
                case steps.Do.REPORT_LATE:
                    text = f"is not prepared within {_PREPARE:g} s"
                    for name in sorted(services):
                        self._problems.append(assignment.problem(self._loaded, name, Failure((), text)))
                case steps.Do.KILL:
                    for name in sorted(services):
                        log.error("a worker does not begin to serve", service=name)
                        (self._services | self._removed)[name].kill()

    def _released(self) -> None:
        self._take(steps.Released())

    def _late(self) -> None:
        self._take(steps.Late())

    def _cannot(self, found: problems.Problem) -> None:
        """Note a problem of what is to be prepared; all are looked for."""
        self._problems.append(found)
        self._take(steps.Impossible())

    def _of_all(self, why: str, severity: problems.Severity) -> problems.Problem:
        return problems.Problem(self._loaded.directory, 0, 0, "", why, "cannot-use", severity)

    def _bind(self) -> dict[str, Sockets]:
        """Open the sockets of each service."""
        found: dict[str, Sockets] = {}
        for name, settings in self._loaded.config.enabled().items():
            mine: list[tuple[int, socket.socket]] = []
            for place, listener in enumerate(settings.listeners):
                try:
                    mine += [(place, each) for each in self._opening.sockets(listener)]
                except listeners.CannotBindError as error:
                    self._cannot(self._cannot_bind(error))
            found[name] = mine
        for which in self._activated.unclaimed():
            text = f"no listener is configured for the passed-on {which}"
            self._cannot(self._loaded.problem(("services",), text, "unclaimed-socket"))
        return found

    def _cannot_bind(self, error: listeners.CannotBindError) -> problems.Problem:
        """Return the problem, at the listener that cannot be served."""
        key = next(
            ("services", name, "listeners", place, "port")
            for name, settings in self._loaded.config.enabled().items()
            for place, listener in enumerate(settings.listeners)
            if listeners.key(listener) == error.which
        )
        return self._loaded.problem(key, str(error), "cannot-bind")

    def _inherited(self, name: str) -> Sockets:
        """Sockets of another daemon on this service's ports that nobody wants: their clients may wait.

        The first listener of a port gets them.
        """
        found: list[tuple[int, socket.socket]] = []
        for place, listener in enumerate(self._loaded.config.services[name].listeners):
            for each in self._opening.inherited(listener):
                if each not in self._emptied:
                    self._emptied.add(each)
                    found.append((place, each))
        return found

    def _prepare_some(self) -> None:
        """Prepare services for a moment; who waits for the supervisor has its turn before the next ones."""
        end = loop.now() + _TURN
        while self._ahead and loop.now() < end:
            name, sockets = self._ahead.pop()
            self._prepare(name, sockets, self._inherited(name))
        if self._ahead:
            self._timer = self._around.loop.after(0, lambda: self._attempt(self._prepare_some))
            return
        self._timer = self._around.loop.after(_PREPARE, lambda: self._attempt(self._late))
        self._take(steps.Asked())

    def _prepare(self, name: str, sockets: Sockets, inherited: Sockets) -> None:
        known = self._before.services.get(name)
        try:
            each = self._services[name] = known or self._make(name)
            part = changes.part(self._loaded.config, name)
            if each.prepare(part, sockets, inherited, again=self._again):
                self._touched.append(each)
                self._take(steps.Awaits(name))
        except CannotPrepareError as error:
            for failure in error.failures:
                self._cannot(assignment.problem(self._loaded, name, failure))
        except OSError as error:
            failure = Failure((), f"cannot be prepared: {error.strerror}")
            self._cannot(assignment.problem(self._loaded, name, failure))
        if name in self._services:
            self._read += self._services[name].opened.items()

    def _undo(self) -> None:
        """Close all that was opened."""
        self._around.loop.cancel(self._timer)
        attempt = self._around.loop.attempt
        for each in self._touched:
            attempt(each.discard)
        for name, each in self._services.items():
            if name not in self._before.services:
                attempt(functools.partial(each.stop, 0, 0))
        attempt(self._opening.undo)
        self._done(Outcome([], [], self._problems, descriptors.readings(self._read)))

    def _commit(self) -> None:
        """Let the configuration count: listen where another socket had the port, and tell the workers."""
        try:
            unused = self._opening.commit()
        except listeners.CannotBindError as error:
            self._problems.append(self._cannot_bind(error))
            self._take(steps.CannotListen())
            return
        self._take(steps.Listens())
        attempt = self._around.loop.attempt
        for each in self._touched:
            if not attempt(each.commit):
                attempt(each.kill)  # it is started again with what was prepared
        for unwanted in unused:
            attempt(functools.partial(self._activated.let_go, unwanted))
        self._counts(State(self._loaded, self._services, self._opening.wanted))
        self._remove()
        self._timer = self._around.loop.after(_COMMIT, lambda: self._attempt(self._late))
        awaited = {each.name for each in self._touched}
        awaited |= {name for name, each in self._removed.items() if each.accepts}
        self._take(steps.Told(frozenset(awaited)))

    def _remove(self) -> None:
        """Stop what is not wanted any more; the next reload may want its ports again."""
        daemon = self._loaded.config.daemon
        for name, each in self._before.services.items():
            if name not in self._services:
                self._removed[name] = each
                self._around.loop.attempt(
                    functools.partial(each.stop, daemon.drain_timeout, daemon.stop_timeout)
                )

    def _finish(self) -> None:
        """Report what has changed."""
        self._around.loop.cancel(self._timer)
        touched = {each.name: ("its files were read again",) for each in self._touched}
        for name in self._changes.changed:
            touched.pop(name, None)  # what is different says enough
        changed = sorted({*(each.name for each in self._touched), *self._changes.names()})
        details = list(changes.lines(self._changes, self._services, touched))
        self._done(Outcome(changed, details, [], descriptors.readings(self._read)))

    def _finish_broken(self) -> None:
        """Report that the configuration counts, and that a defect was met on the way."""
        changed = sorted(each.name for each in self._touched)
        found = [self._of_all(self._broken, "warning")]
        self._done(Outcome(changed, [], found, descriptors.readings(self._read)))


def forbidden(loaded: Loaded) -> Iterator[problems.Problem]:
    """What this process may not do: to bind a port, to become a user."""
    for name, settings in loaded.config.enabled().items():
        try:
            yield from _forbidden_to(loaded, name, settings)
        except host.UnknownNameError as error:  # it was known when the configuration was loaded
            yield loaded.problem(("services", name, error.key), str(error), error.code, hint=error.hint)


def _forbidden_to(loaded: Loaded, name: str, settings: Service) -> Iterator[problems.Problem]:
    for index, listener in enumerate(settings.listeners):
        port = host.port_number(listener.port)
        if not privileges.may_bind(port):
            key = ("services", name, "listeners", index, "port")
            yield loaded.problem(key, f"listening on port {port} needs root", "needs-root")
    if not privileges.may_become(host.identity(settings)):
        which = "user" if settings.user is not None else "group"
        yield loaded.problem(
            ("services", name, which), f"running as another {which} needs root", "needs-root"
        )
