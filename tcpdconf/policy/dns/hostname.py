"""Finds the verified host name of an address for TCPREMOTEHOST: PTR, then A and AAAA of that name.

A name whose addresses do not include the original one is not used. A temporary failure gives "softdnserr"
(manual, ENVIRONMENT VARIABLES). For a name that does not verify, couriertcpd leaves the variable unset, and
so does this module.
"""

import re
import unicodedata
from collections.abc import Mapping
from typing import Final, NamedTuple

from tcpdconf.policy import connection
from tcpdconf.policy.dns import query

SOFT: Final = "softdnserr"
_FAILED: Final[frozenset[query.Status]] = frozenset(
    {"servfail", "refused", "timeout", "unreachable", "malformed"}
)
_REVERSE: Final = {4: ".in-addr.arpa", 6: ".ip6.arpa"}
_LABEL: Final = re.compile(r"[A-Za-z0-9_-]{1,63}")
_ALIASES: Final = 8  # the most that are followed in a row
_ASKABLE: Final = re.compile(r"[!-\[\]-~]+")  # not empty, and no backslash escapes
_LONGEST: Final = 253  # characters of a name without its last dot (RFC 1035, 3.1)
_ENCODED: Final = "xn--"  # RFC 5890, 2.3.2.1


Answers = Mapping[query.Question, query.Answer]


class Verdict(NamedTuple):
    """Holds the `value` of the variable (a name, "softdnserr", or None for unset) and the reason.

    `open` is the question to ask next; while it is not None, the value is None.
    """

    value: str | None
    why: str
    open: query.Question | None = None


def judge(end: connection.Endpoint, answers: Answers) -> Verdict:
    """Return the verdict on an address from the answers so far, or the next question.

    Every question depends on the answer before it, so at most one is open.
    """
    question, answer = _followed(pointer(end), answers)
    if answer is None:
        return Verdict(None, "not asked yet", question)
    if answer.status in _FAILED:
        return Verdict(SOFT, f"PTR: {answer.status}")
    if not answer.names:
        return Verdict(None, "the address has no PTR record")
    name = answer.names[-1]
    if not is_valid(name):
        return Verdict(None, "the PTR record is not a valid host name")
    verdict = _forward(end, name, answers)
    return verdict._replace(value=displayed(name)) if verdict.value == name else verdict


def pointer(end: connection.Endpoint) -> query.Question:
    """Return the PTR question for an address (RFC 1035, 3.5; RFC 3596, 2.5)."""
    return query.Question(query.labels(end) + _REVERSE[end.version], "PTR")


def is_valid(name: str) -> bool:
    """Return whether a name may enter an environment: letters, digits, hyphens, underscores and dots only."""
    return len(name) <= _LONGEST and all(_LABEL.fullmatch(label) for label in name.split("."))


def displayed(name: str) -> str:
    """Return a valid name with its international labels decoded (RFC 5891, 4.4), as couriertcpd does.

    The name stays as it is if one label does not decode to itself, or contains anything but letters, marks,
    digits and hyphens.
    """
    labels = name.split(".")
    shown = [_decoded(label) if label[:4].lower() == _ENCODED else label for label in labels]
    return name if None in shown else ".".join(label for label in shown if label is not None)


def _decoded(label: str) -> str | None:
    written = label[4:].lower()
    try:
        text = written.encode("ascii").decode("punycode")
    except UnicodeError:
        return None
    regular = text == unicodedata.normalize("NFC", text).lower() and not text.isascii()
    if not regular or text.encode("punycode") != written.encode("ascii"):
        return None
    harmless = all(
        c == "-" or unicodedata.category(c) == "Nd" or unicodedata.category(c)[0] in "LM" for c in text
    )
    return text if harmless else None


def _forward(end: connection.Endpoint, name: str, answers: Answers) -> Verdict:
    """Check that a name leads back to the address, by its own family first and then the other.

    An IPv4 address may appear in an AAAA record as ::ffff:1.2.3.4. For an IPv4 address, a failure of AAAA
    counts only if there is no A record, as for couriertcpd.
    """
    a, aaaa = query.Question(name.lower(), "A"), query.Question(name.lower(), "AAAA")
    first, other = (a, aaaa) if end.version == 4 else (aaaa, a)
    own, answer = _followed(first, answers)
    if answer is None:
        return Verdict(None, "not asked yet", own)
    if end.text in answer.addresses:
        return Verdict(name, "the name resolves to the address")
    if end.version == 4 and answer.status in _FAILED:
        return Verdict(SOFT, f"A: {answer.status}")
    if answer.status == "nxdomain":
        return Verdict(None, "the name does not resolve to the address")
    other, second = _followed(other, answers)
    if second is None:
        return Verdict(None, "not asked yet", other)
    failed = second.status in _FAILED and not (end.version == 4 and answer.addresses)
    if end.version == 6 and answer.status in _FAILED and not second.addresses:
        failed = True
    if end.version == 4 and f"::ffff:{end.text}" in second.addresses:
        verdict = Verdict(name, "the name resolves to the address")
    elif failed:
        verdict = Verdict(SOFT, "A or AAAA failed")
    else:
        verdict = Verdict(None, "the name does not resolve to the address")
    return verdict


def _followed(question: query.Question, answers: Answers) -> tuple[query.Question, query.Answer | None]:
    """Follow aliases from a question; return the last question and its answer, or None if not asked yet.

    RFC 2317 delegation makes such aliases. Most servers follow them themselves.
    """
    answer = answers.get(question)
    for _ in range(_ALIASES):
        if answer is None or not _ASKABLE.fullmatch(answer.alias):
            break
        question = query.Question(answer.alias, question.type)
        answer = answers.get(question)
    return question, answer
