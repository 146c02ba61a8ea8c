"""Groups words and operators into simple commands (POSIX XCU 2.9, 2.10). Pure.

Reserved words (`if`, `then`, `{`, ...) stay in front of the commands, for a caller that follows branches.
Brackets and `;;` become words as well, and the bracket after a pattern of `case` becomes a `then`.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from tcpdconf_migrate.script.words import Operator, Part, Redirection, Token, Word

_ASSIGNMENT: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\+?)=")


class SimpleCommand(NamedTuple):
    """Holds a simple command after its reserved words, its redirections, and the operators around it.

    There are no words if redirections stand alone, as after the `)` of a subshell.
    """

    words: tuple[Word, ...]
    before: str
    after: str = ""
    redirections: tuple[Redirection, ...] = ()


class Assigned(NamedTuple):
    """Holds an assignment; `appends` is True if it is written with `+=`."""

    name: str
    parts: tuple[Part, ...]
    appends: bool


def commands(tokens: Sequence[Token]) -> Iterator[SimpleCommand]:
    """Yield the commands of a script, in order.

    Patterns of `case` and names of functions are not commands.
    """
    words: list[Word] = []
    redirections: list[Redirection] = []
    before = ""
    for index, token in enumerate(tokens):
        if not isinstance(token, Operator):
            _collect(token, words, redirections)
            if words and plain(words[-1]) == "in" and plain(words[0]) == "case":
                yield SimpleCommand(tuple(words), before)
                words = []
            continue
        if token.text == "(" and _is_empty_pair(tokens, index):
            words = []
            continue
        if token.text == ")" and _is_pattern(tokens, index):
            words = [_word(token, "then")]
            continue
        if words or redirections:
            yield SimpleCommand(tuple(words), before, token.text, tuple(redirections))
        words, redirections, before = [], [], token.text
        if token.text == "(":
            words = [_word(token, "(")]
        elif token.text in {")", ";;"} and not _is_empty_pair(tokens, index - 1):
            yield SimpleCommand((_word(token, token.text),), "")
    if words or redirections:
        yield SimpleCommand(tuple(words), before, "", tuple(redirections))


def _collect(
    token: Word | Redirection,
    words: list[Word],
    redirections: list[Redirection],
) -> None:
    if isinstance(token, Redirection):
        redirections.append(token)
    else:
        words.append(token)


def _word(token: Operator, text: str) -> Word:
    return Word(token.line, (Part("text", text, quoted=False),))


def _is_empty_pair(tokens: Sequence[Token], index: int) -> bool:
    """Return whether the brackets of `name()` are at this index and the next."""
    pair = [token.text for token in tokens[index : index + 2] if isinstance(token, Operator)]
    return pair == ["(", ")"]


def _is_pattern(tokens: Sequence[Token], index: int) -> bool:
    """Return whether this bracket ends a pattern of `case`: none was opened since the last pattern."""
    depth = 0
    for token in reversed(tokens[:index]):
        if isinstance(token, Redirection):
            continue
        text = token.text if isinstance(token, Operator) else plain(token)
        depth += (text == "(") - (text == ")")
        if depth > 0:
            return False
        if text in {"in", ";;"}:
            return True
    return False


def writes(command: SimpleCommand) -> bool:
    """Return whether the output of a command goes to a file or another command."""
    targets = [each.target.parts for each in command.redirections if each.operator in {">", ">>", ">|"}]
    return command.after == "|" or any(
        not parts or not parts[0].text.startswith("/dev/") for parts in targets
    )


def plain(word: Word) -> str:
    """Return the text of a word without quotes and variables, as reserved words are; "" for any other."""
    written = all(part.kind == "text" and not part.quoted for part in word.parts)
    return "".join(part.text for part in word.parts) if written else ""


def assigned(word: Word) -> Assigned | None:
    """Return a word as an assignment, or None if it is none."""
    first = word.parts[0] if word.parts else None
    if first is None or first.kind != "text" or first.quoted:
        return None
    found = _ASSIGNMENT.match(first.text)
    if found is None:
        return None
    rest = first._replace(text=first.text[found.end() :])
    return Assigned(found[1], (rest, *word.parts[1:]), bool(found[2]))
