"""Suggests the right form of a value of the wrong type, and our name of Courier's keys."""

import difflib
import re
import shlex
from typing import Any, Final

from tcpdconf.config import positions
from tcpdconf.config.model import notations, values

_TRUE: Final = frozenset({"true", "yes", "on", "1", "y", "enabled", "enable"})
_FALSE: Final = frozenset({"false", "no", "off", "0", "n", "disabled", "disable"})
_ARGV: Final = frozenset({"program", "logger"})
_NAMES: Final = frozenset({"drop", "inherit_environment"})
_SYNONYMS: Final = {
    "allow": ("accept", "permit", "ok", "pass", "relay", "whitelist", "white"),
    "deny": ("reject", "refuse", "drop", "block", "discard", "forbid"),
    "block": ("deny", "reject", "refuse", "drop", "blacklist", "black"),
    "any": ("all", "*", "everybody", "0.0.0.0/0", "::/0", "true", "yes"),
    "info": ("information", "informational", "normal"),
    "warning": ("warn", "error", "err", "critical"),
    "mapped": ("ipv6", "::ffff"),
    "v1": ("1", "1.0", "v1.0"),
    "v2": ("2", "2.0", "v2.0"),
}
_LIMIT: Final = "[services.NAME.limits]: "
_LISTENER: Final = "[[services.NAME.listeners]]: "
# our names for couriertcpd's options and for the variables of Courier's files
_COURIER: Final = {
    "maxdaemons": f"{_LIMIT}max_connections", "maxprocs": f"{_LIMIT}max_connections",
    "maxperip": f"{_LIMIT}max_per_ip", "maxperc": f"{_LIMIT}max_per_network", "warn": f"{_LIMIT}warn_at",
    "address": f"{_LISTENER}address", "port": f"{_LISTENER}port", "haproxy": f"{_LISTENER}haproxy",
    "access": "[[services.NAME.access]]: file", "accessfile": "[[services.NAME.access]]: file",
    "imapaccessfile": "[[services.NAME.access]]: file", "pop3accessfile": "[[services.NAME.access]]: file",
    "blacklists": "[[services.NAME.dns_lists]]: zone", "block": "[[services.NAME.dns_lists]]: zone",
    "allow": '[[services.NAME.dns_lists]]: zone, with action = "allow"',
    "dropvars": "[services.NAME]: drop", "denymsg": "[services.NAME]: deny_message",
    "stderrlogger": "[services.NAME]: stderr = { logger = [...] }",
    "stderrloggername": "[services.NAME]: stderr = { logger = [...], name = ... }",
    "mailuser": "[services.NAME]: user", "mailgroup": "[services.NAME]: group",
    "imap_ulimitd": "[services.NAME.rlimits]: as", "ulimit": "[services.NAME.rlimits]: as",
    "imap_umask": "[services.NAME]: umask", "prog": "[services.NAME]: program",
    "nodnslookup": "[services.NAME]: lookup_names = false, the default",
}  # fmt: skip
_UNUSED: Final = {
    "noidentlookup": "leave it out: tcpdconf makes no ident lookups (RFC 1413)",
    "pid": "leave it out: `tcpdconf status` shows the daemon's pid",
    "tcpdopts": "write each option as a key of its own",
    "name": "leave it out: the name of a service is in its header, [services.NAME]",
}


def courier(key: positions.Key, known: list[str]) -> tuple[str, str | None] | None:
    """Return advice about a key of couriertcpd or of Courier's files, and its name if `known`."""
    word = str(key[-1]).lower().lstrip("-")
    if word in _UNUSED and len(key) > 2:
        return _UNUSED[word], None
    found = _COURIER.get(word)
    if found is None:
        return None
    service = key[1] if len(key) > 1 and key[0] == "services" else "NAME"
    table, _, name = found.replace("NAME", str(service)).partition(": ")
    return (f"write {name}", name) if name in known else (f"it is {name} of {table}", None)


def word(text: object, words: list[str]) -> str | None:
    """Return the allowed word that another one probably means, or None."""
    if not isinstance(text, str | int) or isinstance(text, bool):
        return None
    lower = str(text).strip().lower()
    for known in words:
        if lower == known or lower in _SYNONYMS.get(known, ()):
            return known
    return next(iter(difflib.get_close_matches(lower, words, 1)), None)


def advice(kind: str, value: Any, key: positions.Key) -> notations.Advice:  # noqa: ANN401 (TOML)
    """Return what to write in place of a value, by pydantic's kind of error and the key."""
    name = str(next((part for part in reversed(key) if isinstance(part, str)), ""))
    if kind in {"int_type", "float_type"}:
        return _number(value)
    if kind == "bool_type":
        return _boolean(value)
    if kind == "string_type":
        return _string(value, key)
    if kind == "tuple_type":
        return _array(value, name)
    return _table(value, name)


def _number(value: object) -> notations.Advice:
    if isinstance(value, str) and re.fullmatch(r" *[+-]?\d{1,9}(\.\d{1,9})? *", value):
        number = value.strip()
        return notations.Advice(f"write {number} without quotes", number)
    if isinstance(value, float) and value.is_integer() and abs(value) < 10**9:
        return notations.Advice(meant=str(int(value)))
    if isinstance(value, str) and value.lower() in {"unlimited", "infinity", "none", "-1"}:
        return notations.Advice("leave the key out for no limit")
    return notations.NONE


