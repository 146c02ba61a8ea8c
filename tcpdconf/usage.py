"""Command lines as every command reads them: argparse that suggests the word which was probably meant.

A wrong command line is answered on standard error and raises `UsageError`, which ends the process with 2.
"""

import argparse
import os
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any, NoReturn, TextIO

import tcpdconf
from tcpdconf.config.near import near


class UsageError(SystemExit):
    """The command line is wrong; `text` says why, and somebody at the terminal has been told."""

    def __init__(self, text: str) -> None:
        super().__init__(2)
        self.text = text


class Parser(argparse.ArgumentParser):
    """A parser whose errors name the near word. Parsers of its subcommands are of this class too.

    `chosen` in what it returns is the parser of the subcommand.
    """

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 (as argparse's)
        super().__init__(**settings)
        self.set_defaults(chosen=self)

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse a command line; an option that its subcommand does not know is told with that one's usage.

        Raises:
            SystemExit: it is wrong, or asks for help or the version only, which has been printed.
        """
        given, unknown = self.parse_known_args(words)
        if unknown:
            chosen: Parser = given.chosen
            chosen.error(f"unrecognized arguments: {' '.join(unknown)}{chosen.hint(unknown[0])}")
        return given

    def hint(self, word: str) -> str:
        """Return the end of a message about an option that there is not; nothing without a near one."""
        meant = near(word.partition("=")[0], self.options) if word.startswith("-") else None
        return f"; did you mean {meant}?" if meant else ""

    @property
    def options(self) -> Collection[str]:
        """Every option that there is."""
        return self._option_string_actions.keys()

    def guessed(self, words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
        """Read what can be read of an unfinished command line: values by their option, and other words."""
        values: dict[str, str] = {}
        others: list[str] = []
        rest = iter(words)
        for word in rest:
            option, equals, value = word.partition("=")
            action = self._option_string_actions.get(option)
            if action is not None and action.nargs != 0:
                values[option] = value if equals else next(rest, "")
            elif not word.startswith("-"):
                others.append(word)
        return values, others

    def error(self, message: str) -> NoReturn:
        """Print usage and message, and end with 2.

        Raises:
            UsageError: always.
        """
        self.print_usage(sys.stderr)
        sys.stderr.write(f"{self.prog}: error: {message}\n")
        raise UsageError(message)

    def _check_value(self, action: argparse.Action, value: Any) -> None:  # noqa: ANN401 (as argparse's)
        if action.choices is None or value in action.choices:
            return
        meant = near(str(value), action.choices)
        end = f"; did you mean {meant!r}?" if meant else "."
        text = f"there is no {value!r}{end} There are {', '.join(action.choices)}"
        raise argparse.ArgumentError(action, text)


def add_version(parser: argparse.ArgumentParser) -> None:
    """Let -V and --version print the version."""
    parser.add_argument(
        "-V", "--version", action="version", version=f"{parser.prog} {tcpdconf.__version__}",
        help="show the version and exit",
    )  # fmt: skip


def duration(least: float, most: float) -> Callable[[str], float]:
    """Make an argument's type: seconds as a number, or as a duration in TOML's notation (`"5min"`)."""

    def parsed(text: str) -> float:
        from tcpdconf.config.model import values  # noqa: PLC0415 (most command lines have none)

        try:
            number: float | str = float(text)
        except ValueError:
            number = text
        try:
            return values.duration(number, least, most)
        except ValueError as error:
            hint = f"; {error.hint}" if isinstance(error, values.MistakeError) and error.hint else ""
            bounds = f"must be seconds from {least:.15g} to {most:.15g}"
            raise argparse.ArgumentTypeError(
                f'{bounds}, or a duration such as "5min", not {text!r}{hint}'
            ) from None

    return parsed


def has_colour(choice: str, stream: TextIO) -> bool:
    """Decide whether a stream gets colours: `choice` is "auto", "always" or "never".

    "auto" is a terminal that may have colours, as compilers judge it by TERM, and nobody who wants none
    (https://no-color.org).
    """
    if choice != "auto":
        return choice == "always"
    may_have = os.environ.get("TERM", "dumb") != "dumb"
    return may_have and not os.environ.get("NO_COLOR") and stream.isatty()
