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

from tcpdconf.daemon.messages import assignment, cluster, watcher, wire, worker
from tcpdconf.daemon.messages.assignment import Failure, FilePlace, Unusable
from tcpdconf.daemon.process import channel
from tcpdconf.daemon.worker import books

PLACE = FilePlace("/access", 2, 9, "a\tDENY", "wrong")
FAILURES = (
    Failure(("access", 0, "file"), "cannot", PLACE),
    Failure((), "cannot"),
    Failure(("nice",), "needs it", code="needs-capability", hint="give it"),
)
LIST = worker.ListStatus("up", "", 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, (0,) * 13, 1.5)
NAMES = worker.NamesStatus("paused", "no name server answers", *range(8))
PENALTY = worker.PenaltyStatus(6, (1 << 64) - 1, 64, "status 75", 9.5, True)
PENALTIES = worker.PenaltiesStatus(3, (PENALTY, PENALTY._replace(version=4, bits=0, length=0)))
REFUSED = (worker.RefusedAddress(4, 0xC0000201, 12), worker.RefusedAddress(6, (1 << 128) - 1, 1))
CLAIM = worker.Claim(1 << 22, 6, (1 << 128) - 1, 65535, 12345678.123456789, 123456789.12345679)
RELEASED = worker.Released(2, 0.0)
COUNTED = worker.Counted("per_ip")
OBSERVED = worker.Observed("start", 0.25)

HOSTS = (cluster.HostStatus("mx1", "0123456789abcdef", 1.5, True, False),)
CLUSTER_STATUS = cluster.Status(
    "slow", "it takes long", "redis://192.0.2.10:6379/0", 1, 2, 3, 4, 5, 6, HOSTS, (0,) * 12, 1.5
)
BAN = cluster.SharedBan("192.0.2.0/24", "smtp", 60.5, "uid 0 (tcpdconf)", "guesses", "mx2")
PENALISED = cluster.NetworkPenalty(4, 0xC00002, 24, 30.5, "status 75")
ADDRESSES = cluster.Limit(32, 128, 0, None, True)

