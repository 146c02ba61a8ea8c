"""Translates couriertcpd's options into the keys of one service. Pure, except for port names."""

from typing import Any, Final

import pydantic

from tcpdconf.config import problems
from tcpdconf.config.couriertcpd import dnslists as list_options
from tcpdconf.config.couriertcpd import grammar
from tcpdconf.config.couriertcpd import listeners as listener_options
from tcpdconf.config.model import fields, tables
from tcpdconf.config.model.service import Service, Settings

Log = tables.StderrFile | tables.StderrLogger

_PROCESSES: Final = 40
_PER_ADDRESS: Final = 4
_WATCHED_FOLDERS: Final = 5  # connections that mail programs open to an IMAP server
_IMAP: Final = frozenset({143, 993, "imap", "imap2", "imaps"})
_FOR_NOTHING: Final = {
    "forcebind": ("obsolete", "does nothing: an address can be bound again at once"),
    "lock": ("obsolete", "does nothing: some builds had a lock file of their own"),
    "noidentlookup": ("obsolete", "does nothing: there are no ident lookups, and new versions refuse it"),
    "proxy": ("obsolete", "does nothing, as with couriertcpd"),
    "pid": ("ignored", "tcpdconf run stays in the foreground for a service manager and writes no pid file"),
}  # fmt: skip


def translate(draft: grammar.Draft) -> tuple[Service, Log | None]:
    """Return the service of a command line, and the target of couriertcpd's messages (None: stderr).

    Raises:
        CommandLineError: couriertcpd refuses the command line, or no service can behave like it.
    """
    given = draft.given
    for word in given.overruled:
        draft.note("ignored", word, "is given again, and only the last one applies")
    for name, (kind, why) in _FOR_NOTHING.items():
        if name in given.values:
            draft.note_option(kind, name, why)
    listeners = listener_options.tables(draft)
    if given.values.get("pid") == "":
        raise grammar.CommandLineError("cannot open -pid: no file is named")
    log = _log(draft)
    table = {
        "program": _program(draft),
        **_identity(draft),
        "directory": draft.directory,
        "inherit_environment": True,
        "lookup_names": "nodnslookup" not in given.values,
        **_refusals(draft),
        "stderr": "socket" if given.values.get("stderr") == "socket" else log or "inherit",
        "listeners": listeners,
        "limits": _limits(draft, listeners),
        "access": _access(draft),
        "dns_lists": list_options.tables(draft),
    }
    if draft.exact:
        table["keepalive"] = "kernel"
    else:
        why = "programs see the environment of tcpdconf, not the variables of a start script"
        draft.note("changed", "environment", why, "inherit_environment")
    return _service(table), log


def _service(table: dict[str, Any]) -> Service:
    try:
        return Service.model_validate(table, by_alias=True, by_name=False)
    except pydantic.ValidationError as error:
        from tcpdconf.config.load import validation_errors  # noqa: PLC0415 (needed for problems only)

        found = next(validation_errors.findings(error, table, Settings, ("services", "couriertcpd")))
        raise grammar.CommandLineError(f"{problems.dotted(found.key[2:])}: {found.text}") from None


def _program(draft: grammar.Draft) -> list[str]:
    path, *arguments = draft.given.program
    if not path.startswith("/"):
        why = f"PATH is not searched: the program is looked for in {draft.directory}"
        draft.note("risk", path, why, "program")
    return [draft.below(path), *arguments]


def _identity(draft: grammar.Draft) -> dict[str, int | str]:
    """Return user and group; as with couriertcpd, a user given by number keeps the daemon's group."""
    values = draft.given.values
    found = {name: _account(values[name]) for name in ("user", "group") if name in values}
    for name in found:
        if not values[name]:
            draft.note_option("risk", name, "without a value is 0, root", name)
    if isinstance(found.get("user"), int) and "group" not in found:
        found["group"] = draft.group
        why = "a user given by number keeps the group that starts couriertcpd"
        draft.note_option("risk", "user", why, "group")
    return found


def _account(text: str) -> int | str:
    if not text.isascii() or not text.isdigit():
        return text or 0
    number = grammar.atoi(text)
    if number < 0:
        raise grammar.CommandLineError(f"cannot become {text}: no such user or group")
    return number


def _refusals(draft: grammar.Draft) -> dict[str, Any]:
    """Return `drop` and `deny_message`."""
    values = draft.given.values
    found: dict[str, Any] = {}
    if "drop" in values:
        found["drop"] = _dropped(draft, values["drop"])
    if "denymsg" in values:
        found["deny_message"] = values["denymsg"] + ("\n" if draft.exact else "")
        if not draft.exact:
            why = "ends in CR LF, as mail protocols require, while couriertcpd sends LF"
            draft.note_option("changed", "denymsg", why)
    return found


