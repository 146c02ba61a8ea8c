"""Classifies one answer of a DNS list: listed, not listed, or a sign of trouble with the list.

There are two readings. With "safe", a listing is an address in 127.0.0.0/8 (RFC 5782, 2.1). Excluded are
127.0.0.1, which filtering resolvers answer, and 127.255.255.0/24, where lists put error codes (over quota,
open resolver). With "any", every address is a listing, as for couriertcpd.
"""

from collections.abc import Sequence
from typing import Final, Literal

from tcpdconf.config import printable
from tcpdconf.config.model import answerfilter, fields
from tcpdconf.policy.dns import query

Reading = Literal["safe", "any"]

# `error`: an error code, or an address that no list gives; `outside`: an address outside of 127.0.0.0/8, as
# from a parked domain or a resolver that rewrites answers; `missing`: no answer yet.
Outcome = Literal[
    "listed", "unlisted", "error", "outside", "servfail", "refused", "timeout", "unreachable", "malformed",
    "suspended", "missing",
]  # fmt: skip
TROUBLE: Final[frozenset[Outcome]] = frozenset(
    {"error", "outside", "servfail", "refused", "timeout", "unreachable", "malformed"}
)
_WITHOUT_RECORDS: Final[dict[query.Status, Outcome]] = {
    "answer": "unlisted", "nxdomain": "unlisted", "servfail": "servfail", "refused": "refused",
    "timeout": "timeout", "unreachable": "unreachable", "malformed": "malformed", "suspended": "suspended",
}  # fmt: skip


def outcome(answer: query.Answer, reading: Reading) -> Outcome:
    """Return the class of an answer to a question for A records.

    With "safe", an error code or an address outside of 127.0.0.0/8 spoils the whole answer: a server that
    gives one is not believed about the others.
    """
    if not answer.addresses:
        return _WITHOUT_RECORDS[answer.status]
    if reading == "any":
        return "listed"
    if not all(address.startswith("127.") for address in answer.addresses):
        return "outside"
    if any(address.startswith("127.255.255.") for address in answer.addresses):
        return "error"
    return "listed" if any(address != "127.0.0.1" for address in answer.addresses) else "error"


def passing(
    answer: query.Answer, reading: Reading, filters: Sequence[answerfilter.Filter]
) -> tuple[str, ...]:
    """Return the addresses of a `listed` answer that count and pass one of the filters, if there are any."""
    return tuple(
        address
        for address in answer.addresses
        if (reading == "any" or address != "127.0.0.1")
        and (not filters or any(each.admits(answerfilter.octets(address)) for each in filters))
    )


def text(answer: query.Answer) -> str:
    """Return the first string of the first TXT record, control characters as blanks; "" if there is none."""
    first = next((strings[0] for strings in answer.texts if strings), b"").decode("utf-8", "replace")
    return printable.replaced(first, " ")[: fields.LONGEST_LINE]
