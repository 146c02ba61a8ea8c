"""What one answer of a DNS list means: listed, not listed, or a sign that something is wrong with the list.

Two readings. "safe": a listing is an address in 127.0.0.0/8 (RFC 5782, 2.1), but neither 127.0.0.1, which
filters in resolvers answer, nor one in 127.255.255.0/24, where lists put their error codes (over quota,
open resolver). "any": whatever a list answers is a listing, as for couriertcpd.
"""

from collections.abc import Sequence
from typing import Final, Literal

from tcpdconf.config import printable
from tcpdconf.config.model import answerfilter, fields
from tcpdconf.policy.dns import query

Reading = Literal["safe", "any"]

# `error`: an error code, or an address that no list gives; `outside`: an address outside of 127.0.0.0/8, as
# of a parked domain or of a resolver that rewrites; `missing`: no answer yet.
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
    """The class of an answer to a question for A records.

    An error code, or an address outside of 127.0.0.0/8, spoils the whole answer: who gives one is not to be
    believed about the others.
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
    """The addresses of a `listed` answer that count and, where there are filters, pass one of them."""
    return tuple(
        address
        for address in answer.addresses
        if (reading == "any" or address != "127.0.0.1")
        and (not filters or any(each.admits(answerfilter.octets(address)) for each in filters))
    )


def text(answer: query.Answer) -> str:
    """The first string of the first TXT record, with blanks for control characters; perhaps empty."""
    first = next((strings[0] for strings in answer.texts if strings), b"").decode("utf-8", "replace")
    return printable.replaced(first, " ")[: fields.LONGEST_LINE]
