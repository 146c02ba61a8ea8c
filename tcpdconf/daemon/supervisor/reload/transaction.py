"""Carries out a reload: prepares everything, then commits all of it or none.

Starting the daemon is a reload from an empty configuration. Preparing does not disturb running services: the
supervisor opens files, binds sockets and forks new workers, and workers read and compile while they serve. A
failure ends the reload, which then closes only the files and sockets that it has opened. `steps` decides the
next action, and this module carries it out.
"""

import functools
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from tcpdconf.config import changes, host, positions, problems
from tcpdconf.config.file_signature import Signature
from tcpdconf.config.load.loaded import Loaded
from tcpdconf.config.model import tables
from tcpdconf.config.model.agent import Agent
from tcpdconf.config.model.cluster import Cluster
from tcpdconf.config.model.http import Http
from tcpdconf.config.model.service import Service, ServiceSettings
from tcpdconf.daemon.cluster.client import ClusterClient
from tcpdconf.daemon.http.client import HttpClient
from tcpdconf.daemon.messages import assignment
from tcpdconf.daemon.messages.assignment import Failure
from tcpdconf.daemon.process import descriptors, log, loop, privileges
from tcpdconf.daemon.supervisor import listeners, socket_options
from tcpdconf.daemon.supervisor.reload import steps
from tcpdconf.daemon.supervisor.service import agent
from tcpdconf.daemon.supervisor.service.agent import Answering
from tcpdconf.daemon.supervisor.service.managed import ManagedService
from tcpdconf.daemon.supervisor.service.setups import CannotPrepareError, Sockets, Surroundings
from tcpdconf.daemon.supervisor.service.shares import GROUP_CHANGED, group_of

_TURN: Final = 0.05  # most seconds of preparing before other callbacks run
_PREPARE: Final = 60.0  # seconds in which all workers must prepare
_LISTEN: Final = ("daemon", "http", "listen")
_COMMIT: Final = 20.0  # seconds in which all must serve; a new worker waits for its predecessor

Open = Mapping[listeners.ListenerKey, list[socket.socket]]
Release = Callable[[frozenset[socket.socket], Callable[[], None]], None]


class Outcome(NamedTuple):
    """Holds the result of a reload.

    `changed` names services, and `details` are lines of text for people. `read` has the services' files, each
    with its signature when it was opened.
    """

    changed: list[str]
    details: list[str]
    problems: list[problems.Problem]
    read: Mapping[str, Signature] = MappingProxyType({})

    @property
    def ok(self) -> bool:
        """True if the configuration was applied."""
        return all(problem.severity == "warning" for problem in self.problems)


class State(NamedTuple):
    """Holds the running state: a configuration, its services by name, its sockets by listener."""

    loaded: Loaded
    services: dict[str, ManagedService]
    sockets: Open


