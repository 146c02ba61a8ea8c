"""Word to a service manager that reads, reads late, or is not there."""

import contextlib
import os
import pathlib
import socket
from collections.abc import Iterator

import pytest
from support.running import processes

from tcpdconf.daemon.process import loop
from tcpdconf.daemon.supervisor import notify

FULL = 64  # messages: net.unix.max_dgram_qlen is 10 as a rule


@pytest.fixture
def manager(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield end


def fill(manager: socket.socket) -> None:
    """Take the room that there is for messages."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other, contextlib.suppress(BlockingIOError):
        other.setblocking(False)
        for _ in range(FULL):
            other.sendto(b"NOISE=1", manager.getsockname())


def heard(manager: socket.socket) -> Iterator[tuple[str, list[int]]]:
    """Yield the manager's new messages, without the irrelevant ones."""
    with contextlib.suppress(BlockingIOError):
        while True:
            data, fds, _, _ = socket.recv_fds(manager, 4096, 4)
            if data != b"NOISE=1":
                yield data.decode(), fds


@pytest.fixture
def events() -> loop.Loop:
    return loop.Loop()


@pytest.fixture
def notifier(
    manager: socket.socket,  # noqa: ARG001 (it is there first)
    events: loop.Loop,
) -> Iterator[notify.Notifier]:
    made = notify.Notifier(events)
    yield made
    made.close()


def turn(events: loop.Loop, seconds: float) -> None:
    events.after(seconds, events.stop)
    events.run()


def test_what_a_deaf_manager_has_missed_comes_later_and_in_order(
    manager: socket.socket, events: loop.Loop, notifier: notify.Notifier
) -> None:
    fill(manager)
    with socket.socket() as kept:
        inode = os.fstat(kept.fileno()).st_ino
        notifier.forget("old")
        notifier.reloading()
        notifier.watchdog()
        notifier.store("new", kept)
    for _ in range(10):
        notifier.ready(
            "1 service"
        )  # the socket is closed by now, and a later state stands for those before it
    assert len(events._timers) == 1
    assert list(heard(manager)) == []
    turn(events, 0.3)

    found = list(heard(manager))
    assert [text.split("\n")[0] for text, _ in found] == ["FDSTOREREMOVE=1", "FDSTORE=1", "READY=1"]
    ((fd,),) = [fds for _, fds in found if fds]
    assert os.fstat(fd).st_ino == inode
    os.close(fd)


def test_messages_for_a_manager_that_never_reads_are_bounded(
    manager: socket.socket,
    events: loop.Loop,
    notifier: notify.Notifier,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notify, "_MOST", 100)
    before = processes.own_descriptors()
    fill(manager)
    with socket.socket() as kept:
        for number in range(300):
            notifier.forget(str(number))
        notifier.store("last", kept)
        notifier.ready("")
    list(heard(manager))
    found: list[str] = []
    while len(found) < 100:
        turn(events, 0.11)
        for text, fds in heard(manager):
            found.append(text)
            for fd in fds:
                os.close(fd)

    assert found[0] == "FDSTOREREMOVE=1\nFDNAME=202"
    assert found[-2:] == ["FDSTORE=1\nFDNAME=last", "READY=1\nSTATUS="]
    assert processes.own_descriptors() == before


@pytest.mark.parametrize("answers", [True, False])
def test_a_barrier(
    answers: bool,
    manager: socket.socket,
    events: loop.Loop,
    notifier: notify.Notifier,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is over when the manager has closed the descriptor, or when it has had its time."""
    monkeypatch.setattr(notify, "_PATIENCE", 20.0 if answers else 0.1)
    notifier.forget("old")
    notifier.barrier(events.stop)

    def answer() -> None:
        for _, fds in heard(manager):
            for fd in fds:
                os.close(fd)

    if answers:
        events.after(0, answer)
    events.after(10, lambda: pytest.fail("the barrier is not over"))
    events.run()

    assert [text for text, _ in heard(manager)] == (
        [] if answers else ["FDSTOREREMOVE=1\nFDNAME=old", "BARRIER=1"]
    )


def test_without_a_manager_nothing_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    over: list[bool] = []
    notifier = notify.Notifier(loop.Loop())
    notifier.ready("")
    notifier.barrier(lambda: over.append(True))

    assert over == [True]
