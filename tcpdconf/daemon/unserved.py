"""What may be configured and is not served yet: serving without it would not be what was written."""

from collections.abc import Iterator

from tcpdconf.config import load, positions, problems


def find(loaded: load.Loaded, severity: problems.Severity) -> list[problems.Problem]:
    """Each key of an enabled service that this version cannot serve."""
    text = "is not served by this version: `tcpdconf run` refuses it"
    return [loaded.problem(key, text, "not-served", severity) for key in _keys(loaded)]


def _keys(loaded: load.Loaded) -> Iterator[positions.Key]:
    for name, settings in loaded.config.enabled().items():
        key = ("services", name)
        if settings.lookup_names:
            yield (*key, "lookup_names")
        if settings.dns_lists:
            yield (*key, "dns_lists")
