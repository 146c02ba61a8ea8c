"""The variables of a shell while its script is read, not run. Pure.

What cannot be known stands in a value as a mark with its reason, and goes wherever the value goes: into
other variables, into commands given as text. So a command is known when no mark is left in its words.
"""

import re
from collections.abc import Mapping
from typing import Final

from tcpdconf_migrate.script.words import Part, Word

_MARK: Final = re.compile("\ue000(\\d+)\ue001")


class Variables:
    """Names and values in nested scopes, as branches are nested; `exported` are the names that programs see.

    `known` are variables that somebody vouches for: no assignment changes them.
    """

    def __init__(self, known: Mapping[str, str]) -> None:
        self._known = known
        self._scopes: list[dict[str, str]] = [{}]
        self._reasons: list[str] = []
        self.exported: dict[str, None] = {}
        self.exports_all = False  # set -a
        self.assumed: dict[str, None] = {}  # what holds unless whoever runs the script says otherwise

    def child(self, *, inherits: bool) -> "Variables":
        """The variables of a shell that this one starts: the exported ones, if it inherits, and its state.

        The state of the shell itself is under names that begin with a blank, which no variable's does.
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
        """Begin a scope of its own."""
        self._scopes.append({})

    def leave(self) -> dict[str, str]:
        """End the innermost scope: what was assigned in it."""
        return self._scopes.pop()

    def assign(self, name: str, value: str) -> None:
        """Set a variable, from here to the end of the scope."""
        self._scopes[-1][name] = value
        if self.exports_all and name.isidentifier():
            self.exported[name] = None

    def forget(self, why: str) -> None:
        """Nothing is certain any more."""
        for scope in self._scopes:
            for name in scope:
                scope[name] = self.unknown(why)

    def is_set(self, name: str) -> bool:
        """Whether a variable has a value, known or not."""
        return name in self._known or any(name in scope for scope in self._scopes)

    def value(self, name: str) -> str:
        """The value; a mark where it is set nowhere, for it may come from whoever runs the script."""
        if name in self._known:
            return self._known[name]
        for scope in reversed(self._scopes):
            if name in scope:
                return scope[name]
        return self.unknown(f"{name} is set nowhere in it")

    def names(self) -> set[str]:
        """All that were assigned."""
        return {name for scope in self._scopes for name in scope}

    def unknown(self, why: str) -> str:
        """The mark of something unknown."""
        if why not in self._reasons:
            self._reasons.append(why)
        return f"\ue000{self._reasons.index(why)}\ue001"

    def reasons(self, text: str) -> list[str]:
        """Why a text is not known; nothing when it is."""
        return list(dict.fromkeys(self._reasons[int(number)] for number in _MARK.findall(text)))

    def fields(self, word: Word) -> list[str]:
        """What a word becomes: unquoted variables are split at blanks, or vanish (POSIX XCU 2.6.5)."""
        fields: list[str] = []
        joins = False  # whether the next piece goes on with the last field
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
        """The value of a word that is not split, as in an assignment."""
        return "".join(self._part(part) for part in parts)

    def _part(self, part: Part) -> str:
        if part.kind == "text":
            return part.text
        if part.kind == "unknown":
            return self.unknown(f"{part.text} is known only when it runs")
        if not part.operator or self.is_set(part.text):
            value = self.value(part.text)
            if value or not part.operator.startswith(":"):
                return value
        value = self.text(part.otherwise)
        if not self.is_set(part.text):
            self.assumed[f"{part.text} is set nowhere in it, so its default counts: {value}"] = None
        if part.operator.endswith("="):
            self.assign(part.text, value)
        return value
