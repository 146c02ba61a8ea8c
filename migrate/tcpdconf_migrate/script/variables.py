"""Tracks the variables of a shell while its script is read, not run. Pure.

An unknown value is a mark with its reason. The mark goes wherever the value goes: into other variables and
into commands given as text. A command is known when its words have no mark.
"""

import re
from collections.abc import Mapping
from typing import Final

from tcpdconf_migrate.script.words import Part, Word

_MARK: Final = re.compile("\ue000(\\d+)\ue001")


class Variables:
    """Holds variables in nested scopes, as branches are nested; `exported` are those that programs see.

    `known` are variables given by the user: no assignment changes them.
    """

    def __init__(self, known: Mapping[str, str]) -> None:
        self._known = known
        self._scopes: list[dict[str, str]] = [{}]
        self._reasons: list[str] = []
        self.exported: dict[str, None] = {}
        self.exports_all = False  # set -a
        self.assumed: dict[str, None] = {}  # assumptions that hold unless the script's caller changes them

    def child(self, *, inherits: bool) -> "Variables":
        """Return the variables of a shell that this one starts: its state and, if it inherits, exported ones.

        The state of the shell itself has names that begin with a blank, unlike any variable.
        """
        made = Variables(self._known)
        made._reasons, made.assumed = self._reasons, self.assumed
        made.exported = dict(self.exported) if inherits else {}
        kept = [*made.exported, *(name for name in self.names() if name.startswith(" "))]
        made._scopes = [{name: self.value(name) for name in kept}]
        return made

    def export(self, name: str, value: str) -> None:
        """Set a variable that programs see."""
        self.assign(name, value)
        self.exported[name] = None

    def enter(self) -> None:
        """Begin a scope."""
        self._scopes.append({})

    def leave(self) -> dict[str, str]:
        """End the innermost scope; return its assignments."""
        return self._scopes.pop()

    def assign(self, name: str, value: str) -> None:
        """Set a variable until the end of the scope."""
        self._scopes[-1][name] = value
        if self.exports_all and name.isidentifier():
            self.exported[name] = None

    def forget(self, why: str) -> None:
        """Make all variables unknown."""
        for scope in self._scopes:
            for name in scope:
                scope[name] = self.unknown(why)

    def is_set(self, name: str) -> bool:
        """Return whether a variable has a value, known or not."""
        return name in self._known or any(name in scope for scope in self._scopes)

    def value(self, name: str) -> str:
        """Return the value of a variable.

        One that is never set gets a mark, since the script's caller may set it.
        """
        if name in self._known:
            return self._known[name]
        for scope in reversed(self._scopes):
            if name in scope:
                return scope[name]
        return self.unknown(f"{name} is not set in this script")

    def names(self) -> set[str]:
        """Return the names of all variables that were assigned."""
        return {name for scope in self._scopes for name in scope}

    def unknown(self, why: str) -> str:
        """Return the mark of an unknown value."""
        if why not in self._reasons:
            self._reasons.append(why)
        return f"\ue000{self._reasons.index(why)}\ue001"

    def reasons(self, text: str) -> list[str]:
        """Return the reasons why a text is unknown; none if it is known."""
        return list(dict.fromkeys(self._reasons[int(number)] for number in _MARK.findall(text)))

    def fields(self, word: Word) -> list[str]:
        """Return the fields that a word becomes.

        Unquoted variables are split at blanks, or vanish (POSIX XCU 2.6.5).
        """
        fields: list[str] = []
        joins = False  # True if the next piece continues the last field
        for part in word.parts:
            text = self._part(part)
            if part.kind == "text" or part.quoted:
                pieces, opens, closes = [text], False, False
            else:
                pieces, opens, closes = text.split(), text[:1].isspace(), text[-1:].isspace()
            for index, piece in enumerate(pieces):
                if joins and not index and not opens:
                    fields[-1] += piece
                else:
                    fields.append(piece)
                joins = True
            joins = joins and not closes
        return fields

    def text(self, parts: tuple[Part, ...]) -> str:
        """Return the value of a word that is not split, as in an assignment."""
        return "".join(self._part(part) for part in parts)

    def _part(self, part: Part) -> str:
        if part.kind == "text":
            return part.text
        if part.kind == "unknown":
            return self.unknown(f"{part.text} is known only at run time")
        if not part.operator or self.is_set(part.text):
            value = self.value(part.text)
            if value or not part.operator.startswith(":"):
                return value
        value = self.text(part.otherwise)
        if not self.is_set(part.text):
            self.assumed[f"{part.text} is not set in this script, so its default applies: {value}"] = None
        if part.operator.endswith("="):
            self.assign(part.text, value)
        return value
