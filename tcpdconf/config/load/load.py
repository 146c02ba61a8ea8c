"""Loads a conf.d directory into a validated `Config`, or reports every problem of every file at once.

Each file is validated as written, then each service with its defaults filled in, then the whole against this
host. Positions are computed only when they are needed.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace as replaced
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import pydantic

from tcpdconf.config import codes, positions, problems
from tcpdconf.config.file_signature import Signature
from tcpdconf.config.load import files as config_files
from tcpdconf.config.load import hostcheck, merge
from tcpdconf.config.load.files import Directory
from tcpdconf.config.load.loaded import Loaded, advised
from tcpdconf.config.load.source import SourceFile
from tcpdconf.config.model import fields, notations, values
from tcpdconf.config.model.service import Config, Service, ServiceSettings, Settings
from tcpdconf.config.near import near

if TYPE_CHECKING:
    from tcpdconf.config.load import validation_errors

Services = dict[str, ServiceSettings]

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
_NO_FILES: Final[Mapping[str, Signature]] = MappingProxyType({})
_MOST: Final = 500  # problems that are reported, at most
_SERVICES: Final = 500
_INHERITED: Final = 100_000  # values that all services together inherit from [defaults], at most
_ARRAYS: Final = frozenset({"access", "dns_lists", "environment_files", "listeners"})  # of a service
_Valid = dict[int, tuple[Any, ...]]
"""Maps the id of an array in the files to its validated value, which all services that have it share."""

# problems that other tables may still solve; inside an array nothing is filled in
_HEALED: Final = frozenset({"missing-key", "conflict"})


class LoadError(problems.ConfigError):
    """Reports an unusable directory.

    `config` is its configuration if only the host objects; otherwise it is empty.

    `signatures` are those of its files, taken before reading.
    """

    def __init__(
        self,
        found: Iterable[problems.Problem],
        config: Config,
        signatures: Mapping[str, Signature] = _NO_FILES,
    ) -> None:
        super().__init__(found)
        self.config = config
        self.signatures = signatures


def load(
    directory: str | Path,
    replace: Mapping[str, str] = _NOTHING,
    *,
    to_serve: bool = True,
    further: Callable[[Loaded, Services], Iterable[problems.Problem]] | None = None,
    alone: bool = False,
) -> Loaded:
    """Read, merge and validate DIR/*.toml; `replace` maps paths in DIR to files that are read instead.

    With `alone`, `directory` is one file, which need not have a service: others of its set may.

    Without `to_serve`, checks that concern only a serving host are left out: its users, ports and files, and
    whether any service is enabled. `further` returns more problems of the services; wrong keys are missing
    from the services that it gets.

    Raises:
        LoadError: with all problems of all files.
    """
    found = config_files.read(directory, replace, alone=alone)
    if found.too_large:
        raise LoadError(found.problems, Config(), found.signatures)
    written = merge.Merged(found.sources)
    loaded = Loaded(str(directory), Config(), tuple(found.order), found.signatures, written=written)
    seen = _Seen(str(directory), found.problems, wrong=any(file.recovered for file in found.sources))
    valid: _Valid = {}
    for file in found.sources:
        seen.add(_as_written(file, valid))
    seen.add(_twice(found.sources))
    too_many = list(_too_many(loaded))
    seen.add(too_many)
    if too_many or seen.full:
        raise LoadError(_ordered(seen, found), loaded.config, found.signatures)
    unread = "\n".join(found.broken)
    services, rest = _services(loaded, seen, unread, valid)
    seen.add(_chains(loaded, {**services, **rest}, unread))
    seen.add(_scopes(loaded, {**services, **rest}, unread))
    if not seen.errors():
        loaded = replaced(loaded, config=_config(loaded, services, seen))
    if to_serve:
        seen.add(hostcheck.check(loaded, {**services, **rest}))
        may_be_empty = alone or loaded.config.daemon.allow_empty
        if not (seen.errors() or loaded.config.enabled() or may_be_empty):
            seen.add([_no_service(loaded)])
    if further is not None:
        seen.add(further(loaded, {**services, **rest}))
    ordered = _ordered(seen, found)
    if seen.errors():
        raise LoadError(ordered, loaded.config, found.signatures)
    return replaced(loaded, warnings=tuple(ordered))


def _no_service(loaded: Loaded) -> problems.Problem:
    disabled = loaded.config.services
    hint = "set enabled = true for one of them" if disabled else "describe one under [services.NAME]"
    return problems.Problem(loaded.directory, 0, 0, "", "has no enabled service", "no-service", hint=hint)


def _ordered(seen: "_Seen", found: Directory) -> list[problems.Problem]:
    """Return the problems in the order of files, lines and columns; those of the directory come first."""
    told = seen.problems
    for file in found.sources:
        if file.recovered is not None:
            from tcpdconf.config.load import recovery  # noqa: PLC0415 (needed for problems only)

            here = [problem for problem in told if problem.file == file.path]
            told = [problem for problem in told if problem.file != file.path]
            told += [*recovery.mend(file.recovered, here), *file.recovered.told]
    return sorted(told, key=lambda p: (found.order.get(p.file, -1), p.line, p.column, p.code != "syntax"))


class _Seen:
    """Collects problems, each once: a wrong default is the same problem in every service that inherits it.

    After `_MOST` problems with an error among them it is `full`: a last problem says so, and no more are
    added.
    """

    def __init__(self, directory: str, known: list[problems.Problem], *, wrong: bool) -> None:
        self.full = False
        self.problems: list[problems.Problem] = []
        self._directory = directory
        self._wrong = wrong
        self._places: set[tuple[object, ...]] = set()
        self.add(known)

    def add(self, found: Iterable[problems.Problem]) -> None:
        if self.full:
            return
        for problem in found:
            last = problem.key.rpartition(".")[2]
            place = (problem.file, problem.line, problem.column, problem.text, last)
            if place not in self._places:
                self._places.add(place)
                self.problems.append(problem)
                self._wrong = self._wrong or problem.severity == "error"
            if self._wrong and len(self.problems) >= _MOST:
                self.full = True
                text, hint = f"has more than {_MOST} problems", "correct these first"
                more = problems.Problem(self._directory, 0, 0, "", text, "too-many-problems", hint=hint)
                self.problems.append(more)
                return

    def errors(self) -> bool:
        return self._wrong


def _as_written(file: SourceFile, valid: _Valid) -> Iterator[problems.Problem]:
    """Yield the problems of one file, whatever the others contain; add its valid arrays to `valid`."""
    try:
        settings = Settings.model_validate(file.data, by_alias=True, by_name=False)
    except pydantic.ValidationError as error:
        from tcpdconf.config.load import validation_errors  # noqa: PLC0415 (needed for problems only)

        for found in validation_errors.findings(error, file.data, Settings):
            if found.code in _HEALED and not any(isinstance(part, int) for part in found.key):
                continue
            if found.code in _HEALED and file.is_partial:
                continue
            yield _written_here(file, advised(found, file, found.key))
    else:
        written = {"": file.data.get("defaults", {}), **file.data.get("services", {})}
        for name, table in written.items():
            means = settings.services[name] if name else settings.defaults
            valid |= {id(table[key]): getattr(means, key) for key in _ARRAYS & table.keys()}


def _written_here(file: SourceFile, found: "validation_errors.Finding") -> problems.Problem:
    """Return the problem for a finding about one file."""
    edits = found.edits
    if found.meant is not None:
        edits = file.replacement(found.key, found.spot, found.meant)
    span, key = file.span(found.key, found.spot), problems.dotted(found.key)
    return file.problem(span, key, found.text, found.code, hint=found.hint, edits=edits)


def _twice(files: list[SourceFile]) -> Iterator[problems.Problem]:
    """Yield problems of names that two files define: services, chains, keys of tables that files share."""
    twice: dict[str, codes.Code] = {"services": "duplicate-service", "dns_chains": "duplicate-chain"}
    first: dict[positions.Key, SourceFile] = {}
    for file in files:
        for table in ("services", "dns_chains", "dns", "daemon", "cluster"):
            for name in merge.table(file.data, table):
                known = first.setdefault((table, name), file)
                if known is file:
                    continue
                key = (table, name)
                span, text = known.span(key, "key"), "is defined twice"
                if span is not None:
                    text += f", first at {known.path}:{span.line}:{span.column}"
                code = twice.get(table, "duplicate-key")
                yield file.problem(file.span(key, "key"), problems.dotted(key), text, code)


def _too_many(loaded: Loaded) -> Iterator[problems.Problem]:
    """Yield problems of more services than one daemon runs, or of defaults too large for so many."""
    count = len(loaded.written.owners)
    if count > _SERVICES:
        text = f"has {count} services, at most {_SERVICES} are allowed"
        yield problems.Problem(
            loaded.directory,
            0,
            0,
            "services",
            text,
            "too-large",
            hint="run several daemons, each with its own directory",
        )
    inherited = loaded.written.inherited()
    if inherited > _INHERITED:
        text = f"gives {count} services {inherited} values, at most {_INHERITED} are allowed"
        hint = 'put access rules into a file: [[defaults.access]] file = "..."'
        yield loaded.problem(("defaults",), text, "too-large", hint=hint)


def _services(loaded: Loaded, seen: _Seen, unread: str, known: _Valid) -> tuple[Services, Services]:
    """Return the valid services and the valid parts of the others, whose problems go to `seen`.

    A key that seems to be missing may be in the defaults of a file that could not be parsed (`unread`).
    """
    hopeful = re.search(r"\bdefaults\b", unread) is not None
    valid: Services = {}
    rest: Services = {}
    for name, data in loaded.written.services():
        if not fields.NAME.fullmatch(name):
            continue
        partial = loaded.written.owners[name].is_partial
        judged = {key: known.get(id(value), value) for key, value in data.items()}
        try:
            valid[name] = Service.model_validate(judged, by_alias=True, by_name=False)
            known |= {id(data[key]): getattr(valid[name], key) for key in _ARRAYS & data.keys()}
        except pydantic.ValidationError as error:
            from tcpdconf.config.load import validation_errors  # noqa: PLC0415 (needed for problems only)

            seen.add(
                loaded.found(found)
                for found in validation_errors.findings(error, data, Settings, ("services", name))
                if not ((hopeful or partial) and found.code in _HEALED)
            )
            rest[name] = _remains(data, validation_errors.wrong(error))
        else:
            if partial:  # the unreadable part may have what it lacks
                rest[name] = _remains(data, set())
                del valid[name]
    return valid, rest


def _remains(data: dict[str, Any], wrong: set[str | int]) -> ServiceSettings:
    """Return a service without its wrong keys, so that the host can check the others in the same run."""
    if "group" in wrong:  # a user may be valid only together with its group
        wrong = wrong | {"user"}
    right = {key: value for key, value in data.items() if key not in wrong}
    return ServiceSettings.model_validate(right, by_alias=True, by_name=False)


def _config(loaded: Loaded, services: Services, seen: _Seen) -> Config:
    """Return the whole configuration; conflicts in tables that files share go to `seen`."""
    shared = {name: loaded.written.whole(name) for name in ("dns", "dns_chains", "daemon")}
    if cluster := loaded.written.whole("cluster"):
        shared["cluster"] = cluster
    try:
        return Config.model_validate({"services": services, **shared}, by_alias=True, by_name=False)
    except pydantic.ValidationError as error:
        from tcpdconf.config.load import validation_errors  # noqa: PLC0415 (needed for problems only)

        seen.add(loaded.found(found) for found in validation_errors.findings(error, shared, Settings))
        return loaded.config


def _scopes(loaded: Loaded, services: Services, unread: str) -> Iterator[problems.Problem]:
    """Yield a problem of each service that counts in an engine, if no file says where that is."""
    if loaded.written.whole("cluster") or "cluster" in unread:
        return
    for service, settings in services.items():
        if settings.limits.scope == "cluster":
            key = ("services", service, "limits", "scope")
            hint = 'add a table [cluster] with url = "redis://HOST:PORT", or leave scope out'
            yield loaded.problem(key, 'is "cluster", but there is no [cluster]', "missing-key", hint=hint)


def _chains(loaded: Loaded, services: Services, unread: str) -> Iterator[problems.Problem]:
    """Yield problems of chains that no file defines, unless a file that could not be parsed may."""
    known = loaded.written.whole("dns_chains")
    for service, settings in services.items():
        for index, name in enumerate(settings.dns_lists):
            if isinstance(name, str) and name not in known and name not in unread:
                meant = near(name, known)
                advice = (
                    notations.Advice(meant=notations.quoted(meant)) if meant else notations.dns_list(name)
                )
                hint = (
                    f'did you mean "{meant}"?' if meant else f"write {advice.meant}" if advice.meant else None
                )
                if hint is None:
                    hint = f"define it: [[{problems.dotted(('dns_chains', name, 'lists'))}]], with a zone"
                key = ("services", service, "dns_lists", index)
                text = f"there is no chain {values.shown(name)}"
                yield loaded.problem(key, text, "unknown-chain", hint=hint, meant=advice.meant)
