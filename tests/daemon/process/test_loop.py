import socket
from collections.abc import Iterator

import pytest

from tcpdconf.daemon.process import loop


@pytest.fixture
def events() -> loop.Loop:
    return loop.Loop()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def test_timers_go_off_in_their_order(events: loop.Loop) -> None:
    seen: list[int] = []
    for number in (3, 1, 2):
        events.after(number / 100, lambda number=number: seen.append(number))  # type: ignore[misc]
    events.after(0.04, events.stop)

    events.run()

    assert seen == [1, 2, 3]


def test_a_timer_that_was_cancelled_does_not_go_off(events: loop.Loop) -> None:
    seen: list[str] = []
    late = events.after(0.01, lambda: seen.append("late"))
    gone = events.after(0, lambda: events.cancel(late))
    events.after(0.02, events.stop)

    events.run()
    events.cancel(gone)
    events.cancel(gone)

    assert seen == []


def test_timers_that_were_cancelled_take_no_room(events: loop.Loop) -> None:
    kept = [events.after(100, events.stop) for _ in range(10)]
    for _ in range(10_000):
        events.cancel(events.after(100, events.stop))

    assert len(events._due) < 200
    assert set(events._timers) == set(kept)


def test_without_timers_nothing_wakes_it(events: loop.Loop) -> None:
    for _ in range(10):
        events.cancel(events.after(0, events.stop))

    assert events._until_next() is None


def test_what_can_be_read_and_written_is_told(
    events: loop.Loop, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    seen: list[bytes] = []

    def write() -> None:
        events.forget(ours)
        ours.send(b"ours")
        theirs.send(b"theirs")
        events.watch(ours, read)

    def read() -> None:
        seen.append(ours.recv(100))
        events.stop()

    events.watch(ours, write, writing=True)
    events.run()

    assert [*seen, theirs.recv(100)] == [b"theirs", b"ours"]


def test_what_was_forgotten_is_not_told(events: loop.Loop) -> None:
    """Also when it was ready together with what made it be forgotten."""
    pairs = [socket.socketpair() for _ in range(2)]
    seen: list[int] = []

    def read(index: int) -> None:
        seen.append(index)
        for ours, _ in pairs:
            events.forget(ours)
        events.stop()

    for index, (ours, theirs) in enumerate(pairs):
        theirs.send(b"x")
        events.watch(ours, lambda index=index: read(index))  # type: ignore[misc]
    events.run()
    for ours, theirs in pairs:
        ours.close()
        theirs.close()

    assert len(seen) == 1


def test_what_is_to_be_done_soon_comes_after_all_that_was_ready(events: loop.Loop) -> None:
    """And before the next wait; what that adds is done as well."""
    seen: list[str] = []
    pairs = [socket.socketpair() for _ in range(2)]

    def read(index: int) -> None:
        pairs[index][0].recv(1)
        seen.append("read")
        events.soon(add)

    def add() -> None:
        seen.append("add")
        events.soon(lambda: seen.append("added"))

    for index, (ours, theirs) in enumerate(pairs):
        events.watch(ours, lambda index=index: read(index))  # type: ignore[misc]
        theirs.send(b"x")
    events.after(0.05, events.stop)
    events.run()
    for pair in pairs:
        for end in pair:
            end.close()

    assert seen == ["read", "read", "add", "add", "added", "added"]


def logged(capfd: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capfd.readouterr().err.splitlines() if "defect" in line]


def fail() -> None:
    raise ZeroDivisionError("on purpose")


def test_what_a_callback_raises_ends_it_unless_it_is_guarded(events: loop.Loop) -> None:
    events.after(0, fail)
    with pytest.raises(ZeroDivisionError):
        events.run()
    with pytest.raises(ZeroDivisionError):
        events.attempt(fail)


def test_a_failure_costs_no_other_callback_its_turn(
    events: loop.Loop, pair: tuple[socket.socket, socket.socket], capfd: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = pair
    theirs.send(b"x")
    seen: list[str] = []

    def read() -> None:
        ours.recv(1)
        events.soon(fail)
        events.soon(lambda: seen.append("soon"))
        assert not events.attempt(fail)
        fail()

    events.guard()
    events.watch(ours, read)
    events.after(0.01, fail)
    events.after(0.01, lambda: seen.append("timer"))
    events.after(0.02, events.stop)
    events.run()

    assert sorted(seen) == ["soon", "timer"]
    (line,) = logged(capfd)
    assert line.startswith('error: a defect of tcpdconf: ZeroDivisionError: on purpose at="loop.py:')
    assert "test_loop.py:" in line
    assert ":fail" in line


def test_a_descriptor_whose_callback_fails_rests(
    events: loop.Loop,
    pair: tuple[socket.socket, socket.socket],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It stays ready; and then it is forgotten, or its number becomes another's."""
    monkeypatch.setattr(loop, "_REST", 0.05)
    ours, theirs = pair
    theirs.send(b"x")
    calls: list[float] = []
    seen: list[bytes] = []

    def count() -> None:
        calls.append(loop.now())
        if len(calls) == 3:
            events.after(0, replace)
        fail()

    def replace() -> None:
        events.forget(ours)
        events.watch(ours, read)

    def read() -> None:
        seen.append(ours.recv(1))
        events.after(0, forget)
        fail()

    def forget() -> None:
        events.forget(ours)
        events.after(0.06, events.stop)

    events.guard()
    events.watch(ours, count)
    events.run()

    assert len(calls) == 3
    assert calls[2] - calls[0] >= 0.1
    assert seen == [b"x"]
    assert len(logged(capfd)) == 1
    assert not events._callbacks
    assert not events._resting


def test_the_end_of_the_other_side_is_told_whatever_it_has_sent(
    events: loop.Loop, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    seen: list[str] = []

    def ended() -> None:
        seen.append("ended")
        events.forget(ours)
        events.stop()

    theirs.send(b"x")
    theirs.shutdown(socket.SHUT_WR)
    events.watch_end(ours, ended)
    events.after(0.02, lambda: seen.append("half"))
    events.after(0.03, theirs.close)
    events.after(10, events.stop)
    events.run()

    assert seen == ["half", "ended"]
