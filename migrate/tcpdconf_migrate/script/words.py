"""Splits shell text into words and operators, each with its line (POSIX XCU 2.2, 2.3). Pure.

Nothing is expanded or run.

Comments are left out. Text known only at run time (command substitution, arithmetic, positional parameters)
is an `unknown` part of its word.
"""

import re
from typing import Final, Literal, NamedTuple

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BRACED: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(:?[-=])?")
_OPERATOR: Final = re.compile(r";;|;|&&|\|\||&|\|&|\||\(|\)|\n")
_REDIRECTION: Final = re.compile(r"<<<|<<-?|[<>]&|&>>?|>>|<>|>\||<|>")  # <<<, &> and |& are bash's


class Part(NamedTuple):
    """Holds a piece of a word.

    `text` is the text, the variable's name, or an unknown piece as written.

    `otherwise` is the word of `${NAME:-word}`, and `operator` the characters before it.
    """

    kind: Literal["text", "variable", "unknown"]
    text: str
    quoted: bool
    operator: str = ""
    otherwise: tuple["Part", ...] = ()


class Word(NamedTuple):
    """Holds a word, with the line where it begins."""

    line: int
    parts: tuple[Part, ...]


class Operator(NamedTuple):
    """Holds an operator: `;`, `&&`, `(`, a line end, ..."""

    line: int
    text: str


class Redirection(NamedTuple):
    """Holds a redirection such as `2>>file`.

    `descriptor` is "" if none is written. `document` is the text of a here-document.
    """

    line: int
    descriptor: str
    operator: str
    target: Word
    document: str = ""


Token = Word | Operator | Redirection


