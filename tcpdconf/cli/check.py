"""Checks for `tcpdconf check` what loading does not check.

It may import every package.
"""

import os
import shlex
from collections.abc import Iterator, Sequence
from typing import Final

from tcpdconf.cli import columns
from tcpdconf.config import host, problems
from tcpdconf.config.load import files as config_files
from tcpdconf.config.load import load
from tcpdconf.config.load.loaded import Loaded
from tcpdconf.policy.access import table as access_table
from tcpdconf.policy.access.table import DuplicateRuleError

COLUMNS: Final = ("list", "state", "time", "127.0.0.2", "127.0.0.1", "random", "why")
_DAMAGED: Final = "the daemon puts it aside when it starts, and keeps the bans that can be read"
_UNTRUSTED: Final = "name the file that is meant, or let the service's user open it"


def rules(loaded: Loaded) -> Iterator[problems.Problem]:
    """Yield a problem for each access rule that repeats another rule's network and local end."""
    for name, settings in loaded.config.services.items():
        for index, source in enumerate(settings.access):
            try:
                access_table.build(source.rules or ())
            except DuplicateRuleError as error:
                key = ("services", name, "access", index, "rules", error.index)
                yield loaded.problem(key, str(error), "duplicate-rule")


def observed(loaded: Loaded) -> str:
    """Return a line for each enabled service with limits or access sources that only observe.

    It is no warning, because `enforce = false` is written on purpose.
    """
    found = ((name, service.observed()) for name, service in loaded.config.enabled().items())
    return "".join(f"{name} only observes: {', '.join(keys)}\n" for name, keys in found if keys)


def capacity(loaded: Loaded) -> Iterator[problems.Problem]:
    """Yield warnings about host limits that the services, together or alone, may exceed."""
    from tcpdconf.daemon import capacity  # noqa: PLC0415 (the other checks do not need the daemon)

    return capacity.warnings(loaded, capacity.Host().expected())


def rights(loaded: Loaded) -> Iterator[problems.Problem]:
    """Yield warnings about settings of processes that the daemon's unit forbids."""
    from tcpdconf.daemon import capacity, unit_rights  # noqa: PLC0415 (as above)

    return unit_rights.warnings(loaded, capacity.Host())


def bans(loaded: Loaded) -> Iterator[problems.Problem]:
    """Yield warnings about bans of networks that the configuration protects, and about a damaged file.

    A file that this user cannot read is left out.
    """
    from tcpdconf.daemon.guard import bans as ban_file  # noqa: PLC0415 (the other checks do not need the daemon)
    from tcpdconf.daemon.guard import protection  # noqa: PLC0415

    try:
        found = ban_file.read(os.environ)
    except OSError:
        return
    except ValueError as error:
        yield loaded.problem(("daemon",), str(error), "damaged-bans", "warning", hint=_DAMAGED)
        return
    protected = list(protection.configured(loaded.config)) if found else []
    for ban in found:
        for each in protected:
            concerned = {("daemon", "never_ban"), ("services", ban.service or each.key[1])}
            if each.key[:2] in concerned and protection.overlap(ban.network, each.network):
                shown = ban_file.shown(ban.network)
                only = "" if ban.service is None else f" --service {ban.service}"
                text = f"{shown} is banned, but {ban_file.shown(each.network)} should not be"
                hint = f"lift the ban: tcpdconf unban {shown}{only}"
                yield loaded.problem(each.key, text, "banned-address", "warning", hint=hint)


def files(loaded: Loaded, services: load.Services) -> Iterator[problems.Problem]:
    """Yield the problems of the files of enabled services: their paths and their contents.

    The files are opened as the supervisor opens them. Only root can find everything that it would refuse.
    """
    from tcpdconf.cli import filecheck  # noqa: PLC0415 (the other checks do not need the daemon)
    from tcpdconf.daemon.descriptors import WorkerDescriptors  # noqa: PLC0415

    chains = loaded.config.dns_chains
    for name, settings in services.items():
        if not settings.enabled:
            continue
        given = WorkerDescriptors()
        try:
            who = host.identity(settings)
            known = tuple(item for item in settings.dns_lists if not isinstance(item, str) or item in chains)
            given.open(settings.model_copy(update={"dns_lists": known}), who, chains)
            given.judge_log(settings, who)
            for failure in given.irregular:
                key = ("services", name, *failure.key)
                yield loaded.problem(key, failure.text, "missing-file")
            for failure in given.untrusted:
                key = ("services", name, *failure.key)
                yield loaded.problem(key, failure.text, "untrusted-path", hint=_UNTRUSTED)
            yield from filecheck.read(loaded, name, settings, who, given)
        except host.UnknownNameError:
            continue  # a problem of its own
        finally:
            given.close()


def within_its_set(path: str) -> str:
    """Return advice on checking a file together with the others of its set."""
    folder, name = os.path.split(path)
    said = "The file was checked alone: [defaults] of other files did not apply."
    another = "a"
    if not config_files.counts(name):
        name = "NAME.toml"
    elif sum(map(config_files.counts, os.listdir(folder or "."))) > 1:
        said += " To check it with the other files of its directory:\n"
        said += f"  tcpdconf check {shlex.quote(folder or '.')}\n"
        another = "another"
    said += f"{' ' if another == 'a' else ''}To check it as a draft for {another} directory DIR:\n"
    return f"{said}  tcpdconf check DIR --replace {shlex.quote(f'DIR/{name}={path}')}\n"


def probe(loaded: Loaded, known: Sequence[problems.Problem]) -> tuple[list[problems.Problem], str]:
    """Try programs, files and DNS lists; return the problems not yet `known`, and a table of the lists."""
    from tcpdconf.daemon import run as daemon_run  # noqa: PLC0415
    from tcpdconf.daemon.supervisor import probe as service_probe  # noqa: PLC0415 (the other checks do not need it)

    tried = service_probe.run(loaded, daemon_run.environment())
    before = {(problem.key, problem.text) for problem in known}
    found = [problem for problem in tried.problems if (problem.key, problem.text) not in before]
    rows = [[row.get(name, "") for name in COLUMNS] for row in tried.lists.values()]
    return found, columns.table(COLUMNS, rows)
