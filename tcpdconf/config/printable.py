"""Makes text safe to show: the result cannot begin a line or control a terminal.

Text from files, clients and DNS may hold newlines and escape sequences. Logs and explanations show them
escaped; problems and tables, whose columns are counted, replace each by one character.
"""

from typing import Final

UNKNOWN: Final = "\ufffd"


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
