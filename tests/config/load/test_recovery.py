"""Files with syntax errors: how much is told of them, and how long that takes."""

import time
import tomllib

import pytest

from tcpdconf.config import problems
from tcpdconf.config.load import recovery, source
from tcpdconf.config.load.source import SourceFile

SECONDS = 20  # on a loaded machine; quadratic time would be minutes


def recovered(text: str) -> source.Recovered:
    with pytest.raises((tomllib.TOMLDecodeError, RecursionError)) as error:
        tomllib.loads(text)
    return recovery.recover(SourceFile("a.toml", text, {}), error.value)


def test_each_error_is_told_and_the_rest_is_read() -> None:
    found = recovered('a = b\nc = 1\n[d]\ne = yes\nf =\ng = "h"\n')

    assert [problem.line for problem in found.told] == [1, 4, 5]
    assert found.data == {"a": "b", "c": 1, "d": {"e": True, "g": "h"}}


def test_what_stands_below_a_header_that_is_lost_is_not_read_elsewhere() -> None:
    found = recovered("[a]\nb = 1\n[c d e]\nf = 2\n[g]\nh = 3\n")

    assert [problem.line for problem in found.told] == [3]
    assert found.data == {"a": {"b": 1}, "g": {"h": 3}}
    assert any("f = 2" in lost for lost in found.lost)


def test_every_key_that_is_defined_twice_is_told() -> None:
    found = recovered("a = 1\na = 2\nb = 1\nb = 2\nc =\n")

    assert sorted((problem.line, problem.code) for problem in found.told) == [
        (2, "duplicate-key"), (4, "duplicate-key"), (5, "syntax"),
    ]  # fmt: skip
    assert found.data == {"a": 1, "b": 1}


@pytest.mark.parametrize(
    "text",
    [
        "<<<<<<<\n" * 50_000, "a=[\n" * 20_000, "[\n" * 25_000, "a = " + "<%" * 400_000,
        "a = b" + " " * 900_000 + "x", "[" + " " * 900_000, "a = b\n" * 16_000, "a={\n b=1,\n" * 12_000,
        "[a\n" * 16_000, "a = '''x\n" * 10_000,
        "".join(f"a{n} = 1\n" for n in range(12_500)) * 2, "[a]\n" * 25_000,
        "a = {" + ", ".join(["b = 1"] * 25_000) + "}", "a = { b = 1, b = 2 }\n" * 10_000,
    ],
    ids=[
        "marks", "arrays", "brackets", "templates", "blanks", "header", "words", "tables", "heads", "texts",
        "keys-twice", "headers-twice", "line-twice", "both-twice",
    ],
)  # fmt: skip
def test_a_large_broken_file_does_not_take_long(text: str) -> None:
    start = time.monotonic()

    found = recovered(text)

    assert 1 <= len(found.told) <= 101
    assert time.monotonic() - start < SECONDS


def test_edits_of_one_text_are_made_together() -> None:
    edits = [
        problems.Edit(1, 3, 1, 4, "xyz"),
        problems.Edit(2, 1, 3, 1, ""),
        problems.Edit(3, 2, 3, 2, "!"),
    ]

    assert problems.edited("ab c\nde\nfg", edits) == "abxyzc\nf!g"
