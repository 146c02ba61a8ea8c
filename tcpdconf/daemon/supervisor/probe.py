"""Probes the programs, files and DNS lists that a configuration names, without serving.

It probes each service in a process of its own, with the code that would serve it. The process has the
service's rights if this process may assume them.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from tcpdconf.config import changes, positions, problems
from tcpdconf.config.load.loaded import Loaded
from tcpdconf.config.model.dns import DnsList
from tcpdconf.daemon.cluster import trial
from tcpdconf.daemon.messages import assignment
from tcpdconf.daemon.messages.assignment import Failure
from tcpdconf.daemon.messages.worker import Reported, TryResult
from tcpdconf.daemon.process import loop
from tcpdconf.daemon.supervisor.service.managed import ManagedService
from tcpdconf.daemon.supervisor.service.setups import CannotPrepareError, Surroundings
from tcpdconf.daemon.supervisor.worker_process import Observer

_SECONDS: Final = 60.0  # for all services together
_PATIENCE: Final = 1.0  # seconds before a terminal shows the services that are still being tried
_EXAMPLES: Final = 3  # most lists that a warning names
_ASK: Final = "set dns.servers to a resolver of your own, or delete lists that have closed"


class Tried(NamedTuple):
    """Holds the result of a probe: problems with their places, and the answers of DNS lists by name."""

    problems: list[problems.Problem]
    lists: dict[str, dict[str, str]]


def run(loaded: Loaded, environment: dict[str, str]) -> Tried:
    """Try the enabled services, for at most a minute, and return the result."""
    return _Probe(loaded).run(environment)


class _Probe(Observer[ManagedService]):
    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._loop = loop.Loop()
        self._services: dict[str, ManagedService] = {}
        self._waiting: set[str] = set()
        self._problems: list[problems.Problem] = []
        self._lists: dict[str, dict[str, str]] = {}
        self._warned: set[positions.Key] = set()

    def run(self, environment: dict[str, str]) -> Tried:
        around = Surroundings(self._loop, environment)
        config = self._loaded.config
        for name in config.enabled():
            each = self._services[name] = ManagedService(name, around, self)
            try:
                each.try_out(changes.part(config, name))
                self._waiting.add(name)
            except CannotPrepareError as error:
                for failure in error.failures:
                    self._add_problem(name, failure)
            except OSError as error:  # no process, no pipe or no memory is left
                self._add_problem(name, Failure((), f"cannot be tried: {error.strerror}"))
        self._try_engine()
        self._loop.after(_SECONDS, self._loop.stop)
        if sys.stderr.isatty():
            self._loop.after(_PATIENCE, self._show_progress)
        if self._waiting:
            self._loop.run()
        for name in sorted(self._waiting):
            self._add_problem(name, Failure((), f"could not be tried within {_SECONDS:g} s"))
        for each in self._services.values():
            each.kill()
            for pid in each.pids:
                os.waitpid(pid, 0)
            each.close()
        return Tried(self._problems, self._lists)

    def tried(self, each: ManagedService, result: TryResult) -> None:
        """Keep the result for this service."""
        for row in result.lists:
            self._lists.setdefault(row["list"], row)
        self._warn(each.name, result.lists)
        self._finish(each, result.failures)

    def failed(self, each: ManagedService, failures: Sequence[Failure]) -> None:
        """Keep the reasons why this service could not be tried."""
        self._finish(each, failures)

    def broken(self, each: ManagedService, failures: Sequence[Failure]) -> None:
        """Keep the reasons why this service could not be tried."""
        self._finish(each, failures)

    def stopped(self, each: ManagedService) -> None:
        """Stop waiting for this service, whose worker has ended."""
        self._finish(each)

    def reported(self, each: ManagedService, _: Reported) -> None:
        """Stop waiting for a service whose worker sends an unrequested report."""
        self._finish(each)

    def _finish(self, each: ManagedService, failures: Sequence[Failure] = ()) -> None:
        for failure in failures:
            self._add_problem(each.name, failure)
        self._waiting.discard(each.name)
        if not self._waiting:
            self._loop.stop()

    def _try_engine(self) -> None:
        """Warn if the engine of [cluster] cannot be used; an engine that does not answer now is no error."""
        settings = self._loaded.config.cluster
        if settings is None:
            return
        try:
            why = trial.run(settings)
        except (OSError, LookupError) as error:
            why = str(error)
        if why is not None:
            text = f"{settings.url} cannot be used: {why}"
            self._problems.append(self._loaded.problem(("cluster", "url"), text, "cannot-use", "warning"))

    def _show_progress(self) -> None:
        sys.stderr.write(f"trying {', '.join(sorted(self._waiting))} ...\n")

    def _warn(self, name: str, rows: Sequence[dict[str, str]]) -> None:
        """Warn of each chain of which no list answers, and of a service if none of its own lists answers."""
        for key, lists in self._chains(name):
            shown = {each.shown for each in lists}
            failing = [row for row in rows if row["list"] in shown]
            if not failing or any(row.get("state") == "up" for row in failing) or key in self._warned:
                continue
            self._warned.add(key)
            said = "; ".join(f"{row['list']} {row.get('why', '')}" for row in failing[:_EXAMPLES])
            more = f"; and {len(failing) - _EXAMPLES} more" if len(failing) > _EXAMPLES else ""
            text = f"none of these DNS lists works, so they have no effect: {said}{more}"
            self._problems.append(self._loaded.problem(key, text, "no-list-answers", "warning", hint=_ASK))

    def _chains(self, name: str) -> Iterator[tuple[positions.Key, Iterable[DnsList]]]:
        """Yield the key and the lists of each chain that a service names, then those of its own lists."""
        config = self._loaded.config
        written = config.services[name].dns_lists
        for chain in dict.fromkeys(item for item in written if isinstance(item, str)):
            yield ("dns_chains", chain, "lists"), config.dns_chains[chain].lists
        yield ("services", name, "dns_lists"), [item for item in written if not isinstance(item, str)]

    def _add_problem(self, name: str, failure: Failure) -> None:
        self._problems.append(assignment.problem(self._loaded, name, failure))
