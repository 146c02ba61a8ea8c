"""Finds where the keys and values of a TOML file are written.

tomllib keeps no positions, so tree-sitter parses the text again. Only a problem (or `show --origin`) needs
this, so tree-sitter is imported when the first file is mapped. Elements of an array are mapped only on
request, because a list of rules may be long. A file with syntax errors is mapped as far as it can be read.
"""

import bisect
import itertools
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tcpdconf.config import problems

if TYPE_CHECKING:
    import tree_sitter

Key = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Holds the spans of a key and of its value; for a table, the value is its header.

    `end` is the line and column after the value, which may have several lines.
    """

    key: problems.Span
    value: problems.Span
    end: tuple[int, int]
    implied: bool = False  # True for a table that only longer headers mention: its own may follow


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Describes a key that is defined twice: the second place, and the first."""

    key: Key
    span: problems.Span
    first: problems.Span


class Positions:
    """Maps the keys of one text to their places; array elements by index."""

    def __init__(self, text: str) -> None:
        self._duplicates: list[Duplicate] = []
        self._arrays: dict[Key, list[tree_sitter.Node | None]] = {}  # elements that are not mapped yet
        self._lines = text.split("\n")
        self._sizes = [len(line.encode()) for line in self._lines]  # in bytes
        self._ends: dict[int, list[int]] = {}  # for lines that are not ASCII: the byte after each character
        self._places: dict[Key, Place] = {}
        self._elements: dict[Key, int] = {}  # number so far, for arrays of tables
        self._mentions: dict[Key, list[problems.Span]] = {}
        for node in _parse(text).named_children:
            if node.type == "pair":
                self._pair((), node)
            elif node.type in {"table", "table_array_element"}:
                self._table(node)

    @property
    def duplicates(self) -> list[Duplicate]:
        """Return the keys that are defined twice, in the order of the text."""
        while unmapped := [array for array, elements in self._arrays.items() if any(elements)]:
            for array in unmapped:
                for index in range(len(self._arrays[array])):
                    self._element(array, index)
        return sorted(self._duplicates, key=lambda found: (found.span.line, found.span.column))

    def get(self, key: Key) -> Place | None:
        """Return the place of a key, or None if it is not written here."""
        self._map(key)
        return self._places.get(key)

    def mentions(self, key: Key) -> list[problems.Span]:
        """Return every place where the last part of a key is written, headers of deeper tables included."""
        self._map(key)
        return self._mentions.get(key, [])

    def nearest(self, key: Key) -> Place | None:
        """Return the place of the longest leading part of a key that is written here."""
        self._map(key)
        return next((self._places[key[:n]] for n in range(len(key), 0, -1) if key[:n] in self._places), None)

    def line(self, number: int) -> str:
        """Return a line of the text without its newline; numbers count from 1."""
        return self._lines[number - 1] if 0 < number <= len(self._lines) else ""

    def _table(self, node: "tree_sitter.Node") -> None:
        children = node.named_children
        parts = _parts(children[0]) if children else []
        if not parts:
            return
        header = self._span(node)
        path: Key = ()
        for name, part in parts[:-1]:
            path = self._inside((*path, name))
            self._imply(path, part, header=True)
        path, place = (*path, parts[-1][0]), Place(self._span(parts[-1][1]), header, _after(header))
        self._mention(path, place.key)
        if node.type == "table":
            self._add(path, place)
        else:
            self._places.setdefault(path, place)
            index = self._elements.get(path, 0)
            self._elements[path] = index + 1
            path = (*path, index)
            self._places[path] = place
        for child in children[1:]:
            if child.type == "pair":
                self._pair(path, child)

    def _pair(self, table: Key, node: "tree_sitter.Node") -> None:
        children = [child for child in node.named_children if child.type != "comment"]
        parts = _parts(children[0]) if len(children) > 1 else []
        if not parts:
            return
        for name, part in parts[:-1]:
            table = (*table, name)
            self._imply(table, part, header=False)
        path = (*table, parts[-1][0])
        place = Place(self._span(parts[-1][1]), self._span(children[1]), self._end(children[1]))
        self._mention(path, place.key)
        self._add(path, place)
        self._value(path, children[1])

    def _value(self, path: Key, node: "tree_sitter.Node") -> None:
        if node.type == "inline_table":
            for child in node.named_children:
                if child.type != "comment":
                    self._pair(path, child)
        elif node.type == "array":
            self._arrays[path] = [child for child in node.named_children if child.type != "comment"]

    def _map(self, key: Key) -> None:
        """Map the elements of arrays through which a key leads."""
        for size in range(1, len(key)):
            if key[:size] in self._arrays:
                self._element(key[:size], key[size])

    def _element(self, array: Key, index: str | int) -> None:
        """Map one element of an array, unless it is mapped already or does not exist."""
        elements = self._arrays[array]
        if not isinstance(index, int) or index >= len(elements):
            return
        node, elements[index] = elements[index], None
        if node is not None:
            span = self._span(node)
            self._places[*array, index] = Place(span, span, self._end(node))
            self._value((*array, index), node)

    def _inside(self, path: Key) -> Key:
        """Return the path of a table in a header; of an array of tables, that of its last element."""
        count = self._elements.get(path)
        return path if count is None else (*path, count - 1)

    def _imply(self, path: Key, part: "tree_sitter.Node", *, header: bool) -> None:
        span = self._span(part)
        self._mention(path, span)
        if path not in self._places:
            self._places[path] = Place(span, span, _after(span), implied=header)

    def _mention(self, path: Key, span: problems.Span) -> None:
        self._mentions.setdefault(path, []).append(span)

    def _add(self, path: Key, place: Place) -> None:
        known = self._places.get(path)
        if known is None or known.implied:
            self._places[path] = place
        else:
            self._duplicates.append(Duplicate(path, place.key, known.key))

    def _span(self, node: "tree_sitter.Node") -> problems.Span:
        """Return the span of a node's first line in characters; tree-sitter counts bytes."""
        row, start = node.start_point
        end = node.end_point[1] if node.end_point[0] == row else self._sizes[row]
        if node.type in {"table", "table_array_element"}:  # the span covers the header only
            end = max(
                (child.end_point[1] for child in node.children if child.type in {"]", "]]"}), default=end
            )
        first = self._characters(row, start)
        length = len(self._lines[row][first : self._characters(row, end)].rstrip())
        return problems.Span(row + 1, first + 1, max(1, length))

    def _end(self, node: "tree_sitter.Node") -> tuple[int, int]:
        """Return the line and column after a node."""
        row, column = node.end_point
        return row + 1, self._characters(row, column) + 1

    def _characters(self, row: int, column: int) -> int:
        """Return the number of characters before a byte of a line.

        The offsets of a line that is not ASCII are kept, since it may be long and have many places.
        """
        line = self._lines[row]
        if self._sizes[row] == len(line):
            return column
        if row not in self._ends:
            self._ends[row] = list(itertools.accumulate(len(character.encode()) for character in line))
        return bisect.bisect_right(self._ends[row], column)


def _after(span: problems.Span) -> tuple[int, int]:
    return span.line, span.column + span.length


def _parse(text: str) -> "tree_sitter.Node":
    import tree_sitter  # noqa: PLC0415 (a good configuration needs no positions)
    import tree_sitter_toml  # noqa: PLC0415

    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_toml.language()))
    return parser.parse(text.encode()).root_node


def _parts(node: "tree_sitter.Node") -> "list[tuple[str, tree_sitter.Node]]":
    """Return the parts of a key as written, with their names; none if it cannot be read."""
    parts: list[tuple[str, tree_sitter.Node]] = []
    nodes = [node]
    while nodes:  # a dotted key is nested once for each part
        node = nodes.pop()
        written = (node.text or b"").decode()
        if node.type == "dotted_key":
            nodes += reversed(node.named_children)
        elif node.type == "bare_key":
            parts.append((written, node))
        elif node.type == "quoted_key":
            try:
                parts.append((next(iter(tomllib.loads(f"{written} = 0"))), node))
            except tomllib.TOMLDecodeError:
                return []
    return parts
