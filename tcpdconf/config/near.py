"""Finds the word that was probably meant."""

import difflib
from collections.abc import Iterable


def near(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known word that is most like another one, or None if none is like it.

    `cutoff` is the least likeness, from 0 to 1 (`difflib.SequenceMatcher.ratio`).
    """
    return next(iter(difflib.get_close_matches(word, list(known), 1, cutoff)), None)
