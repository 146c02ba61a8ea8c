"""The Ansible filter tcpdconf_unknown: names variables that the role does not know, with near known ones."""

from __future__ import annotations

import difflib
from typing import Any

_PREFIX = "tcpdconf_"


def unknown(names: list[str], known: dict[str, Any]) -> list[str]:
    """Return the names that are not known, in their order, each with a hint where a known one is near."""
    ends = [name.removeprefix(_PREFIX) for name in known]  # the prefix would make all of them near
    found = []
    for name in sorted(set(names) - set(known)):
        near = difflib.get_close_matches(name.removeprefix(_PREFIX), ends, 1)
        found.append(name + "".join(f" (did you mean {_PREFIX}{end}?)" for end in near))
    return found


class FilterModule:
    """Registers the filters with Ansible."""

    def filters(self) -> dict[str, Any]:
        """The filters by name."""
        return {"tcpdconf_unknown": unknown}
