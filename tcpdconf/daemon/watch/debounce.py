"""When a change of files is to be told: once, when it is over. A value machine without clock or file.

Something stirs; when nothing has for a while the files are looked at. A look that shows what was told
before ends the matter, and one that shows something else is repeated until two show the same.
"""

from collections.abc import Iterable, Mapping
from typing import Final

LONGEST: Final = 5.0  # seconds, after those for settling, for which a change that does not end is waited for
_AGAIN: Final = 3  # the second look follows after this part of the time for settling


class Debounce:
    """Contents by path, as hashes; times in seconds. `due` is when to look next, if at all."""

    def __init__(self, settle: float = 0.3) -> None:
        self.settle = settle
        self.due: float | None = None
        self._began: float | None = None
        self._covered: dict[str, str] = {}
        self._before: Mapping[str, str] | None = None  # what the last look has shown

    def cover(self, contents: Mapping[str, str]) -> None:
        """Take these contents for known, and no others: a look that shows more tells it."""
        self._covered = dict(contents)

    def forget(self, paths: Iterable[str]) -> None:
        """Take the contents of these paths for unknown: the next look tells them."""
        for path in paths:
            self._covered.pop(path, None)

    def stirred(self, now: float) -> None:
        """Something has happened to the files; look when it is over, or has gone on for too long."""
        if self._began is None:
            self._began = now
        if self.due is None or not self._is_late(now):
            self.due = now + self.settle
            self._before = None

    def seen(self, now: float, contents: Mapping[str, str], *, at_rest: bool) -> list[str]:
        """Take note of a look; returns the paths to be told, in their order.

        `at_rest` is False when somebody still writes, or when the look may have missed something.
        """
        late = self._is_late(now)
        if not late and not (at_rest and contents in (self._covered, self._before)):
            self.due = now + self.settle / _AGAIN
            self._before = contents if at_rest else None
            return []
        changed = sorted(
            path
            for path in contents.keys() | self._covered.keys()
            if contents.get(path) != self._covered.get(path)
        )
        self._covered = dict(contents)
        self._before = self._began = self.due = None
        return changed

    def _is_late(self, now: float) -> bool:
        return self._began is not None and now - self._began >= self.settle + LONGEST
