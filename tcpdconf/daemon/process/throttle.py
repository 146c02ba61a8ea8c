"""Keeps a message that many clients can cause from filling the log."""

from typing import Final

BURST: Final = 20
PER_SECOND: Final = 5.0
_ROUNDING: Final = 1e-6


_SELDOM: Final = 60.0


class Seldom:
    """At most one message a minute on each trouble."""

    def __init__(self) -> None:
        self._next: dict[str, float] = {}

    def due(self, trouble: str, now: float) -> bool:
        """Whether a message on this trouble may be given now, in seconds; then no other for a minute."""
        if now < self._next.get(trouble, now):
            return False
        self._next[trouble] = now + _SELDOM
        return True


class Throttle:
    """For each key at most BURST at once and PER_SECOND from then on; counts what it holds back."""

    def __init__(self) -> None:
        self._full_at: dict[str, float] = {}
        self._held_back: dict[str, int] = {}

    def pass_(self, key: str, now: float) -> int | None:
        """How many were held back since the last that passed, or None when this one is held back too.

        `now` is in seconds; keys must be few (they are kept for good).
        """
        full_at = max(self._full_at.get(key, now), now)
        if full_at - now > (BURST - 1) / PER_SECOND + _ROUNDING:
            self._held_back[key] = self._held_back.get(key, 0) + 1
            return None
        self._full_at[key] = full_at + 1 / PER_SECOND
        return self._held_back.pop(key, 0)
