"""Follows the shell state that programs inherit: limits, umask, directory, standard error. Pure."""

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from tcpdconf_migrate import commandline
from tcpdconf_migrate.script.words import Redirection

# option of ulimit -> key of rlimits and unit, as far as the manuals of dash and bash agree
_LIMITS: Final = {
    "v": ("as", 1024), "d": ("data", 1024), "s": ("stack", 1024), "l": ("memlock", 1024),
    "n": ("nofile", 1), "u": ("nproc", 1), "t": ("cpu", 1), "c": ("core", 512), "f": ("fsize", 512),
}  # fmt: skip
_BLOCKS_OF_BASH: Final = 1024  # for core files and files; sh counts blocks of 512
_MODES: Final = frozenset("SHa")
_ONLY_SH: Final = {"p": ("nproc", 1)}  # in bash -p is the size of a pipe
_STANDARD_ERROR: Final = "2"


BUILTINS: Final = frozenset({"cd", "exec", "trap", "ulimit", "umask"})


class StateChanges(NamedTuple):
    """Holds the changes that one command makes to the state.

    Names in `state` begin with a blank. `left` describes changes that are not carried over.
    """

    state: Mapping[str, str]
    left: Sequence[str] = ()


def builtin(fields: Sequence[str], *, bash: bool) -> StateChanges:
    """Return the changes of a command in BUILTINS; those of `exec` alone are in its redirections."""
    name, written = fields[0], " ".join(fields)
    arguments = [field for field in fields[1:] if field not in {"-P", "-L", "--"}]
    if name == "ulimit":
        return _ulimit(arguments, bash=bash)
    match name, arguments:
        case "trap", ["", *_]:
            return StateChanges({}, [f"{written}: programs no longer ignore these signals"])
        case ("trap" | "exec", _) | ("umask", [] | ["-S"]):
            return StateChanges({})
        case "umask", ([mask] | ["-S", mask]):
            return StateChanges({" umask": mask})
        case "cd", [path] if path != "-":
            return StateChanges({" cd": path})
    return StateChanges({}, [f"{written} is not carried over: set directory or umask"])


def _ulimit(words: Sequence[str], *, bash: bool) -> StateChanges:
    """Parse the arguments of ulimit: `-SHn 1024`, `-n 100 -u 50`, `2048`.

    A limit without a value is only printed and changes nothing.
    """
    found: dict[str, str] = {}
    left: list[str] = []
    modes: set[str] = set()
    letter = "f"
    for word in words:
        value = word
        if option := re.fullmatch(r"-([A-Za-z]+)(\d*)", word):
            modes |= set(option[1]) & _MODES
            letter = "".join(each for each in option[1] if each not in _MODES)[-1:] or letter
            value = option[2]
        if value:
            key, size = (_LIMITS if bash else _LIMITS | _ONLY_SH).get(letter, ("", 1))
            size = _BLOCKS_OF_BASH if bash and size == _LIMITS["f"][1] else size
            if not key or modes == {"H"} or not (value.isdigit() or value == "unlimited"):
                left.append(f"ulimit {' '.join(words)}: the limit -{letter} is not carried over: set rlimits")
            else:
                found[f" rlimit {key}"] = str(int(value) * size) if value.isdigit() else value
    return StateChanges(found, left)


def redirected(
    descriptors: Mapping[str, str], redirections: Sequence[tuple[Redirection, str]]
) -> dict[str, str]:
    """Return the targets of descriptors after redirections, which apply from left to right.

    Each redirection comes with the text of its target. A value is "" for the shell's original target, `append
    PATH`, `write PATH`, "closed" or "a pipe".
    """
    found = dict(descriptors)
    for redirection, target in redirections:
        operator = redirection.operator
        if operator in {"&>", "&>>"} or (operator == ">&" and not re.fullmatch(r"\d+|-", target)):
            found["1"] = found["2"] = f"{'append' if operator == '&>>' else 'write'} {target}"
        elif operator in {">&", "<&"}:
            descriptor = redirection.descriptor or ("1" if operator == ">&" else "0")
            found[descriptor] = "closed" if target == "-" else found.get(target, "")
        elif operator in {">", ">>", ">|", "<>"}:
            found[redirection.descriptor or "1"] = f"{'append' if operator == '>>' else 'write'} {target}"
    return found


def standard_error(descriptors: Mapping[str, str], directory: str) -> tuple[commandline.Settings, str]:
    """Return the key stderr, and a remark about any difference, usually ""."""
    how, _, path = descriptors.get(_STANDARD_ERROR, "").partition(" ")
    if how in {"append", "write"} and not path.startswith("/"):
        if not directory.startswith("/"):
            return {}, f"standard error goes to {path} in a directory that is not known: set stderr"
        path = f"{directory.rstrip('/')}/{path}"
    if how == "closed":
        return {"stderr": {"file": "/dev/null"}}, "standard error is closed, and goes to /dev/null now"
    if how == "append" or (how == "write" and path.startswith("/dev/")):
        return {"stderr": {"file": path}}, ""
    if how == "write":
        return {"stderr": {"file": path}}, f"{path} is appended to, and no longer emptied at each start"
    return {}, "standard error goes to a pipe, which is not carried over: set stderr" if how else ""


def settings(state: Mapping[str, str], unclear: list[str]) -> commandline.Settings:
    """Return the state as keys of a service; add to `unclear` all that has no key."""
    found: commandline.Settings = {}
    for name, value in state.items():
        command, _, key = name[1:].partition(" ")
        if command == "rlimit":
            found.setdefault("rlimits", {})[key] = int(value) if value.isdigit() else value
        elif command in {"cd", "umask"}:
            found[{"cd": "directory"}.get(command, command)] = value
    descriptors = {name[3:]: value for name, value in state.items() if name.startswith(" fd")}
    more, why = standard_error(descriptors, found.get("directory", ""))
    if why:
        unclear.append(why)
    return found | more