def _dropped(draft: grammar.Draft, value: str) -> list[str]:
    names = [name for name in value.split(",") if name] or ["BLOCK"]
    found = [name for name in names if fields.VARIABLE.fullmatch(name)]
    if len(found) < len(names):
        draft.note_option("ignored", "drop", "contains words that are not names of variables", "drop")
    if len(found) > 1:
        why = f"couriertcpd reads {found[0]} only, tcpdconf refuses on each of them"
        draft.note_option("changed", "drop", why, "drop")
    return found


def _log(draft: grammar.Draft) -> Log | None:
    """Return the target of couriertcpd's own messages, and of programs' unless those go to the client."""
    values = draft.given.values
    file, logger = values.get("stderr"), values.get("stderrlogger")
    if file == "":
        raise grammar.CommandLineError("cannot open -stderr: no file is named")
    if not logger and values.get("stderrloggername"):
        draft.note_option("ignored", "stderrloggername", "there is no -stderrlogger")
    if not draft.exact and (logger or file not in {None, "socket"}):
        why = "is for what programs say; tcpdconf's own messages go to its standard error"
        draft.note_option("changed", "stderrlogger" if logger else "stderr", why)
    if logger:
        if file not in {None, "socket"}:
            draft.note_option("ignored", "stderr", "-stderrlogger goes before it")
        name = values.get("stderrloggername") or None
        return tables.StderrLogger(logger=(draft.below(logger),), name=name)
    if file is None or file == "socket":
        return None
    if not file.startswith("/"):
        why = f"is a file below {draft.directory}" + (
            ", because couriertcpd does not log to syslog" * (file == "syslog")
        )
        draft.note_option("risk", "stderr", why, "stderr")
    return tables.StderrFile(file=draft.below(file))


def _limits(draft: grammar.Draft, listeners: list[dict[str, Any]]) -> dict[str, Any]:
    most = draft.positive("maxprocs", "maxprocsarg") or _PROCESSES
    found: dict[str, Any] = {
        "max_connections": most,
        "max_per_ip": draft.positive("maxperip", "maxperip") or _PER_ADDRESS,
    }
    if (per_network := draft.positive("maxperc", "maxperc")) is not None:
        found["max_per_network"] = per_network
        if draft.exact:
            found["network"] = {"ipv6": 120}
        else:
            why = "an IPv6 network is a /64, which is one customer, while couriertcpd counts a /120"
            draft.note_option("changed", "maxperc", why, "limits", "max_per_network")
    warn = _warn(draft, most)
    if warn is not None or draft.exact:
        found["warn_at"] = max(1, most - (most // 10 + 1) if warn is None else warn)
    _doubt(draft, found, listeners)
    return found


def _warn(draft: grammar.Draft, most: int) -> int | None:
    """Return the number of -warn, or None if it is out of range, which couriertcpd ignores."""
    if "warn" not in draft.given.values:
        return None
    number = grammar.atoi(draft.given.values["warn"])
    if 0 <= number <= most:
        return number
    draft.note_option("ignored", "warn", "is out of range")
    return None


def _doubt(draft: grammar.Draft, limits: dict[str, Any], listeners: list[dict[str, Any]]) -> None:
    """Add notes about limits that are known to cause trouble."""
    most = limits["max_per_ip"]
    by_default = "" if "maxperip" in draft.given.values else f"={most} by default"
    option = draft.given.written("maxperip") + by_default
    if most >= limits["max_connections"]:
        draft.note("limit", option, "one address may take all connections", "limits", "max_per_ip")
    elif most <= _WATCHED_FOLDERS and any(table["port"] in _IMAP for table in listeners):
        why = f"mail programs open {_WATCHED_FOLDERS} connections and more, and several may share an address"
        draft.note("limit", option, why, "limits", "max_per_ip")


def _access(draft: grammar.Draft) -> list[dict[str, Any]]:
    values = draft.given.values
    if "access" not in values:
        if "accesslocal" in values:
            draft.note_option("ignored", "accesslocal", "there is no -access")
        return []
    if not values["access"]:
        raise grammar.CommandLineError("cannot open -access: no file is named")
    source: dict[str, Any] = {"file": draft.below(values["access"])}
    if "accesslocal" in values:
        source["local"] = True
    return [source]
