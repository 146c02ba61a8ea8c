"""Messages between processes: each arrives as it was sent, and whatever else arrives is one error."""

import contextlib
import dataclasses
import json
import math
import os
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from tcpdconf.daemon.messages import assignment, watcher, wire, worker
from tcpdconf.daemon.messages.assignment import Failure, FilePlace, Unusable
from tcpdconf.daemon.process import channel
from tcpdconf.daemon.worker import books

PLACE = FilePlace("/access", 2, 9, "a\tDENY", "wrong")
FAILURES = (Failure(("access", 0, "file"), "cannot", PLACE), Failure((), "cannot"))
LIST = worker.ListStatus("up", "", *range(10))
NAMES = worker.NamesStatus("paused", "no name server answers", *range(8))
CLAIM = worker.Claim(1 << 22, 6, (1 << 128) - 1, 65535, 12345678.123456789)
RELEASED = worker.Released(2, 0.0)
COUNTED = worker.Counted("per_ip")

EXAMPLES: dict[str, tuple[TypeAdapter[Any], tuple[wire.Parsed, ...]]] = {
    "to a worker": (
        worker.TO_WORKER,
        (
            worker.Prepare(1),
            worker.Commit((5, 6)),
            worker.Discard(),
            worker.Try(2),
            worker.Ping(),
            worker.Report(),
            worker.Retire((7,)),
            worker.Stop(0.5, 5),
            worker.Gone((worker.Ended(5, 100, 9),)),
            worker.Recount(),
            worker.Retell(),
            worker.Relayed((worker.Adopt(CLAIM, 1 << 40), RELEASED, COUNTED)),
        ),
    ),
    "from a worker": (
        worker.FROM_WORKER,
        (
            worker.Prepared(1),
            worker.Failed(1, FAILURES),
            worker.Committed(1),
            worker.TryResult(1, FAILURES, ({"list": "bl.example", "state": "up"},)),
            worker.Reported({"bl.example": LIST}, NAMES),
            worker.Retired(),
            worker.Relay((CLAIM, RELEASED, COUNTED)),
            worker.Stopped(),
            worker.Pong(),
        ),
    ),
    "to the watcher": (watcher.TO_WATCHER, (watcher.Watch(1.5, 0.3, poll=True), watcher.Reread())),
    "from the watcher": (
        watcher.FROM_WATCHER,
        (watcher.Watching(polling=False), watcher.Changed(), watcher.Polling("none is left")),
    ),
    "from a reader": (assignment.FROM_READER, (Unusable(FAILURES),)),
}
WAYS = {
    "to a worker": worker.ToWorker,
    "from a worker": worker.FromWorker,
    "to the watcher": watcher.ToWatcher,
    "from the watcher": watcher.FromWatcher,
}
ALL = [(way, message) for way, (_, messages) in EXAMPLES.items() for message in messages]
IDS = [f"{way} {type(message).__name__}" for way, message in ALL]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


def parsed(way: str, said: object) -> wire.Parsed:
    """What is read where this was sent that way."""
    data = said if isinstance(said, bytes) else json.dumps(said).encode()
    found: wire.Parsed = wire.parsed(data, EXAMPLES[way][0])
    return found


def fields(message: wire.Parsed) -> dict[str, Any]:
    """A message as an object of JSON."""
    found: dict[str, Any] = json.loads(wire.written(message))
    return found


