"""Debounces changes of files: each change is reported once, when it is over.

It is a state machine without clock or files. After an event, once there has been no other for a while, the
caller looks at the files. If a look shows the reported contents, the matter ends. If it shows others, the
look is repeated until two looks show the same.
"""

from collections.abc import Iterable, Mapping
from typing import Final

LONGEST: Final = 5.0  # seconds to wait, beyond the time for settling, for a change that does not end
_AGAIN: Final = 3  # the second look follows after the time for settling divided by this


class Debounce:
    """Decides when to look at files and which changes to report.

    Contents are hashes by path. Times are in seconds. `due` is the time of the next look, or None.
    """

    def __init__(self, settle: float = 0.3) -> None:
        self.settle = settle
        self.due: float | None = None
        self._began: float | None = None
        self._covered: dict[str, str] = {}
        self._before: Mapping[str, str] | None = None  # the contents that the last look has shown

    def cover(self, contents: Mapping[str, str]) -> None:
        """Take exactly these contents as known; a look that shows others reports them."""
        self._covered = dict(contents)

    def forget(self, paths: Iterable[str]) -> None:
        """Take the contents of these paths as unknown: the next look reports them."""
        for path in paths:
            self._covered.pop(path, None)

    def stirred(self, now: float) -> None:
        """Record an event; a look is due when events have stopped, or have lasted too long."""
        if self._began is None:
            self._began = now
        if self.due is None or not self._is_late(now):
            self.due = now + self.settle
            self._before = None

    def seen(self, now: float, contents: Mapping[str, str], *, at_rest: bool) -> list[str]:
        """Record the contents that a look has shown; return the paths to report, sorted.

        `at_rest` is False if a file is being written, or if the look may have missed something.
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
