"""Answers as test tables write them: a name's records by type, or the word for how it failed."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from tcpdconf.policy.dns import query

_FAILURES: Final[dict[str, query.Status]] = {
    "SERVFAIL": "servfail",
    "REFUSED": "refused",
    "DROP": "timeout",
    "GARBAGE": "malformed",
}
NOBODY = query.Answer("nxdomain")
# {"A": ["127.0.0.2"], "TXT": "SERVFAIL"}, or "SERVFAIL" for every type; a type left out has no records
Records = Mapping[str, Any] | str


def answer(records: Records | None, kind: query.Type) -> query.Answer:
    """Return the answer of a server with these records."""
    if records is None:
        return NOBODY
    found = records if isinstance(records, str) else records.get(kind, [])
    if isinstance(found, str):
        return query.Answer(_FAILURES[found])
    if kind == "TXT":
        return query.Answer("answer", texts=tuple((text.encode(),) for text in found))
    if kind == "PTR":
        return query.Answer("answer", names=tuple(found))
    return query.Answer("answer", addresses=tuple(found))


def answers(
    zone: Mapping[str, Records], questions: Iterable[query.Question]
) -> dict[query.Question, query.Answer]:
    """The answers to questions, of a server that has nothing but this zone."""
    return {question: answer(zone.get(question.name), question.type) for question in questions}