class Reload:
    """Runs one reload.

    `release` has the service manager close its copies of sockets, and then calls back. `counts` is called
    with the new state once the configuration is in effect. `done` is called once, with the outcome. Timers
    run their callbacks through `attempt`, which handles defects.
    """

    def __init__(
        self,
        before: State,
        loaded: Loaded,
        *,
        around: Surroundings,
        activated: listeners.Activated,
        again: bool,
        make: Callable[[str], ManagedService],
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
        self._agents: dict[str, socket.socket] = {}  # by service: open or newly opened
        self._services: dict[str, ManagedService] = {}
        self._removed: dict[str, ManagedService] = {}
        self._touched: list[ManagedService] = []
        self._ahead: list[tuple[str, Sockets]] = []  # services still to prepare, in reverse order
        self._progress = steps.Progress()
        self._problems: list[problems.Problem] = []
        self._emptied: set[socket.socket] = set()
        self._read: list[tuple[str, Signature]] = []
        self._timer = 0
        self._broken = ""

    def begin(self) -> None:
        """Start preparing; `done` is called before this returns, or later."""
        for found in forbidden(self._loaded):
            self._cannot(found)
        sockets = {} if self._problems else self._bind()
        if not self._problems:
            self._ahead = list(reversed(sockets.items()))
        self._prepare_some()

    def prepared(self, each: ManagedService) -> None:
        """Handle a service that has prepared."""
        self._answered(each, "prepared")

    def failed(self, each: ManagedService, failures: Sequence[Failure]) -> None:
        """Handle a service that cannot be served with the requested setup; `failures` say why.

        A service that has prepared still fails if its worker ends before the commit.
        """
        if self._concerns(each) and self._progress.stage in {"preparing", "releasing"}:
            self._problems += [assignment.problem(self._loaded, each.name, failure) for failure in failures]
            self._take(steps.PrepareFailed())

    def serves(self, each: ManagedService) -> None:
        """Handle a service that serves with the new configuration."""
        self._answered(each, "serving")

    def stopped(self, each: ManagedService) -> None:
        """Handle a removed service that no longer accepts."""
        if each is self._removed.get(each.name):
            self._answered(each, "stopped")

    def _answered(self, each: ManagedService, answer: steps.Answer) -> None:
        if self._concerns(each):
            self._take(steps.Answered(each.name, answer))

    def _concerns(self, each: ManagedService) -> bool:
        return each in (self._services.get(each.name), self._removed.get(each.name))

    def give_up(self, why: str) -> None:
        """Undo the reload if it is not committed yet; otherwise let it finish."""
        if self._progress.stage in {"preparing", "releasing"}:
            self._ahead.clear()
            self._problems.append(self._of_all(why, "error"))
            self._take(steps.GivenUp())

    def abandon(self, why: str) -> None:
        """End the reload after a defect: undo it, or keep the new configuration if it is in effect."""
        self._around.loop.cancel(self._timer)
        self._ahead.clear()
        self._broken = why
        self._problems.append(self._of_all(why, "error"))
        self._take(steps.Broken())

    def _take(self, event: steps.Event) -> None:  # noqa: C901 (a case for each action)
        """Pass an event to `steps`, and carry out the actions."""
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
                    text = f"was not ready within {_PREPARE:g} s"
                    for name in sorted(services):
                        self._problems.append(assignment.problem(self._loaded, name, Failure((), text)))
                case steps.Do.KILL:
                    for name in sorted(services):
                        log.error("a worker does not start accepting", service=name)
                        (self._services | self._removed)[name].kill()

    def _released(self) -> None:
        self._take(steps.SocketsReleased())

    def _late(self) -> None:
        self._take(steps.Late())

    def _cannot(self, found: problems.Problem) -> None:
        """Add a problem and continue, so that the reload reports all problems."""
        self._problems.append(found)
        self._take(steps.Impossible())

    def _of_all(self, why: str, severity: problems.Severity) -> problems.Problem:
        return problems.Problem(self._loaded.directory, 0, 0, "", why, "cannot-use", severity)

    def _bind(self) -> dict[str, Sockets]:
        """Return the sockets of each service by name, opened if necessary."""
        found: dict[str, Sockets] = {}
        for name, settings in self._loaded.config.enabled().items():
            mine: list[tuple[int, socket.socket]] = []
            for place, listener in enumerate(settings.listeners):
                try:
                    mine += [(place, each) for each in self._opening.sockets(listener, settings)]
                except listeners.CannotBindError as error:
                    self._cannot(self._cannot_bind(error))
                except socket_options.RefusedError as error:
                    self._cannot(error.problem(self._loaded, name))
                    break  # the other listeners would have the same problem
            found[name] = mine
            if settings.agent is not None:
                self._bind_agent(name, settings.agent)
        if (http := self._loaded.config.daemon.http) is not None and self._around.http is not None:
            self._bind_http(http, self._around.http)
        if (cluster := self._loaded.config.cluster) is not None and self._around.cluster is not None:
            self._prepare_cluster(cluster, self._around.cluster)
        for which in self._activated.unclaimed():
            text = f"the service manager passes {which}, but no listener uses it"
            self._cannot(self._loaded.problem(("services",), text, "unclaimed-socket"))
        return found

    def _bind_agent(self, name: str, settings: Agent) -> None:
        """Open the socket of a service's agent, as one more listener."""
        try:
            self._agents[name] = self._opening.sockets(agent.listener(settings), ServiceSettings())[0]
        except listeners.CannotBindError as error:
            self._cannot(self._loaded.problem(_agent_key(name), str(error), "cannot-bind"))

    def _bind_http(self, settings: Http, http: HttpClient) -> None:
        """Open the socket of the HTTP process, as one more listener if it has an address."""
        try:
            listener = _http_listener(settings)
            sock = None if listener is None else self._opening.sockets(listener, ServiceSettings())[0]
            http.prepare(settings, sock)
        except listeners.CannotBindError as error:
            self._cannot(self._loaded.problem(_LISTEN, str(error), "cannot-bind"))
        except host.UnknownNameError as error:  # it was known when the configuration was loaded
            key = ("daemon", "http", *error.key)
            self._cannot(self._loaded.problem(key, str(error), error.code, hint=error.hint))
        except OSError as error:
            text = f"cannot make {settings.path}: {error.strerror}"
            self._cannot(self._loaded.problem(_LISTEN, text, "cannot-bind"))

    def _prepare_cluster(self, settings: Cluster, cluster: ClusterClient) -> None:
        try:
            cluster.prepare(settings)
        except host.UnknownNameError as error:  # it was known when the configuration was loaded
            key = ("cluster", *error.key)
            self._cannot(self._loaded.problem(key, str(error), error.code, hint=error.hint))

    def _cannot_bind(self, error: listeners.CannotBindError) -> problems.Problem:
        """Return the problem, placed at the listener or the agent that cannot be bound."""
        enabled = self._loaded.config.enabled().items()
        keys: list[positions.Key] = [
            ("services", name, "listeners", place, "port")
            for name, settings in enabled
            for place, listener in enumerate(settings.listeners)
            if listeners.key(listener) == error.which
        ]
        keys += [
            _agent_key(name)
            for name, settings in enabled
            if settings.agent is not None and listeners.key(agent.listener(settings.agent)) == error.which
        ]
        return self._loaded.problem(next(iter(keys), _LISTEN), str(error), "cannot-bind")

    def _inherited(self, name: str) -> Sockets:
        """Return another daemon's unwanted sockets on this service's ports, in whose queues clients may wait.

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
        """Prepare services for `_TURN` seconds, and let other callbacks run before the next ones."""
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
            group = group_of(self._loaded.config, name)
            if each.prepare(part, sockets, inherited, again=self._again, group=group):
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
        """Close the files and sockets that the reload has opened, and report the problems."""
        self._around.loop.cancel(self._timer)
        attempt = self._around.loop.attempt
        for each in self._touched:
            attempt(each.discard)
        for name, each in self._services.items():
            if name not in self._before.services:
                attempt(functools.partial(each.stop, 0, 0))
        if self._around.http is not None:
            attempt(self._around.http.discard)
        if self._around.cluster is not None:
            attempt(self._around.cluster.discard)
        attempt(self._opening.undo)
        self._done(Outcome([], [], self._problems, descriptors.readings(self._read)))

    def _commit(self) -> None:
        """Put the configuration into effect: listen on all sockets, and tell the workers."""
        try:
            unused = self._opening.commit()
        except listeners.CannotBindError as error:
            self._problems.append(self._cannot_bind(error))
            self._take(steps.CannotListen())
            return
        self._take(steps.Listens())
        attempt = self._around.loop.attempt
        if self._around.cluster is not None:
            attempt(self._around.cluster.commit)  # first: workers get their channels when they commit
        for each in self._touched:
            if not attempt(each.commit):
                attempt(each.kill)  # it is restarted with the prepared setup
        if self._around.http is not None:
            closed = {each for each in unused if not self._activated.lent(each)}
            attempt(functools.partial(self._around.http.commit, closed))
        if self._around.agents is not None:
            attempt(functools.partial(self._around.agents.serve, dict(self._answering())))
        for unwanted in unused:
            attempt(functools.partial(self._activated.let_go, unwanted))
        self._counts(State(self._loaded, self._services, self._opening.wanted))
        self._remove()
        self._timer = self._around.loop.after(_COMMIT, lambda: self._attempt(self._late))
        awaited = {each.name for each in self._touched}
        awaited |= {name for name, each in self._removed.items() if each.accepts}
        self._take(steps.Told(frozenset(awaited)))

    def _answering(self) -> Iterator[tuple[str, Answering]]:
        """Yield the agents of the new configuration, by service."""
        for name, settings in self._loaded.config.enabled().items():
            if settings.agent is not None:
                line = self._services[name].agent_line
                yield name, Answering(self._agents[name], settings.agent.allow, line)

    def _remove(self) -> None:
        """Stop the services that were removed; the next reload may want their ports again."""
        daemon = self._loaded.config.daemon
        for name, each in self._before.services.items():
            if name not in self._services:
                self._removed[name] = each
                self._around.loop.attempt(
                    functools.partial(each.stop, daemon.drain_timeout, daemon.stop_timeout)
                )

    def _finish(self) -> None:
        """Report the changes."""
        self._around.loop.cancel(self._timer)
        touched = {each.name: (self._why(each.name),) for each in self._touched}
        for name in self._changes.changed:
            touched.pop(name, None)  # its changed settings are reported instead
        changed = sorted({*(each.name for each in self._touched), *self._changes.names()})
        details = list(changes.lines(self._changes, self._services, touched))
        self._done(Outcome(changed, details, [], descriptors.readings(self._read)))

    def _why(self, name: str) -> str:
        """Return the reason why a service with unchanged settings was prepared."""
        before, after = self._before.loaded.config, self._loaded.config
        if name in before.enabled() and group_of(before, name) != group_of(after, name):
            return GROUP_CHANGED
        return "its files were read again"

    def _finish_broken(self) -> None:
        """Report that the configuration is in effect, and that the reload has met a defect."""
        changed = sorted(each.name for each in self._touched)
        found = [self._of_all(self._broken, "warning")]
        self._done(Outcome(changed, [], found, descriptors.readings(self._read)))


def forbidden(loaded: Loaded) -> Iterator[problems.Problem]:
    """Yield a problem for each port that this process may not bind, and each user it may not become.

    Also yield a problem for a group to which it may not give a socket.
    """
    group = loaded.config.daemon.control_group
    try:
        if group is not None and not privileges.may_give_to(host.group_number(group)):
            text = "a socket for a group that the daemon is not in needs root"
            yield loaded.problem(("daemon", "control_group"), text, "needs-root")
    except host.UnknownNameError as error:  # it was known when the configuration was loaded
        yield loaded.problem(("daemon", "control_group"), str(error), error.code, hint=error.hint)
    yield from _forbidden_http(loaded)
    yield from _forbidden_cluster(loaded)
    for name, settings in loaded.config.enabled().items():
        try:
            yield from _forbidden_to(loaded, name, settings)
        except host.UnknownNameError as error:  # it was known when the configuration was loaded
            yield loaded.problem(("services", name, *error.key), str(error), error.code, hint=error.hint)


def _forbidden_http(loaded: Loaded) -> Iterator[problems.Problem]:
    """Yield a problem if the daemon may not start the HTTP process or bind its socket."""
    settings, key = loaded.config.daemon.http, ("daemon", "http")
    if settings is None:
        return
    try:
        if not privileges.may_become(host.own_identity(settings.user)):
            yield loaded.problem((*key, "user"), "running as another user needs root", "needs-root")
        if settings.group is not None and not privileges.may_give_to(host.group_number(settings.group)):
            text = "a socket for a group that the daemon is not in needs root"
            yield loaded.problem((*key, "group"), text, "needs-root")
    except host.UnknownNameError as error:  # it was known when the configuration was loaded
        yield loaded.problem((*key, *error.key), str(error), error.code, hint=error.hint)
    listener = _http_listener(settings)
    if listener is not None and not privileges.may_bind(listeners.key(listener).port):
        yield loaded.problem(_LISTEN, f"listening on {settings.listen} needs root", "needs-root")


def _forbidden_cluster(loaded: Loaded) -> Iterator[problems.Problem]:
    """Yield a problem if the daemon may not start the cluster process."""
    settings = loaded.config.cluster
    try:
        if settings is not None and not privileges.may_become(host.own_identity(settings.user)):
            text = "running as another user needs root"
            yield loaded.problem(("cluster", "user"), text, "needs-root")
    except host.UnknownNameError as error:  # it was known when the configuration was loaded
        yield loaded.problem(("cluster", *error.key), str(error), error.code, hint=error.hint)


def _http_listener(settings: Http) -> tables.Listener | None:
    """Return the listener for the address of the HTTP process, or None for a Unix socket."""
    if isinstance(settings.listen, str):
        return None
    return tables.Listener(address=settings.listen.address, port=settings.listen.port)


def _agent_key(name: str) -> positions.Key:
    return ("services", name, "agent", "listen")


def _forbidden_to(loaded: Loaded, name: str, settings: Service) -> Iterator[problems.Problem]:
    for index, listener in enumerate(settings.listeners):
        port = host.port_number(listener.port)
        if not privileges.may_bind(port):
            key = ("services", name, "listeners", index, "port")
            yield loaded.problem(key, f"listening on port {port} needs root", "needs-root")
    if settings.agent is not None and not privileges.may_bind(settings.agent.listen.port):
        yield loaded.problem(
            _agent_key(name), f"listening on {settings.agent.listen} needs root", "needs-root"
        )
    if not privileges.may_become(host.identity(settings)):
        which = "user" if settings.user is not None else "group"
        yield loaded.problem(
            ("services", name, which), f"running as another {which} needs root", "needs-root"
        )
    if not privileges.may_join(host.further_groups(settings)):
        where = ("services", name, "supplementary_groups")
        yield loaded.problem(where, "other groups need root", "needs-root")
