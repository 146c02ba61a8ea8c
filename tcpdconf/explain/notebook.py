"""Records the steps of an explanation, each with the place of its setting in the files."""

from collections.abc import Mapping

from tcpdconf.config import positions
from tcpdconf.config.load.loaded import Loaded
from tcpdconf.explain.report import Kind, Step
from tcpdconf.policy.access import locate


class Notebook:
    """Collects the steps of one connection to a service."""

    def __init__(self, loaded: Loaded, service: str) -> None:
        self.steps: list[Step] = []
        self._loaded = loaded
        self._service = service

    def note(
        self,
        kind: Kind,
        subject: str,
        effect: str,
        text: str,
        *,
        place: locate.RulePlace | None = None,
        sets: Mapping[str, str] | None = None,
    ) -> None:
        """Record a step."""
        self.steps.append(Step(kind, subject, effect, text, place, sets or {}))

    def place(self, *key: str | int) -> locate.RulePlace | None:
        """Return where a key of the service is written; None for a default."""
        return self.at(("services", self._service, *key))

    def at(self, key: positions.Key) -> locate.RulePlace | None:
        """Return where any key of the configuration is written; None for a default."""
        found = self._loaded.origin(key)
        return None if found is None else locate.RulePlace(*found, "")
