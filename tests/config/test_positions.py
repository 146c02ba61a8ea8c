import time
import tomllib
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from tcpdconf.config import positions

SECONDS = 20  # on a loaded machine; quadratic time would be minutes
TEXT = """\
top = 1
é = 2
a."b c".d = [ # comment
  "x", { y = 1, z.w = [2, 3] },
]

[services.imap]
program = "p"
[[services.imap.listeners]]
port = 1
[services.imap.listeners.haproxy]
timeout = 5
[[ services . imap . "listeners" ]]
port = 2
[services.pop.limits]
rate = 'ü', # broken on purpose below
"""
GOOD = TEXT.replace("é = 2", '"é" = 2').replace("'ü', #", "'ü' #")


@pytest.mark.parametrize(
    ("key", "line", "column", "meant"),
    [
        (("top",), 1, 7, "1"),
        (("é",), 2, 7, "2"),
        (("a", "b c", "d"), 3, 13, "[ # comment"),
        (("a", "b c", "d", 0), 4, 3, '"x"'),
        (("a", "b c", "d", 1), 4, 8, "{ y = 1, z.w = [2, 3] }"),
        (("a", "b c", "d", 1, "z", "w", 1), 4, 27, "3"),
        (("services", "imap"), 7, 1, "[services.imap]"),
        (("services", "imap", "listeners"), 9, 1, "[[services.imap.listeners]]"),
        (("services", "imap", "listeners", 0, "haproxy"), 11, 1, "[services.imap.listeners.haproxy]"),
        (("services", "imap", "listeners", 0, "haproxy", "timeout"), 12, 11, "5"),
        (("services", "imap", "listeners", 1), 13, 1, '[[ services . imap . "listeners" ]]'),
        (("services", "imap", "listeners", 1, "port"), 14, 8, "2"),
        (("services", "pop"), 15, 11, "pop"),
        (("services", "pop", "limits", "rate"), 16, 8, "'ü'"),
    ],
)
def test_values_and_headers_are_found(key: positions.Key, line: int, column: int, meant: str) -> None:
    found = positions.Positions(GOOD)
    place = found.get(key)

    assert place is not None
    span = place.value
    assert (line, column, meant) == (
        span.line,
        span.column,
        found.line(span.line)[span.column - 1 :][: span.length],
    )


@pytest.mark.parametrize(
    ("key", "line", "column"),
    [
        (("a", "b c", "d"), 3, 9),
        (("a", "b c"), 3, 3),
        (("a", "b c", "d", 1, "z", "w"), 4, 19),
        (("services",), 7, 2),
        (("services", "imap", "listeners", 0, "haproxy"), 11, 26),
        (("services", "imap", "listeners", 1), 13, 22),
        (("services", "pop"), 15, 11),
    ],
)
def test_the_last_part_of_a_key_is_its_place(key: positions.Key, line: int, column: int) -> None:
    place = positions.Positions(GOOD).get(key)

    assert place is not None
    assert (line, column) == (place.key.line, place.key.column)


def test_what_is_not_written_is_nearest_to_its_table() -> None:
    found = positions.Positions(GOOD)

    assert found.get(("services", "imap", "limits")) is None
    assert found.nearest(("services", "imap", "limits", "rate")) == found.get(("services", "imap"))
    assert found.nearest(("elsewhere",)) is None


@pytest.mark.parametrize(
    ("text", "second", "first"),
    [
        ("a = 1\n b = 2\na = 3\n", (3, 1), (1, 1)),
        ("[a]\nb.c = 1\nb.c = 2\n", (3, 3), (2, 3)),
        ("[a.b]\n[a]\n[c]\n[a.b]\n", (4, 4), (1, 4)),
        ("[a]\nb.c = 1\n[a.b]\n", (3, 4), (2, 1)),
        ("x = { k = 1, k = 2 }\n", (1, 14), (1, 7)),
        ("[[a]]\nk = 1\n[[a]]\nk = 1\nk = 2\n", (5, 1), (4, 1)),
    ],
)
def test_what_is_defined_twice_is_found(text: str, second: tuple[int, int], first: tuple[int, int]) -> None:
    (twice,) = positions.Positions(text).duplicates

    assert (second, first) == (
        (twice.span.line, twice.span.column),
        (twice.first.line, twice.first.column),
    )


letters = st.text(alphabet="ab-_. \"'\\#é日\t\n=[]{}", max_size=4)
scalars = st.one_of(st.integers(-99, 99), st.booleans(), letters, st.floats(allow_nan=False), st.dates())
tables = st.dictionaries(
    letters,
    st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(letters, inner, max_size=3)
    ),
    max_size=4,
)


@pytest.mark.parametrize("letter", ["a", "é"])
def test_a_line_of_many_keys_does_not_take_long(letter: str) -> None:
    """Each place is found without going over the line up to it again."""
    many = 60_000
    text = "x = { " + ", ".join(f'k{number} = "{letter}"' for number in range(many)) + " }"
    start = time.monotonic()

    found = positions.Positions(text)

    assert found.duplicates == []
    assert time.monotonic() - start < SECONDS
    place = found.get(("x", f"k{many - 1}"))
    assert place is not None
    assert text[place.value.column - 1 :][: place.value.length] == f'"{letter}"'


def _walk(value: Any, key: positions.Key = ()) -> list[tuple[positions.Key, Any]]:  # noqa: ANN401 (TOML)
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [pair for part, item in items for pair in [((*key, part), item), *_walk(item, (*key, part))]]


@given(tables)
def test_every_value_of_any_toml_is_where_it_is_said_to_be(data: dict[str, Any]) -> None:
    text = tomli_w.dumps(data)
    found = positions.Positions(text)

    assert found.duplicates == []
    for key, value in _walk(data):
        place = found.get(key)
        assert place is not None
        if not isinstance(value, dict | list):
            line = found.line(place.value.line)
            written = line[place.value.column - 1 :][: place.value.length]
            assert value == tomllib.loads(f"x = {written}")["x"]