def places(said: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The paths of every object in it, itself among them."""
    found = [path] if isinstance(said, dict) else []
    items = said.items() if isinstance(said, dict) else enumerate(said) if isinstance(said, list) else ()
    for key, value in items:
        found += places(value, (*path, key))
    return found


def at(said: Any, path: tuple[str | int, ...]) -> Any:  # noqa: ANN401 (JSON)
    for key in path:
        said = said[key]
    return said


@pytest.mark.parametrize("way", WAYS)
def test_there_is_an_example_of_each(way: str) -> None:
    assert {type(message) for message in EXAMPLES[way][1]} == set(get_args(WAYS[way]))


@pytest.mark.parametrize(("way", "message"), ALL, ids=IDS)
def test_each_arrives_as_it_was_sent(way: str, message: wire.Parsed) -> None:
    assert parsed(way, wire.written(message)) == message


@pytest.mark.parametrize(("way", "message"), ALL, ids=IDS)
def test_each_is_frozen_and_holds_nothing_else(way: str, message: wire.Parsed) -> None:
    assert way
    assert not hasattr(message, "__dict__")
    with pytest.raises(dataclasses.FrozenInstanceError):
        message.kind = "other"  # type: ignore[attr-defined]


@pytest.mark.parametrize(("way", "message"), ALL, ids=IDS)
def test_nobody_else_may_send_it(way: str, message: wire.Parsed) -> None:
    for other in EXAMPLES.keys() - {way}:
        with pytest.raises(wire.MalformedError):
            parsed(other, wire.written(message))


OPEN = {"lists"}  # an object of whatever keys


@pytest.mark.parametrize(("way", "message"), ALL, ids=IDS)
def test_every_field_is_there_and_no_other(way: str, message: wire.Parsed) -> None:
    """In each of its parts as well. A kind may be left out where only one class can stand."""
    for path in places(fields(message)):
        if OPEN & set(path[-2:]) and (path[-1] in OPEN or isinstance(path[-1], int)):
            continue
        bent = fields(message)
        at(bent, path)["other"] = 1
        with pytest.raises(wire.MalformedError):
            parsed(way, bent)
        alone = {"kind"} if path[-1:] == ("program",) or way == "from a reader" else set()
        for name in at(fields(message), path).keys() - {"place"} - alone:
            bent = fields(message)
            del at(bent, path)[name]
            with pytest.raises(wire.MalformedError):
                parsed(way, bent)


@pytest.mark.parametrize(("way", "message"), ALL, ids=IDS)
@pytest.mark.parametrize("value", [True, "1", [None], {"x": []}, math.nan, math.inf, -math.inf, 10**400])
def test_every_field_is_of_its_type(way: str, message: wire.Parsed, value: object) -> None:
    for name, right in fields(message).items():
        if type(right) is type(value):
            continue
        with pytest.raises(wire.MalformedError):
            parsed(way, {**fields(message), name: value})


@pytest.mark.parametrize("way", EXAMPLES)
@pytest.mark.parametrize(
    "data",
    [
        b"{}", b"[]", b"null", b'"ping"', b"ping", b'{"kind": 1}', b'{"kind": []}', b'{"kind": "nothing"}',
        b"\xff", b"[" * 60_000, b'{"kind": ' * 7000, b'{"kind": "ping"', b'{"kind": "ping"}x', b"9" * 60_000,
    ],
)  # fmt: skip
def test_what_is_no_message(way: str, data: bytes) -> None:
    with pytest.raises(wire.MalformedError):
        parsed(way, data)


@pytest.mark.parametrize(
    ("message", "path", "value"),
    [
        (CLAIM, ("pid",), 1),
        (CLAIM, ("pid",), (1 << 22) + 1),
        (CLAIM, ("pid",), True),
        (CLAIM, ("version",), 5),
        (CLAIM, ("version",), 4),  # whose addresses are shorter
        (CLAIM, ("value",), 1 << 128),
        (CLAIM, ("value",), -1),
        (CLAIM, ("port",), 1 << 16),
        (CLAIM, ("port",), -1),
        (CLAIM, ("started",), -0.5),
        (CLAIM, ("started",), math.nan),
        (CLAIM, ("started",), math.inf),
        (RELEASED, ("pid",), 0),
        (RELEASED, ("started",), -1.0),
        (COUNTED, ("name",), "total"),
        (COUNTED, ("name",), ["left"]),
    ],
)
def test_entries_of_a_relay_are_within_their_bounds(
    message: worker.Claim | worker.Released | worker.Counted, path: tuple[str], value: object
) -> None:
    relay = fields(worker.Relay((message,)))
    relay["entries"][0][path[0]] = value
    with pytest.raises(wire.MalformedError):
        parsed("from a worker", relay)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("state", "down"), ("why", None), ("why", 5), ("asked", -1), ("asked", 1 << 64), ("asked", True),
        ("listed", 1.0), ("listed", "1"),
    ],
)  # fmt: skip
def test_the_state_of_a_list_is_within_its_bounds(key: str, value: object) -> None:
    said = fields(worker.Reported({"bl.example": LIST}, None))
    said["lists"]["bl.example"][key] = value
    with pytest.raises(wire.MalformedError):
        parsed("from a worker", said)


def test_names_are_never_suspended() -> None:
    said = fields(worker.Reported({}, NAMES))
    said["names"]["state"] = "suspended"
    with pytest.raises(wire.MalformedError):
        parsed("from a worker", said)


@pytest.mark.parametrize(
    "rows", [[{}], [{"state": "up"}], [{"list": 5}], [{"list": "x", "y": None}], [["list"]]]
)
def test_rows_are_words_and_name_their_list(rows: object) -> None:
    said = {**fields(worker.TryResult(1, (), ())), "lists": rows}
    with pytest.raises(wire.MalformedError):
        parsed("from a worker", said)


@pytest.mark.parametrize(
    ("key", "value"),
    [("line", 0), ("line", 1 << 40), ("column", 0), ("column", True), ("source", None), ("file", 1)],
)
def test_a_place_is_one(key: str, value: object) -> None:
    said = fields(worker.Failed(1, FAILURES))
    said["failures"][0]["place"][key] = value
    with pytest.raises(wire.MalformedError):
        parsed("from a worker", said)


def test_who_fails_says_why() -> None:
    with pytest.raises(wire.MalformedError):
        parsed("from a worker", fields(worker.Failed(1, ())))


def test_nothing_in_a_failure_ends_a_line() -> None:
    """Neither in one that was sent nor in one of this process, where a file's name may be any bytes."""
    place = {"file": "/acc\ness", "line": 2, "column": 9, "source": "a\t\x1bb\0", "text": "wr\x1bong"}
    failure = {"key": ["access"], "text": "x\nMAINPID=1", "place": place}
    said = {"kind": "failed", "number": 1, "failures": [failure]}

    found = parsed("from a worker", said)

    clean = FilePlace("/acc\ufffdess", 2, 9, "a\t\ufffdb\ufffd", "wr\ufffdong")
    assert found == worker.Failed(1, (Failure(("access",), "x\ufffdMAINPID=1", clean),))
    own = Failure((), "\udcff", FilePlace("/\udcff", 1, 1, "\udcff", "\udcff"))
    assert parsed("from a worker", wire.written(worker.Failed(1, (own,)))) == worker.Failed(1, (own,))


def test_an_error_is_short_whatever_was_said() -> None:
    with pytest.raises(wire.MalformedError) as caught:
        parsed("from a worker", {"kind": "x" * 60_000})
    assert len(str(caught.value)) <= 200


@given(st.sampled_from(sorted(EXAMPLES)), st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error(way: str, data: bytes) -> None:
    with contextlib.suppress(wire.MalformedError):
        assert isinstance(parsed(way, data), wire.Parsed)


@given(st.sampled_from(ALL), st.data())
def test_any_values_are_a_message_or_an_error(example: tuple[str, wire.Parsed], data: st.DataObject) -> None:
    """Somewhere in a message something else is said; what is read then can be sent on."""
    way, message = example
    said = fields(message)
    path = data.draw(st.sampled_from(places(said)))
    key = data.draw(st.sampled_from(sorted(at(said, path)) or ["x"]))
    at(said, path)[key] = data.draw(JSON)
    try:
        found = parsed(way, said)
    except wire.MalformedError:
        return
    assert parsed(way, wire.written(found)) == found


def test_as_many_entries_as_are_sent_at_once_fit_a_message() -> None:
    """The longest that there are: /proc counts clock ticks since boot in at most twenty digits."""
    for relayed in (
        worker.Relay(tuple(next(iter(books.parts([CLAIM] * 1000))))),
        worker.Relayed(tuple(next(iter(books.parts([worker.Adopt(CLAIM, 1 << 60)] * 1000))))),
        worker.Gone(tuple(next(iter(books.parts([worker.Ended(1 << 22, 1 << 60, 1 << 16)] * 1000))))),
    ):
        assert len(wire.written(relayed)) <= channel.LARGEST


def test_what_is_in_a_memfd_is_what_it_is_said_to_be() -> None:
    fd = wire.pickled(watcher.ReadFiles({"/a": (1, 2)}))
    try:
        assert wire.unpickled(fd, watcher.ReadFiles) == watcher.ReadFiles({"/a": (1, 2)})
        with pytest.raises(wire.MalformedError):
            wire.unpickled(fd, watcher.WatchedFiles)
    finally:
        os.close(fd)


@pytest.mark.parametrize("paths", [[], ["/a"], ["/a b", "/c\nd", "/\udcff", "/é"]])
def test_paths_arrive_whatever_bytes_are_in_them(paths: list[str]) -> None:
    fd = wire.paths_written(paths)
    assert wire.paths_read(fd) == paths
    os.close(fd)