class ShellSyntaxError(ValueError):
    """Reports a quote or bracket that is never closed; `line` is where it was opened."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


def tokens(text: str, line: int = 1) -> list[Token]:
    """Return the words and operators of a script whose first line has this number.

    Raises:
        ShellSyntaxError: a quote or bracket is not closed.
    """
    return _Reader(text, line).read()


class _Reader:
    def __init__(self, text: str, line: int) -> None:
        self._text = text
        self._first = line
        self._at = 0
        self._read: list[Token] = []
        # here-documents that follow this line: the index and the redirection of each
        self._documents: list[tuple[int, Redirection]] = []

    def read(self) -> list[Token]:
        while self._at < len(self._text):
            if found := self._match(r"[ \t\r]+|\\\n"):
                continue
            if self._peek() == "#":
                self._match(r"[^\n]*")
            elif re.match(r"[<>]\(", self._text[self._at : self._at + 2]):
                self._read.append(self._process())
            elif found := self._match(_REDIRECTION):
                self._redirect("", found)
            elif found := self._match(_OPERATOR):
                self._read.append(Operator(self._line(self._at - len(found)), found))
                if found == "\n":
                    self._take_documents()
            else:
                word = self._word()
                if self._peek() in "<>" and _is_number(word):
                    self._redirect(word.parts[0].text, self._match(_REDIRECTION))
                else:
                    self._read.append(word)
        return self._read

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1] or "\0"

    def _match(self, pattern: str | re.Pattern[str]) -> str:
        found = re.compile(pattern).match(self._text, self._at)
        if found is None:
            return ""
        self._at = found.end()
        return found[0]

    def _line(self, at: int) -> int:
        return self._first + self._text.count("\n", 0, at)

    def _redirect(self, descriptor: str, operator: str) -> None:
        line = self._line(self._at - len(operator))
        self._match(r"[ \t]+")
        process = re.match(r"[<>]\(", self._text[self._at : self._at + 2])
        target = self._process() if process else self._word()
        redirection = Redirection(line, descriptor, operator, target)
        if operator in {"<<", "<<-"}:
            self._documents.append((len(self._read), redirection))
        self._read.append(redirection)

    def _process(self) -> Word:
        """Read bash's `>(command)`, a file whose name is known only at run time."""
        start = self._at
        self._at += 2
        self._to_bracket(start)
        return Word(self._line(start), (Part("unknown", self._text[start : self._at], quoted=True),))

    def _take_documents(self) -> None:
        for place, begin in self._documents:
            delimiter = "".join(part.text for part in begin.target.parts)
            text = self._match(re.compile(rf"(?:.*\n)*?\t*{re.escape(delimiter)}\n|(?:.|\n)*"))
            self._read[place] = begin._replace(document=text)
        self._documents.clear()

    def _word(self) -> Word:
        line = self._line(self._at)
        parts: list[Part] = []
        while (character := self._peek()) not in "\0 \t\r\n;&|()<>":
            if character == "'":
                parts.append(Part("text", self._single(), quoted=True))
            elif character == '"':
                parts += self._double()
            elif character in "$`":
                parts.append(self._dollar(quoted=False))
            elif character == "\\":
                escaped = self._match(re.compile(r"\\(?:.|\n)?"))[1:]
                if escaped != "\n":
                    parts.append(Part("text", escaped, quoted=True))
            else:
                parts.append(Part("text", self._match(r"[^\s;&|()<>'\"$`\\]+"), quoted=False))
        return Word(line, tuple(parts))

    def _single(self) -> str:
        line = self._line(self._at)
        found = self._match(r"'[^']*'")
        if not found:
            raise ShellSyntaxError(line, "the ' is not closed")
        return found[1:-1]

    def _double(self) -> list[Part]:
        line = self._line(self._at)
        self._at += 1
        parts = [Part("text", "", quoted=True)]  # "" is a word, too
        while (character := self._peek()) != '"':
            if character == "\0":
                raise ShellSyntaxError(line, 'the " is not closed')
            if character in "$`":
                parts.append(self._dollar(quoted=True))
            elif character == "\\":
                escaped = self._match(re.compile(r"\\(?:.|\n)?"))
                if escaped != "\\\n":
                    kept = escaped[1:] if escaped[1:] in '$`"\\' else escaped
                    parts.append(Part("text", kept, quoted=True))
            else:
                parts.append(Part("text", self._match(r'[^"$`\\]+'), quoted=True))
        self._at += 1
        return parts

    def _dollar(self, *, quoted: bool) -> Part:
        """Read the expansion at a `$` or a backquote."""
        start = self._at
        if found := self._match(rf"\$(?:{_NAME.pattern})"):
            return Part("variable", found[1:], quoted)
        if self._match(r"\$\{"):
            return self._braced(start, quoted=quoted)
        if self._match(r"\$\("):
            self._to_bracket(start)
        elif self._match("`"):
            if not self._match(r"(?:[^`\\]|\\.|\\\n)*`"):
                raise ShellSyntaxError(self._line(start), "the ` is not closed")
        elif not self._match(r"\$[0-9@*#?$!-]"):
            self._at += 1
            return Part("text", "$", quoted)
        return Part("unknown", self._text[start : self._at], quoted)

    def _braced(self, start: int, *, quoted: bool) -> Part:
        found = _BRACED.match(self._text, self._at)
        self._to_brace(start)
        inside = self._text[start + 2 : self._at - 1]
        if found is not None and found[0] == inside:
            return Part("variable", inside, quoted)
        if found is not None and found[2]:
            rest = _Reader(inside[len(found[0]) :].replace('"', ""), self._line(start)).read_whole()
            return Part("variable", found[1], quoted, found[2], rest)
        return Part("unknown", self._text[start : self._at], quoted)

    def read_whole(self) -> tuple[Part, ...]:
        """Return all of the text as one word, including blanks."""
        parts: list[Part] = []
        while self._at < len(self._text):
            parts += self._word().parts
            if rest := self._match(r"[\s;&|()<>]+"):
                parts.append(Part("text", rest, quoted=False))
        return tuple(parts)

    def _to_bracket(self, start: int) -> None:
        """Skip to after the `)` of a command.

        Quotes, comments and other substitutions in it may contain one.
        """
        depth = 1
        while depth:
            character = self._peek()
            if character == "'":
                self._single()
            elif character == '"':
                self._double()
            elif character in "$`":
                self._dollar(quoted=False)
            elif not self._match(r"(?<=\s)#[^\n]*|\\(?:.|\n)"):
                if character == "\0":
                    raise ShellSyntaxError(self._line(start), "the ( is not closed")
                depth += (character == "(") - (character == ")")
                self._at += 1

    def _to_brace(self, start: int) -> None:
        depth = 1
        while depth:
            found = self._match(r"[^\\{}]*(?:\\.|[{}])")
            if not found:
                raise ShellSyntaxError(self._line(start), "the { is not closed")
            depth += (found[-1] == "{") - (found[-1] == "}") if found[-2:-1] != "\\" else 0


def _is_number(word: Word) -> bool:
    """Return whether a word is the descriptor of the redirection after it."""
    return len(word.parts) == 1 and not word.parts[0].quoted and word.parts[0].text.isdigit()
