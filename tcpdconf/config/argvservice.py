"""couriertcpd's options as the keys of one service. Pure but for the host's names of ports."""

import posixpath
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import pydantic

from tcpdconf.config import argvlisteners, argvlists, argvoptions, fields, model, problems, tables

Log = tables.StderrFile | tables.StderrLogger

_MOST: Final = 10_000_000  # what a service counts to
_PROCESSES: Final = 40
_PER_ADDRESS: Final = 4
_WATCHED_FOLDERS: Final = 5  # connections that mail programs open to an IMAP server
_IMAP: Final = frozenset({143, 993, "imap", "imap2", "imaps"})
_FOR_NOTHING: Final = {
    "forcebind": ("obsolete", "does nothing: an address can be bound again at once"),
    "lock": ("obsolete", "does nothing: it is from builds that had a lock file of their own"),
    "noidentlookup": ("obsolete", "does nothing: there are no ident lookups, and new versions refuse it"),
    "proxy": ("obsolete", "does nothing, as with couriertcpd"),
    "pid": ("ignored", "tcpdconf run stays in the foreground, for a service manager; it writes no pid file"),
}  # fmt: skip


class Starter(NamedTuple):
    """What a command line takes from the process that starts it: its folder and its group."""

    directory: str
    group: int


class Translation(NamedTuple):
    """A service, where couriertcpd's own messages go (None: to its standard error), and the notes."""

    service: model.Service
    log: Log | None
    notes: tuple[argvoptions.Note, ...]


def translate(given: argvoptions.Given, starter: Starter, *, exact: bool) -> Translation:
    """The service that a command line runs.

    Raises:
        CommandLineError: couriertcpd refuses it, or no service can be like it.
    """
    notes = [
        argvoptions.Note(kind, given.written(name), why)
        for name, (kind, why) in _FOR_NOTHING.items()
        if name in given.values
    ]
    listeners = argvlisteners.tables(given, notes, exact=exact)
    if given.values.get("pid") == "":
        raise argvoptions.CommandLineError("cannot open -pid: no file is named")
    log = _log(given, starter, notes)
    table = {
        "program": _program(given, starter, notes),
        **_identity(given, starter, notes),
        "directory": starter.directory,
        "inherit_environment": True,
        "lookup_names": "nodnslookup" not in given.values,
        **_refusals(given, notes, exact=exact),
        "stderr": "socket" if given.values.get("stderr") == "socket" else log or "inherit",
        "listeners": listeners,
        "limits": _limits(given, listeners, notes, exact=exact),
        "access": _access(given, starter, notes, exact=exact),
        "dns_lists": argvlists.tables(given.lists, notes, exact=exact),
    }
    if not exact:
        if log is not None:
            option = given.written("stderrlogger" if given.values.get("stderrlogger") else "stderr")
            why = "is for what programs say; tcpdconf's own messages go to its standard error"
            notes.append(argvoptions.Note("changed", option, why))
        why = "programs see what tcpdconf was started with, which is not what a start script has set"
        notes.append(argvoptions.Note("changed", "environment", why, ("inherit_environment",)))
    return Translation(_service(table), log, tuple(notes))


def _service(table: dict[str, Any]) -> model.Service:
    try:
        return model.Service.model_validate(table, by_alias=True, by_name=False)
    except pydantic.ValidationError as error:
        from tcpdconf.config import wording  # noqa: PLC0415 (needed for problems only)

        found = next(wording.findings(error, table, model.Settings, ("services", "couriertcpd")))
        raise argvoptions.CommandLineError(f"{problems.dotted(found.key[2:])}: {found.text}") from None


def _below(starter: Starter, path: str) -> str:
    return posixpath.join(starter.directory, path)


def _program(given: argvoptions.Given, starter: Starter, notes: list[argvoptions.Note]) -> list[str]:
    path, *arguments = given.program
    if not path.startswith("/"):
        why = f"PATH is not searched: the program is looked for in {starter.directory}"
        notes.append(argvoptions.Note("risk", path, why, ("program",)))
    return [_below(starter, path), *arguments]


def _identity(
    given: argvoptions.Given, starter: Starter, notes: list[argvoptions.Note]
) -> dict[str, int | str]:
    """User and group. couriertcpd keeps its own group for a user that is a number."""
    found = {name: _account(given.values[name]) for name in ("user", "group") if name in given.values}
    notes += [
        argvoptions.Note("risk", given.written(name), "without a value is 0, root", (name,))
        for name in found
        if not given.values[name]
    ]
    if isinstance(found.get("user"), int) and "group" not in found:
        found["group"] = starter.group
        why = "a user given by number keeps the group that starts couriertcpd"
        notes.append(argvoptions.Note("risk", given.written("user"), why, ("group",)))
    return found


def _account(text: str) -> int | str:
    if not text.isascii() or not text.isdigit():
        return text or 0
    number = argvoptions.atoi(text)
    if number < 0:
        raise argvoptions.CommandLineError(f"cannot become {text}: no such user or group")
    return number


