"""Caches DNS answers by question until they expire, with bounds on number and size.

This is no LRU list: every worker has its own cache, and two dicts need a third of the memory. When the
younger dict is full it becomes the older one, and the previous older one is dropped.
"""

import functools
from typing import Final, NamedTuple

from tcpdconf.policy.dns import query

LONGEST_NO: Final = 900.0  # seconds: a "no" is kept no longer, so that new listings are noticed
FAILED: Final = 2.0  # seconds that a failure is kept (RFC 9520, 3.2)
_SIZE: Final = 512  # each such number of octets in records counts as one more answer


class _Entry(NamedTuple):
    expires: int
    answer: query.Answer


class Cache:
    """Keeps up to `entries` answers; at least the half that was used last stays.

    An answer is kept for its TTL, limited to the range from `shortest` to `longest` seconds, if that is at
    least one second. Its own TTL is not changed. Keys are question sections. `now` is in seconds, always from
    the same clock.
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
        """Return the answer to a question if it is cached and has not expired."""
        entry = self._young.get(key)
        if entry is None:
            entry = self._old.pop(key, None)
            if entry is None:
                return None
            if entry.expires > now:
                self._add(key, entry, _weight(entry.answer))
        return entry.answer if entry.expires > now else None

    def put(self, key: bytes, answer: query.Answer, now: float) -> None:
        """Cache an answer for as long as allowed."""
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
    """Return one shared entry for all equal answers that expire in the same second."""
    return _Entry(expires, answer)


def _is_bare(answer: query.Answer) -> bool:
    return not (answer.addresses or answer.names or answer.texts)


def _weight(answer: query.Answer) -> int:
    """Return how many ordinary answers this one counts for."""
    if _is_bare(answer):
        return 1
    records = (*answer.addresses, *answer.names, *(string for text in answer.texts for string in text))
    return 1 + sum(100 + len(record) for record in records) // _SIZE
