"""Tries what a configuration names, without serving: programs, files, DNS lists.

Each service is tried in a process of its own, with the service's rights where this process may take them on,
and by the code that would serve it.
"""

import os
from typing import Any, Final, NamedTuple

from tcpdconf.config import load, problems
from tcpdconf.daemon import assignment, changes, liststatus, loop, service

_SECONDS: Final = 60.0  # for everything


class Tried(NamedTuple):
    """What a trial found: problems, each at its place, and by name what each DNS list has answered."""

    problems: list[problems.Problem]
    lists: dict[str, dict[str, str]]


def run(loaded: load.Loaded, environment: dict[str, str]) -> Tried:
    """Try the enabled services."""
    return _Trial(loaded).run(environment)


class _Trial:
    def __init__(self, loaded: load.Loaded) -> None:
        self._loaded = loaded
        self._loop = loop.Loop()
        self._services: dict[str, service.Service] = {}
        self._waiting: set[str] = set()
        self._problems: list[problems.Problem] = []
        self._lists: dict[str, dict[str, str]] = {}

    def run(self, environment: dict[str, str]) -> Tried:
        around = service.Surroundings(self._loop, environment)
        config = self._loaded.config
        for name in config.enabled():
            each = self._services[name] = service.Service(name, around, self._heard)
            try:
                each.try_out(changes.part(config, name))
                self._waiting.add(name)
            except service.CannotPrepareError as error:
                for failure in error.failures:
                    self._note(name, failure)
        self._loop.after(_SECONDS, self._loop.stop)
        if self._waiting:
            self._loop.run()
        for name in sorted(self._waiting):
            self._note(name, assignment.Failure((), f"could not be tried within {_SECONDS:g} s"))
        for each in self._services.values():
            self._end(each)
        return Tried(self._problems, self._lists)

    def _heard(self, each: service.Service, message: dict[str, Any]) -> None:
        if message.get("failures"):
            for failure in assignment.failures(message):
                self._note(each.name, failure)
        for row in liststatus.rows(message.get("lists")):
            self._lists.setdefault(row["list"], row)
        self._waiting.discard(each.name)
        if not self._waiting:
            self._loop.stop()

    def _note(self, name: str, failure: assignment.Failure) -> None:
        self._problems.append(assignment.problem(self._loaded, name, failure))

    def _end(self, each: service.Service) -> None:
        each.kill()
        for pid in each.pids:
            os.waitpid(pid, 0)
        each.close()