def _refusals(given: argvoptions.Given, notes: list[argvoptions.Note], *, exact: bool) -> dict[str, Any]:
    """`drop` and `deny_message`."""
    found: dict[str, Any] = {}
    if "drop" in given.values:
        names = list(filter(None, given.values["drop"].split(","))) or ["BLOCK"]
        good = [name for name in names if fields.VARIABLE.fullmatch(name)]
        option = given.written("drop")
        if len(good) < len(names):
            notes.append(
                argvoptions.Note("ignored", option, "not all of it are names of variables", ("drop",))
            )
        if len(good) > 1:
            why = f"couriertcpd looks at {good[0]} only; here each of them refuses"
            notes.append(argvoptions.Note("changed", option, why, ("drop",)))
        found["drop"] = good
    if "denymsg" in given.values:
        found["deny_message"] = given.values["denymsg"] + ("\n" if exact else "")
        if not exact:
            why = "ends in CR LF, as mail protocols want it; couriertcpd sends LF"
            notes.append(argvoptions.Note("changed", given.written("denymsg"), why))
    return found


def _log(given: argvoptions.Given, starter: Starter, notes: list[argvoptions.Note]) -> Log | None:
    """Where couriertcpd's own messages go, and those of programs unless they go to the client."""
    file, logger = given.values.get("stderr"), given.values.get("stderrlogger")
    if file == "":
        raise argvoptions.CommandLineError("cannot open -stderr: no file is named")
    if file == "socket":
        file = None
    name = given.values.get("stderrloggername") or None
    if logger:
        if file is not None:
            notes.append(argvoptions.Note("ignored", given.written("stderr"), "-stderrlogger goes before it"))
        return tables.StderrLogger(logger=(_below(starter, logger),), name=name)
    if name is not None:
        why = "there is no -stderrlogger"
        notes.append(argvoptions.Note("ignored", given.written("stderrloggername"), why))
    if file is None:
        return None
    if not file.startswith("/"):
        why = f"is a file below {starter.directory}" + ("; syslog is none of its forms" * (file == "syslog"))
        notes.append(argvoptions.Note("risk", given.written("stderr"), why, ("stderr",)))
    return tables.StderrFile(file=_below(starter, file))


def _limits(
    given: argvoptions.Given, listeners: list[dict[str, Any]], notes: list[argvoptions.Note], *, exact: bool
) -> dict[str, Any]:
    processes = argvoptions.count(given, "maxprocs", "maxprocsarg") or _PROCESSES
    per_address = argvoptions.count(given, "maxperip", "maxperip") or _PER_ADDRESS
    per_network = argvoptions.count(given, "maxperc", "maxperc")
    found: dict[str, Any] = {
        "max_connections": min(processes, _MOST),
        "max_per_ip": min(per_address, _MOST),
    }
    if per_network is not None:
        found["max_per_network"] = min(per_network, _MOST)
        if exact:
            found["network"] = {"ipv6": 120}
        else:
            why = "an IPv6 network is a /64 here, which is one customer; couriertcpd counts a /120"
            notes.append(
                argvoptions.Note("changed", given.written("maxperc"), why, ("limits", "max_per_network"))
            )
    if (warn := _warn(given, found["max_connections"])) is not None or exact:
        usual = found["max_connections"] - (found["max_connections"] // 10 + 1)
        found["warn_at"] = max(1, usual if warn is None else warn)
    if "warn" in given.values and warn is None:
        notes.append(argvoptions.Note("ignored", given.written("warn"), "is more than there are connections"))
    notes += _about_limits(given, found, listeners)
    return found


def _warn(given: argvoptions.Given, processes: int) -> int | None:
    """The number of -warn; None where it is out of range, which couriertcpd ignores."""
    number = argvoptions.atoi(given.values["warn"]) if "warn" in given.values else -1
    return number if 0 <= number <= processes else None


def _about_limits(
    given: argvoptions.Given, limits: dict[str, Any], listeners: list[dict[str, Any]]
) -> Iterator[argvoptions.Note]:
    key, most = ("limits", "max_per_ip"), limits["max_per_ip"]
    option = given.written("maxperip") if "maxperip" in given.values else f"-maxperip={most} by default"
    if most >= limits["max_connections"]:
        yield argvoptions.Note("limit", option, "one address may take all connections", key)
    elif most <= _WATCHED_FOLDERS and any(table["port"] in _IMAP for table in listeners):
        why = f"mail programs open {_WATCHED_FOLDERS} connections and more, and several may share an address"
        yield argvoptions.Note("limit", option, why, key)


def _access(
    given: argvoptions.Given, starter: Starter, notes: list[argvoptions.Note], *, exact: bool
) -> list[dict[str, Any]]:
    if "access" not in given.values:
        if "accesslocal" in given.values:
            notes.append(argvoptions.Note("ignored", "-accesslocal", "there is no -access"))
        return []
    if not given.values["access"]:
        raise argvoptions.CommandLineError("cannot open -access: no file is named")
    source: dict[str, Any] = {"file": _below(starter, given.values["access"])}
    if exact:
        source["format"] = "gdbm"
    if "accesslocal" in given.values:
        source["local"] = True
    return [source]
