"""What a worker says, once it is a message: it is used as far as it has the right form."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpdconf.cli import metrics
from tcpdconf.cli import status as status_page
from tcpdconf.daemon import liststatus
from tcpdconf.daemon.worker import books, ledger
from tcpdconf.policy.access import table as access_table

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
STATUS = st.fixed_dictionaries(
    {"state": st.sampled_from(["up", "paused", "else"]) | JSON, "why": st.text() | JSON, "asked": JSON},
    optional={name: st.integers() | JSON for name in ("listed", "timeout", "unreachable", "x")},
)
ENTRIES = st.fixed_dictionaries(
    {"kind": st.sampled_from(["count", "adopt", "release"])},
    optional={
        "name": st.sampled_from(ledger.COUNTERS) | JSON,
        "pid": st.integers(-1, 1 << 23) | JSON,
        "peer": st.tuples(st.sampled_from([4, 6, 5]), st.integers(), st.integers()) | JSON,
        "started": JSON,
    },
)
RELAYED = st.fixed_dictionaries(
    {"kind": st.just("relay"), "entries": st.lists(ENTRIES | JSON, max_size=4) | JSON}
)


@given(JSON | st.dictionaries(st.text(max_size=5), STATUS, max_size=3), JSON | STATUS)
def test_lists_and_names_can_be_shown_whatever_is_said_of_them(lists: object, names: object) -> None:
    found = liststatus.report(json.loads(json.dumps({"lists": lists, "names": names})))

    json.dumps(found, allow_nan=False)
    service: dict[str, Any] = {
        "pid": 1, "connections": 0, "max_connections": 1, "accepted": 0, "refused": {}, "listeners": [],
        "dns_lists": found.lists, "names": found.names,
    }  # fmt: skip
    config = {"dir": "", "loaded_at": 0.0}
    status = {"version": "", "pid": 1, "config": config, "last_reload": None, "services": {"a": service}}
    page = status_page.status(status, 0.0) + metrics.exposition(status)
    assert all(character.isprintable() or character == "\n" for character in page)


def test_what_is_right_stays() -> None:
    right = {"bl.example": {"state": "up", "why": "", "asked": 3, "listed": 1, "timeout": 0}}

    assert liststatus.checked({**right, "other": {"state": "up"}, "third": 5}) == right
    names = {"state": "paused", "why": "no name server answers", "asked": 2, "timeout": 1, "unreachable": 1}
    assert liststatus.report({"lists": right, "names": names}) == (right, names)
    assert liststatus.report({"lists": right, "names": {**names, "state": "suspended"}}).names is None


@given(JSON | st.lists(st.dictionaries(st.text(max_size=4) | st.just("list"), JSON, max_size=3), max_size=3))
def test_rows_are_words(said: object) -> None:
    for row in liststatus.rows(json.loads(json.dumps(said))):
        assert row["list"] is not None
        assert all(isinstance(word, str) for word in row.values())


@given(RELAYED)
def test_what_is_relayed_has_its_form(message: dict[str, Any]) -> None:
    for entry in books.checked(json.loads(json.dumps(message))) or ():
        match entry:
            case {"kind": "count", "name": name}:
                assert name in ledger.COUNTERS
            case {"kind": "release", "pid": pid, "started": started}:
                assert 1 < pid < 1 << 23
                assert 0 <= started < math.inf
            case {"kind": "adopt", "pid": pid, "peer": [version, value, port], "started": started}:
                assert 1 < pid < 1 << 23
                assert 0 <= value < 1 << access_table.BITS[version]
                assert 0 <= port < 1 << 16
                assert 0 <= started < math.inf
            case _:
                pytest.fail(f"{entry}")
