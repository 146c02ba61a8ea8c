import os
import subprocess
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpdconf.daemon import ledger
from tcpdconf.policy import connection

PEERS = [connection.endpoint(4, 0xC0000201, 1), connection.endpoint(6, 0x20010DB8 << 96, 65535)]


@pytest.fixture
def fd() -> Iterator[int]:
    made = ledger.create()
    yield made
    os.close(made)


@pytest.fixture
def program() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as running:
        yield running


def test_running_programs_are_taken_over(fd: int, program: subprocess.Popen[bytes]) -> None:
    first = ledger.Ledger(fd, 10)
    held = [first.hold(program.pid, peer) for peer in PEERS]

    assert list(ledger.Ledger(fd, 10).take_over()) == held


def test_ended_programs_and_other_processes_of_that_number_are_not(fd: int) -> None:
    first = ledger.Ledger(fd, 10)
    with subprocess.Popen(["true"]) as ended:
        pass
    first.hold(ended.pid, PEERS[0])
    first.hold(1, PEERS[1])  # runs, but did not start when the record says

    assert list(ledger.Ledger(fd, 10).take_over()) == []


def test_records_are_used_again(fd: int, program: subprocess.Popen[bytes]) -> None:
    made = ledger.Ledger(fd, 3)
    for _ in range(1000):
        held = [made.hold(program.pid, PEERS[0]) for _ in range(3)]
        assert {one.record for one in held} == {0, 1, 2}
        for one in held:
            made.release(one)
    kept = made.hold(program.pid, PEERS[1])

    after = ledger.Ledger(fd, 3)
    assert list(after.take_over()) == [kept]
    assert {after.hold(program.pid, PEERS[0]).record for _ in range(2)} | {kept.record} == {0, 1, 2}


def test_counters_outlive_their_worker(fd: int) -> None:
    first = ledger.Ledger(fd, 1)
    first.count("accepted")
    first.count("rate")
    first.count("rate")
    first.set("connections", 7)

    counts = ledger.Ledger(fd, 1).counts()

    assert {name: value for name, value in counts.items() if value} == {
        "accepted": 1, "connections": 7, "rate": 2,
    }  # fmt: skip


@given(st.binary(max_size=2000))
def test_any_bytes_in_it_are_survived(data: bytes) -> None:
    fd = ledger.create()
    os.pwrite(fd, data, 0)
    made = ledger.Ledger(fd, 20)

    found = list(made.take_over())
    made.counts()

    assert found == []
    os.close(fd)


def test_a_ledger_as_large_as_a_file_can_be(fd: int) -> None:
    first = ledger.Ledger(fd, 10)
    first.hold(os.getpid(), PEERS[0], float("-inf"))
    held = first.hold(os.getpid(), PEERS[1], 1.0)
    first.hold(os.getpid(), PEERS[1], float("nan"))
    os.ftruncate(fd, 1 << 60)

    assert ledger.snapshot(fd).held == [held]
