"""Fenced blocks of the documentation."""

import pathlib
import re
from typing import NamedTuple


class Block(NamedTuple):
    """A fenced block: its word, its text without the indentation of a list."""

    word: str
    text: str


def blocks(page: pathlib.Path, *words: str) -> list[Block]:
    """The blocks of a page with one of these words."""
    found = []
    for indent, word, text in re.findall(
        r"^( *)```(\w+)\n(.*?)^ *```$", page.read_text(), re.MULTILINE | re.DOTALL
    ):
        if word in words:
            found.append(Block(word, re.sub(f"^{indent}", "", text, flags=re.MULTILINE)))
    return found
