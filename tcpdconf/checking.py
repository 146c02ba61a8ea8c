"""What `tcpdconf check` finds beyond what loading finds: it may look at every house."""

from collections.abc import Iterator, Sequence
from typing import Final

from tcpdconf import columns
from tcpdconf.config import load, problems
from tcpdconf.policy import access

COLUMNS: Final = ("list", "state", "time", "127.0.0.2", "127.0.0.1", "random", "why")


def rules(loaded: load.Loaded) -> Iterator[problems.Problem]:
    """Rules that cannot both count."""
    for name, settings in loaded.config.services.items():
        for index, source in enumerate(settings.access):
            try:
                access.build(source.rules or ())
            except access.DuplicateRuleError as error:
                key = ("services", name, "access", index, "rules", error.index)
                yield loaded.problem(key, str(error), "duplicate-rule")


def probe(loaded: load.Loaded, known: Sequence[problems.Problem]) -> tuple[list[problems.Problem], str]:
    """What trying programs, files and DNS lists finds beyond what is `known`; and a table of the lists."""
    from tcpdconf.daemon import running, trial  # noqa: PLC0415 (what serves is not needed to check)

    tried = trial.run(loaded, running.environment())
    before = {(problem.key, problem.text) for problem in known}
    found = [problem for problem in tried.problems if (problem.key, problem.text) not in before]
    rows = [[row.get(name, "") for name in COLUMNS] for row in tried.lists.values()]
    return found, columns.table(COLUMNS, rows)
