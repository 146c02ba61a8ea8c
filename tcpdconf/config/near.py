"""Finds the known word that a misspelt one probably means."""

import difflib
from collections.abc import Iterable


def near(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known word most similar to another one, or None if none is similar.

    `cutoff` is the least similarity, from 0 to 1 (`difflib.SequenceMatcher.ratio`).
    """
    return next(iter(difflib.get_close_matches(word, list(known), 1, cutoff)), None)
