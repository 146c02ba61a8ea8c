"""What `tcpdconf check` finds beyond what loading finds: it may look at every house."""

from collections.abc import Iterator

from tcpdconf.config import load, problems
from tcpdconf.policy import access


def further(loaded: load.Loaded, *, probe: bool) -> list[problems.Problem]:
    """Problems of a configuration that loads; with `probe` its programs and files are tried as well."""
    found = list(_rules(loaded))
    if probe:
        from tcpdconf.daemon import running, trial  # noqa: PLC0415 (what serves is not needed to check)

        known = {(problem.key, problem.text) for problem in found}
        tried = trial.run(loaded, running.environment())
        found += [problem for problem in tried if (problem.key, problem.text) not in known]
    return found


def _rules(loaded: load.Loaded) -> Iterator[problems.Problem]:
    """Rules that cannot both count."""
    for name, settings in loaded.config.services.items():
        for index, source in enumerate(settings.access):
            try:
                access.build(source.rules or ())
            except access.DuplicateRuleError as error:
                key = ("services", name, "access", index, "rules", error.index)
                yield loaded.problem(key, str(error), "duplicate-rule")
