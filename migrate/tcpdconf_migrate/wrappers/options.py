"""Parses wrappers' options, and applies them to a service's environment and identity. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from tcpdconf_migrate import commandline

Note = commandline.Note
Settings = commandline.Settings

# in `settings`: variables to remove from the environment; not a key of a service
UNSET: Final = "unset"

_SHELLS: Final = frozenset({"sh", "ash", "bash", "dash", "ksh", "mksh", "zsh"})


class UnknownError(ValueError):
    """Reports a wrapper or option that cannot be carried over; the text says which and why."""


def is_shell(words: Sequence[str]) -> bool:
    """Return whether a command is a shell."""
    return words[0].rpartition("/")[2] in _SHELLS


class _Option(NamedTuple):
    name: str
    value: str


def options(words: list[str], valued: Sequence[str], flags: Sequence[str]) -> Iterator[_Option]:
    """Yield the options at the front of a wrapper's words, removing them, as getopt_long(3) does.

    `valued` has the letters and long names that take a value, `flags` the others.

    Raises:
        UnknownError: an option is in neither, or lacks its value.
    """
    name = words.pop(0)
    while words and words[0].startswith("-") and words[0] != "-":
        word = words.pop(0)
        if word == "--":
            return
        if word.startswith("--"):
            option, equals, value = word[2:].partition("=")
            if option in valued:
                yield _Option(option, value if equals else _value(name, word, words))
            elif option in flags and not equals:
                yield _Option(option, "")
            else:
                raise unknown_option(name, word)
            continue
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            if letter in valued:
                yield _Option(letter, letters or _value(name, word, words))
                break
            if letter not in flags:
                raise unknown_option(name, word)
            yield _Option(letter, "")


def unknown_option(name: str, word: str) -> UnknownError:
    """Return the error for an option that is not listed."""
    return UnknownError(f"the option {word} of {name} is not supported")


def _value(name: str, word: str, words: list[str]) -> str:
    if not words:
        raise UnknownError(f"the option {word} of {name} has no value")
    return words.pop(0)


def set_variable(settings: Settings, name: str, value: str) -> None:
    """Set a variable of the service."""
    settings.setdefault("environment", {})[name] = value
    settings[UNSET] = [other for other in settings.get(UNSET, []) if other != name]


def empty(settings: Settings) -> None:
    """Start with an empty environment."""
    settings["inherit_environment"] = False
    settings.pop("environment", None)


def unset(settings: Settings, name: str) -> None:
    """Remove a variable from the environment, even if an enclosing shell has set it."""
    settings.get("environment", {}).pop(name, None)
    settings.setdefault(UNSET, []).append(name)


PRIORITY: Final = "the priority is the service manager's to set (Nice= and others of systemd)"
GROUPS: Final = "the service also has the other groups of its user"


def account(settings: Settings, text: str) -> None:
    """Set user and group from USER, USER:GROUP or chpst's :UID:GID.

    Raises:
        UnknownError: the text is none of them.
    """
    user, _, group = text.removeprefix(":").partition(":")
    if not user or ":" in group:
        raise UnknownError(f"{text!r} is not one user and one group")
    settings.pop("group", None)
    settings["user"] = int(user) if user.isdigit() else user
    if group:
        settings["group"] = int(group) if group.isdigit() else group