EXAMPLES: dict[str, tuple[TypeAdapter[Any], tuple[wire.Parsed, ...]]] = {
    "to a worker": (
        worker.TO_WORKER,
        (
            worker.Prepare(1),
            worker.Commit((5, 6)),
            worker.Discard(),
            worker.Try(2),
            worker.Ping(),
            worker.Report(((4, 0xC0000201), (6, 1))),
            worker.Retire((7,)),
            worker.Leave(),
            worker.Stop(0.5, 5),
            worker.Gone((worker.Ended(5, 100, 9),)),
            worker.BanTable(),
            worker.Recount(),
            worker.Retell(),
            worker.LogFile(),
            worker.ClusterLink(),
            worker.Relayed((worker.Adopt(CLAIM, 1 << 40), RELEASED, COUNTED, OBSERVED)),
        ),
    ),
    "from a worker": (
        worker.FROM_WORKER,
        (
            worker.Prepared(1),
            worker.Failed(1, FAILURES),
            worker.Committed(1),
            worker.TryResult(1, FAILURES, ({"list": "bl.example", "state": "up"},)),
            worker.Reported({"bl.example": LIST}, NAMES, PENALTIES, REFUSED),
            worker.Retired(),
            worker.Relay((CLAIM, RELEASED, COUNTED, OBSERVED)),
            worker.Stopped(),
            worker.Pong(),
            worker.ClusterLost(),
        ),
    ),
    "to the cluster process": (
        cluster.TO_CLUSTER,
        (
            cluster.Attach("smtp", "@mail", True),
            cluster.Ask(3, "smtp", 6, (1 << 128) - 1, (128, 64, 0)),
            cluster.BanPage((BAN, BAN._replace(service=None, seconds=None, host=None)), 100, 7, True),
            cluster.BansChanged(),
            cluster.Taken(),
            cluster.Lift((("192.0.2.0/24", "smtp"), ("2001:db8::1", None))),
            cluster.GiveUp(),
        ),
    ),
    "from the cluster process": (
        cluster.FROM_CLUSTER,
        (
            cluster.WantBans(100),
            cluster.Mirrored((BAN,)),
            cluster.Lifted((("192.0.2.0/24", "smtp"),)),
            CLUSTER_STATUS,
            cluster.Told(3, ({"mx2": 4}, {})),
            cluster.Told(4, None),
        ),
    ),
    "from a worker to the cluster process": (
        cluster.FROM_WORKER,
        (
            cluster.Layout((ADDRESSES,)),
            cluster.Layout((ADDRESSES, cluster.Limit(None, 48, 30, None, False))),
            cluster.Layout((ADDRESSES, cluster.Limit(16, None, 30, 60.0, True))),
            cluster.Penalised((PENALISED, PENALISED._replace(version=6))),
        ),
    ),
    "from the cluster process to a worker": (cluster.TO_WORKER, (cluster.PenalisedElsewhere((PENALISED,)),)),
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
    "to the cluster process": cluster.ToCluster,
    "from the cluster process": cluster.FromCluster,
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


OPEN = {"lists", "counts"}  # an object of whatever keys


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
        single = way in {"from a reader", "from the cluster process to a worker"}
        alone = {"kind"} if path[-1:] == ("program",) or single else set()
        for name in at(fields(message), path).keys() - {"place", "code", "hint", "until"} - alone:
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
        (OBSERVED, ("name",), "left"),
        (OBSERVED, ("seconds",), -1.0),
    ],
)
def test_entries_of_a_relay_are_within_their_bounds(
    message: worker.Claim | worker.Released | worker.Counted | worker.Observed,
    path: tuple[str],
    value: object,
) -> None:
    relay = fields(worker.Relay((message,)))
    relay["entries"][0][path[0]] = value
    with pytest.raises(wire.MalformedError):
        parsed("from a worker", relay)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("state", "down"), ("why", None), ("why", 5), ("asked", -1), ("asked", 1 << 64), ("asked", True),
        ("listed", 1.0), ("listed", "1"), ("times", [0] * 12), ("times", [-1] * 13), ("seconds", -1.0),
    ],
)  # fmt: skip
def test_the_state_of_a_list_is_within_its_bounds(key: str, value: object) -> None:
    said = fields(worker.Reported({"bl.example": LIST}, None, None, ()))
    said["lists"]["bl.example"][key] = value
    with pytest.raises(wire.MalformedError):
        parsed("from a worker", said)


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (0, 5), (0, True), (1, 1 << 64), (1, -1), (1, "1"), (2, 129), (2, -1), (2, 63), (3, "status"),
        (3, "refused\n"), (3, "x refused"), (3, "status 75 "), (3, 75), (4, -1.0), (4, 604801), (4, "9"),
        (4, None), (5, 1), (5, None),
    ],
)  # fmt: skip
def test_a_penalty_is_that_of_a_network(index: int, value: object) -> None:
    said = fields(worker.Reported({}, None, PENALTIES, ()))
    said["penalties"]["sources"][0][index] = value
    with pytest.raises(wire.MalformedError):
        parsed("from a worker", said)


@pytest.mark.parametrize(("key", "value"), [("active", -1), ("active", 131073), ("sources", [PENALTY] * 111)])
def test_penalties_are_no_more_than_there_can_be(key: str, value: object) -> None:
    said = fields(worker.Reported({}, None, PENALTIES, ()))
    said["penalties"][key] = value
    with pytest.raises(wire.MalformedError):
        parsed("from a worker", said)


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (0, 5),
        (0, True),
        (1, 1 << 32),
        (1, -1),
        (1, "1"),
        (1, None),
        (2, -1),
        (2, 1 << 64),
        (2, 1.5),
        (2, None),
    ],
)
def test_a_refused_address_is_one(index: int, value: object) -> None:
    said = fields(worker.Reported({}, None, None, REFUSED))
    said["refused"][0][index] = value
    with pytest.raises(wire.MalformedError):
        parsed("from a worker", said)


def test_refused_addresses_are_no_more_than_asked_for() -> None:
    said = fields(worker.Reported({}, None, None, REFUSED[:1] * worker.MOST_REFUSED))
    parsed("from a worker", said)
    said["refused"].append(said["refused"][0])
    with pytest.raises(wire.MalformedError):
        parsed("from a worker", said)


def test_names_are_never_suspended() -> None:
    said = fields(worker.Reported({}, NAMES, None, ()))
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
