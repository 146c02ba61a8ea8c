"""The TOML writer of the Ansible role and the Salt formula: whatever it writes reads back as it was."""

import runpy
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import nastystrings

TOP = Path(__file__).parents[2]
WRITER = TOP / "deploy/ansible/roles/tcpdconf/module_utils/tcpdconf_toml.py"
serialize: Callable[[dict[str, Any]], str] = runpy.run_path(str(WRITER))["serialize"]

texts = st.text(st.characters(codec="utf-8"))
scalars = texts | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(texts, values, max_size=5))
def test_what_is_written_reads_back(tables: dict[str, Any]) -> None:
    assert tomllib.loads(serialize(tables)) == tables


@pytest.mark.parametrize("text", nastystrings.STRINGS, ids=range(len(nastystrings.STRINGS)))
def test_a_nasty_string_is_one_line(text: str) -> None:
    written = serialize({"services": {text: {"environment": {"A": text}, "program": [text]}}})
    assert tomllib.loads(written) == {"services": {text: {"environment": {"A": text}, "program": [text]}}}
    assert len(written.splitlines()) == len(written.split("\n")) - 1


def test_none_was_left_out() -> None:
    written = serialize({"a": None, "b": {"c": None, "d": [{"e": None, "f": 1}]}})
    assert tomllib.loads(written) == {"b": {"d": [{"f": 1}]}}


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"a": {"b": [None]}}, "a.b: TOML has no NoneType"),
        ({"a": {"b": b"c"}}, "a.b: TOML has no bytes"),
        ({"a": {25: "c"}}, "a.25: a key must be a string"),
        ({"a": {"b": "\udc80"}}, r"a.b: half a character \(U\+DC80\)"),
        ({"services": {"a": {"umask": 18}}}, r'services\.a\.umask: quote it, as in "022"'),
    ],
)
def test_what_toml_cannot_say_is_named(tables: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        serialize(tables)


def test_it_is_laid_out_as_people_do() -> None:
    smtp = {
        "user": "courier",
        "limits": {"max_per_ip": 4},
        "listeners": [{"port": 25}, {"port": 587, "haproxy": {"trusted": ["192.0.2.1"]}}],
        "drop": ["A" * 60, "B" * 60],
    }
    assert (
        serialize({"services": {"smtp": smtp}})
        == f"""\
[services.smtp]
user = "courier"
drop = [
  "{"A" * 60}",
  "{"B" * 60}",
]

[services.smtp.limits]
max_per_ip = 4

[[services.smtp.listeners]]
port = 25

[[services.smtp.listeners]]
port = 587

[services.smtp.listeners.haproxy]
trusted = ["192.0.2.1"]
"""
    )
