"""Parses command lines for every command: argparse with suggestions for misspelt words.

A wrong command line prints an error on standard error and raises `UsageError`, which ends the process with
status 2.
"""

import argparse
import os
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any, NoReturn, TextIO

import tcpdconf
from tcpdconf.config.near import near


class UsageError(SystemExit):
    """Reports a wrong command line; `text` says why, and the user has been told."""

    def __init__(self, text: str) -> None:
        super().__init__(2)
        self.text = text


class Parser(argparse.ArgumentParser):
    """Parses a command line; its errors suggest similar words.

    Parsers of its subcommands are of this class too. `chosen` in its result is the parser of the subcommand.
    """

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 (as argparse's)
        super().__init__(**settings)
        self.set_defaults(chosen=self)

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse a command line; an unknown option is reported with the usage of its subcommand.

        Raises:
            SystemExit: it is wrong, or asks for help or the version; the output has been printed.
        """
        given, unknown = self.parse_known_args(words)
        if unknown:
            chosen: Parser = given.chosen
            chosen.error(f"unrecognized arguments: {' '.join(unknown)}{chosen.hint(unknown[0])}")
        return given

    def hint(self, word: str) -> str:
        """Return the end of a message about an unknown option: a similar one, or ""."""
        meant = near(word.partition("=")[0], self.options) if word.startswith("-") else None
        return f"; did you mean {meant}?" if meant else ""

    @property
    def options(self) -> Collection[str]:
        """Return every option of this parser."""
        return self._option_string_actions.keys()

    def guessed(self, words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
        """Parse as much as possible of an unfinished command line: values by option, and other words."""
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
        """Print usage and message, and exit with status 2.

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


def add_version(parser: argparse.ArgumentParser, more: Callable[[], str] = str) -> None:
    """Add the options -V and --version, which print the version and, after it, what `more` returns."""

    class Version(argparse.Action):
        """Prints the version."""

        def __call__(self, *_: object) -> NoReturn:
            """Print it, and exit with status 0.

            Raises:
                SystemExit: always.
            """
            sys.stdout.write(f"{parser.prog} {tcpdconf.__version__}{more()}\n")
            sys.exit(0)

    parser.add_argument("-V", "--version", action=Version, nargs=0, help="show the version and exit")


def duration(least: float, most: float) -> Callable[[str], float]:
    """Return an argument type: a number of seconds, or a duration in TOML's notation (`"5min"`)."""

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
    """Return whether output to a stream has colours; `choice` is "auto", "always" or "never".

    "auto" means a terminal that supports colours by TERM, as compilers judge it, unless NO_COLOR is set
    (https://no-color.org).
    """
    if choice != "auto":
        return choice == "always"
    may_have = os.environ.get("TERM", "dumb") != "dumb"
    return may_have and not os.environ.get("NO_COLOR") and stream.isatty()