def _boolean(value: object) -> notations.Advice:
    text = str(value).strip().lower() if isinstance(value, str | int) else ""
    if text in _TRUE | _FALSE:
        meant = "true" if text in _TRUE else "false"
        quotes = " without quotes" if isinstance(value, str) and text == meant else ""
        return notations.Advice(f"write {meant}{quotes}", meant)
    return notations.NONE


def _string(value: object, key: positions.Key) -> notations.Advice:
    in_text = "environment" in key or "program" in key or "logger" in key
    if isinstance(value, bool):
        return notations.Advice(meant=f'"{str(value).lower()}"') if in_text else notations.NONE
    if isinstance(value, int | float) and in_text:
        return notations.Advice(meant=f'"{value}"')
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return notations.Advice(meant=notations.quoted(value[0]))
    if isinstance(value, list) and "environment" in key:
        return notations.Advice("an environment variable is one string")
    return notations.NONE


def _array(value: object, name: str) -> notations.Advice:  # noqa: PLR0911 (one for each key)
    if isinstance(value, bool):
        return (
            notations.Advice("leave the key out, or write the array")
            if name != "drop" or not value
            else (notations.Advice(meant='["BLOCK"]'))
        )
    if isinstance(value, int) and name == "listeners":
        return notations.Advice(meant=f"[{{ port = {value} }}]")
    if not isinstance(value, str):
        return notations.NONE
    if name in _ARGV:
        return _argv(value)
    if name == "dns_lists":
        found = notations.dns_list(value).meant
        return notations.Advice(meant=f"[{found or notations.quoted(value)}]")
    if name == "access" and value.startswith("/"):
        return notations.Advice(meant=f"[{{ file = {notations.quoted(value)} }}]")
    if name == "listeners":
        return _listeners(value)
    parts = re.split(r"[,\s]+", value.strip()) if name != "environment_files" else [value]
    if not all(parts):
        return notations.NONE
    return notations.Advice(meant="[" + ", ".join(map(notations.quoted, parts)) + "]")


def _argv(value: str) -> notations.Advice:
    """Return the words of a command as the shell splits them.

    A command that only a shell can run gets advice instead.
    """
    try:
        words = shlex.split(value)
    except ValueError:
        return notations.NONE
    if re.search(r"[|&;<>()$`*?]", value):
        return notations.Advice('a shell is needed for this: write ["/bin/sh", "-c", "exec ..."]')
    if not words or not words[0].startswith("/"):
        return notations.Advice("write an array of the words, the first a whole path")
    return notations.Advice(meant="[" + ", ".join(map(notations.quoted, words)) + "]")


def _listeners(value: str) -> notations.Advice:
    found = notations.split(value.strip())
    if found is not None:
        return notations.Advice(meant=f'[{{ address = "{found[0]}", port = {found[1]} }}]')
    if value.strip().isdigit():
        return notations.Advice(meant=f"[{{ port = {int(value)} }}]")
    if re.fullmatch(r"[a-z][a-z0-9-]*", value):
        return notations.Advice(meant=f'[{{ port = "{value}" }}]')
    return notations.NONE


def _table(value: object, name: str) -> notations.Advice:  # noqa: PLR0911 (one for each key)
    if name == "haproxy":
        return _haproxy(value)
    if name == "environment":
        return _environment(value)
    if name == "limits" and isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return notations.Advice(meant=f"{{ max_connections = {value} }}")
    if name == "access" and isinstance(value, str) and value.startswith("/"):
        return notations.Advice(meant=f"{{ file = {notations.quoted(value)} }}")
    if name == "listeners" and isinstance(value, int | str) and not isinstance(value, bool):
        found = _listeners(str(value)).meant
        return notations.Advice(meant=found[1:-1]) if found else notations.NONE
    if name == "lists" and isinstance(value, str):
        return notations.dns_list(value)
    if name == "rules" and isinstance(value, str):
        return notations.Advice('write { network = "...", action = "allow" }')
    if name == "network" and isinstance(value, int) and 0 <= value <= 32:
        return notations.Advice(meant=f"{{ ipv4 = {value} }}")
    return notations.NONE


def _haproxy(value: object) -> notations.Advice:
    text = 'name the proxies that may send a header: haproxy = { trusted = ["ADDRESS-OF-THE-PROXY"] }'
    if value is False:
        return notations.Advice("leave haproxy out to expect no header")
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not listed or not all(isinstance(item, str) for item in listed):
        return notations.Advice(text)
    try:
        for item in listed:
            values.network(item)
    except ValueError:
        return notations.Advice(text)
    return notations.Advice(meant="{ trusted = [" + ", ".join(map(notations.quoted, listed)) + "] }")


def _environment(value: object) -> notations.Advice:
    """Turn NAME=VALUE, alone or in an array, into a table."""
    lines = [value] if isinstance(value, str) else value
    if not isinstance(lines, list) or not lines:
        return notations.NONE
    pairs = [
        re.fullmatch(r"([A-Za-z_]\w*)=(.*)", line, re.DOTALL) if isinstance(line, str) else None
        for line in lines
    ]
    if not all(pairs):
        return notations.NONE
    written = ", ".join(f"{pair[1]} = {notations.quoted(pair[2])}" for pair in pairs if pair)
    return notations.Advice(meant=f"{{ {written} }}")
