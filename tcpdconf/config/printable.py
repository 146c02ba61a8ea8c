"""Makes text safe to show: the result cannot begin a line or control a terminal.

Text from files, clients and DNS may hold newlines and escape sequences. Logs and explanations show them
escaped; problems and tables, whose columns are counted, replace each by one character. Durations are shown in
one way everywhere.
"""

from collections.abc import Mapping
from typing import Any, Final

UNKNOWN: Final = "\ufffd"
_UNITS: Final = ((86400, "d"), (3600, "h"), (60, "min"))


def escaped(text: str) -> str:
    r"""Return a text with `\n`, `\x1b` and the like for every character that is not printable.

    >>> escaped("a\nb")
    'a\\nb'
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text
    )


def replaced(text: str, by: str = UNKNOWN, *, but: str = "") -> str:
    r"""Return a text with `by` for every character that is neither printable nor in `but`.

    >>> replaced("a\tb\n", " ", but="\t")
    'a\tb '
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in but else by for c in text)


def duration(seconds: float) -> str:
    """Format a time in its two largest units.

    >>> duration(7.9), duration(200), duration(7260), duration(3 * 86400)
    ('7 s', '3 min 20 s', '2 h 1 min', '3 d')
    """
    left = max(0, int(seconds))
    found = []
    for size, unit in _UNITS:
        count, left = divmod(left, size)
        found.append((count, unit))
    found.append((left, "s"))
    while len(found) > 1 and not found[0][0]:
        del found[0]
    return " ".join(f"{count} {unit}" for count, unit in found[:2] if count) or "0 s"


def lease(host: Mapping[str, Any]) -> tuple[str, str]:
    """Return the name of a host in the status of a cluster, and the age of its lease.

    >>> lease({"name": "mx1", "own": True, "alive": True, "lease_age": 3.2})
    ('mx1 (this host)', '3 s')
    >>> lease({"name": "mx2", "own": False, "alive": False, "lease_age": 61.0})
    ('mx2', 'over, 1 min 1 s old')
    """
    name, age = host["name"], host["lease_age"]
    shown = f"{age:.0f} s" if host["alive"] else f"over, {duration(age)} old"
    return f"{name} (this host)" if host["own"] else name, shown
