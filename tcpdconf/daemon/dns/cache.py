"""Answers of the DNS that are kept: by question, for as long as they may be, bounded in number and size.

Not a list in order of use: every worker has a cache of its own, and two dicts, the older of which is thrown
away whole, need a third of the memory.
"""

import functools
from typing import Final, NamedTuple

from tcpdconf.policy.dns import query

LONGEST_NO: Final = 900.0  # seconds for which "no" is kept at most: what was just listed is to be noticed
FAILED: Final = 2.0  # seconds for which a failure is kept (RFC 9520, 3.2)
_SIZE: Final = 512  # octets of records that count as one more answer


class _Entry(NamedTuple):
    expires: int
    answer: query.Answer


class Cache:
    """Up to `entries` answers; those used last stay, at least half of them.

    An answer is kept for its TTL, or `shortest` or `longest` seconds, if that is one second at least. It
    keeps the TTL that was received. Keys are question sections; `now` is in seconds, of one clock.
    """

    def __init__(self, entries: int, shortest: float = 0.0, longest: float = 3600.0) -> None:
        self._half = entries // 2
        self._shortest = shortest
        self._longest = longest
        self._young: dict[bytes, _Entry] = {}
        self._old: dict[bytes, _Entry] = {}
        self._room = self._half

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, key: bytes, now: float) -> query.Answer | None:
        """The answer to a question, if it is kept and has not expired."""
        entry = self._young.get(key)
        if entry is None:
            entry = self._old.pop(key, None)
            if entry is None:
                return None
            if entry.expires > now:
                self._add(key, entry, _weight(entry.answer))
        return entry.answer if entry.expires > now else None

    def put(self, key: bytes, answer: query.Answer, now: float) -> None:
        """Keep an answer for as long as it may be."""
        bare = _is_bare(answer)
        seconds = self._seconds(answer, bare)
        weight = 1 if bare else _weight(answer)
        if seconds >= 1 and weight <= self._half:
            made = _shared if bare else _Entry
            self._old.pop(key, None)
            self._add(key, made(int(now + seconds), answer), weight)

    def _seconds(self, answer: query.Answer, bare: bool) -> float:
        if bare and answer.status not in {"answer", "nxdomain"}:
            return min(self._longest, FAILED)
        seconds = min(answer.ttl, LONGEST_NO) if bare else answer.ttl
        return min(self._longest, max(self._shortest, seconds))

    def _add(self, key: bytes, entry: _Entry, weight: int) -> None:
        if weight > self._room:
            self._old, self._young = self._young, {}
            self._room = self._half
        self._room -= weight
        self._young[key] = entry


@functools.lru_cache(256)
def _shared(expires: int, answer: query.Answer) -> _Entry:
    """An entry, one for all answers that are alike and expire in the same second."""
    return _Entry(expires, answer)


def _is_bare(answer: query.Answer) -> bool:
    return not (answer.addresses or answer.names or answer.texts)


def _weight(answer: query.Answer) -> int:
    """How many ordinary answers one counts for."""
    if _is_bare(answer):
        return 1
    records = (*answer.addresses, *answer.names, *(string for text in answer.texts for string in text))
    return 1 + sum(100 + len(record) for record in records) // _SIZE
