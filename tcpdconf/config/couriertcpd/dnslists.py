"""Translates couriertcpd's -block and -allow into DNS lists. Pure.

Source: couriertcpd(8), -block and DNS ACCESS LISTS:

    ZONE[=SHOWN][,VARIABLE][/A.B.C.D][,TEXT]

The third part follows the second comma, or the first one after /A.B.C.D: `zone/127.0.0.2,X` sets BLOCK to X.
"""

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from tcpdconf.config import printable
from tcpdconf.config.couriertcpd import addresses, grammar
from tcpdconf.config.model import answerfilter, fields, values

_FORM: Final = re.compile(
    r"([^=,/]*)(?:=([^,/]*))?(?:,([^,/]*))?(?:/([^,]*))?(?:,(.*))?",  # every text has this form
    re.DOTALL,
)
_STAR: Final = "*"  # in place of a text: use the list's own
_SAFE: Final = (
    "couriertcpd takes any answer for a listing, tcpdconf only an answer in 127.0.0.0/8 that is no error"
    " code, from a list that passes its test (RFC 5782)"
)
_ANY: Final = "0.0.0.0"  # noqa: S104 (an answer that stands for all)


class _Parts(NamedTuple):
    """Holds the parts of one option. `text` is None without a third part."""

    zone: str
    shown: str
    variable: str
    answer: str | None
    text: str | None


def tables(draft: grammar.Draft) -> list[dict[str, Any]]:
    """Return the `dns_lists` of the options in order, without lists that can never answer."""
    found: list[dict[str, Any]] = []
    for action, value in draft.given.lists:
        option, parts = grammar.written(action, value), _parts(value)
        if why := _useless(parts):
            draft.note("ignored", option, why)
            continue
        for why in _changes(action, parts, exact=draft.exact):
            draft.note("changed", option, why, "dns_lists", len(found))
        found.append(_table(action, parts, exact=draft.exact))
    return found


def _parts(value: str) -> _Parts:
    found = _FORM.fullmatch(value)
    assert found is not None  # noqa: S101
    zone, shown, variable, answer, text = found.groups()
    if answer is not None:
        answer = addresses.ipv4(answer) or ""
    variable = "BLOCK" if variable is None else variable
    return _Parts(zone, (shown or "").rpartition("=")[2], variable, answer, text)


def _useless(parts: _Parts) -> str | None:
    """Return why a list can never set its variable, or None."""
    try:
        values.zone(parts.zone)
    except ValueError as error:
        return f"the zone {error}: such a list never answers"
    if not fields.VARIABLE.fullmatch(parts.variable):
        return f"{values.shown(parts.variable)} is no name of a variable"
    if parts.answer == "":
        return "what follows the / is no IPv4 address, so no answer matches"
    return None


def _changes(action: str, parts: _Parts, *, exact: bool) -> Iterator[str]:
    """Yield the differences from couriertcpd."""
    text = parts.text or ""
    if action == "block" and _line(text) != text:
        yield f"the text is one line of at most {fields.LONGEST_LINE} characters"
    if exact:
        return
    if _reading(parts, exact=exact) == "safe":
        yield _SAFE
    if action == "block" and parts.shown and not text:
        yield "couriertcpd names the zone in its text, tcpdconf the name shown for it"
    if action == "block" and text == _STAR and parts.answer is not None:
        yield "couriertcpd sets the variable to * if an answer is named, tcpdconf to the list's text"


def _table(action: str, parts: _Parts, *, exact: bool) -> dict[str, Any]:
    """Return one list as a TOML table without defaults."""
    table: dict[str, Any] = {"zone": parts.zone}
    if parts.shown:
        table["display_zone"] = _line(parts.shown)
    if action == "allow":
        table["action"] = "allow"
    if parts.variable != "BLOCK":
        table["variable"] = parts.variable
    if parts.answer not in {None, _ANY}:
        table["match"] = [parts.answer]
    if action == "block":
        table |= _blocked(parts, exact=exact)
    elif parts.text is not None:
        table["txt"] = True
    if _reading(parts, exact=exact) == "any":
        table["answers"] = "any"
    if exact:
        table["probe"] = False
    return table


def _blocked(parts: _Parts, *, exact: bool) -> dict[str, Any]:
    """Return the keys that give the text of a listing."""
    if parts.text == _STAR and exact:
        # after /A.B.C.D couriertcpd asks for the list's text and does not use it
        return {"txt": parts.answer is None, "message": _STAR}
    if parts.text == _STAR:
        return {"txt": True}
    if parts.text:
        return {"message": _line(parts.text)}
    return {"message": f"Blacklisted by {parts.zone}"} if parts.shown and exact else {}


def _reading(parts: _Parts, *, exact: bool) -> str:
    """Return how answers are read.

    An option that names an answer that is not believed otherwise accepts exactly that answer.
    """
    named = parts.answer not in {None, _ANY}
    strange = named and not answerfilter.read(parts.answer).is_believable()
    return "any" if exact or strange else "safe"


def _line(text: str) -> str:
    return printable.replaced(text, " ")[: fields.LONGEST_LINE]
