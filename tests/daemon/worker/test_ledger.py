import os
import struct
import subprocess
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpdconf.daemon.process import procfs
from tcpdconf.daemon.worker import ledger
from tcpdconf.policy import connection

PEERS = [connection.endpoint(4, 0xC0000201, 1), connection.endpoint(6, 0x20010DB8 << 96, 65535)]
CHILDREN = procfs.Lineage(os.getpid(), [os.getpgrp()])


def taken_over(fd: int) -> list[ledger.Held]:
    """Return the records of the next worker; all of the programs are children of this process."""
    return [held for held, _ in ledger.Ledger(fd, 10).take_over(CHILDREN)]


@pytest.fixture
def fd() -> Iterator[int]:
    made = ledger.create()
    yield made
    os.close(made)


def test_a_ledger_of_another_layout_is_refused_and_left_as_it_is() -> None:
    other = os.memfd_create(f"tcpdconf-ledger-{ledger.LAYOUT + 1}")
    os.write(other, b"something")
    with pytest.raises(ledger.LedgerError, match=r"^cannot use the ledger tcpdconf-ledger-\d+: this version"):
        ledger.Ledger(other, 10)
    assert os.pread(other, 100, 0) == b"something"
    os.close(other)


@pytest.fixture
def program() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as running:
        yield running


def test_running_programs_are_taken_over(fd: int, program: subprocess.Popen[bytes]) -> None:
    first = ledger.Ledger(fd, 10)
    held = first.hold(program.pid, PEERS[0])
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as second:
        more = first.hold(second.pid, PEERS[1], 60.0)
        assert (held.until, more.until) == (ledger.NEVER, more.started + 60)

        assert taken_over(fd) == [held, more]


@pytest.mark.parametrize(
    ("until", "found"),
    [(float("inf"), ledger.NEVER), (float("nan"), ledger.NEVER), (-1.0, ledger.NEVER), (1e300, 1e300)],
)
def test_a_moment_that_nobody_can_mean_is_none(
    fd: int, program: subprocess.Popen[bytes], until: float, found: float
) -> None:
    ledger.Ledger(fd, 10).record(program.pid, PEERS[0], ledger.boot_time(), until)

    assert [held.until for held in taken_over(fd)] == [found]


def test_ended_programs_and_other_processes_of_that_number_are_not(fd: int) -> None:
    first = ledger.Ledger(fd, 10)
    with subprocess.Popen(["true"]) as ended:
        pass
    first.hold(ended.pid, PEERS[0])
    first.hold(1, PEERS[1])  # runs, but did not start when the record says

    assert taken_over(fd) == []


def test_two_records_of_one_process_are_one(fd: int, program: subprocess.Popen[bytes]) -> None:
    """The process that had the number before has been recorded earlier."""
    first = ledger.Ledger(fd, 10)
    earlier = first.hold(program.pid, PEERS[0])
    later = first.record(program.pid, PEERS[1], earlier.started + 0.1)
    first.hold(program.pid, PEERS[0])

    after = ledger.Ledger(fd, 10)
    assert [held for held, _ in after.take_over(CHILDREN)] == [later]
    assert {after.hold(program.pid, PEERS[0]).record for _ in range(2)} == {0, 2}


def test_what_was_recorded_before_a_process_began_was_another_one(
    fd: int, program: subprocess.Popen[bytes]
) -> None:
    made = ledger.Ledger(fd, 10)
    runs = procfs.look(program.pid)
    assert runs is not None
    made.record(program.pid, PEERS[0], runs.start / os.sysconf("SC_CLK_TCK") - 0.001)

    assert taken_over(fd) == []


def test_processes_of_other_parents_are_not(fd: int) -> None:
    command = ["sh", "-c", "exec 3<&0; cat <&3 & echo $!; wait"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        held = ledger.Ledger(fd, 10).hold(int(shell.stdout.readline()), PEERS[0])

        assert taken_over(fd) == []
        runs = procfs.look(held.pid)
        assert runs is not None
        assert not runs.ended
        assert runs.fits(held.started)


def test_records_are_used_again(fd: int, program: subprocess.Popen[bytes]) -> None:
    made = ledger.Ledger(fd, 3)
    for _ in range(1000):
        held = [made.hold(program.pid, PEERS[0]) for _ in range(3)]
        assert {one.record for one in held} == {0, 1, 2}
        for one in held:
            made.release(one)
    kept = made.hold(program.pid, PEERS[1])

    after = ledger.Ledger(fd, 3)
    assert [held for held, _ in after.take_over(CHILDREN)] == [kept]
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

    found = made.take_over(CHILDREN)
    made.count("accepted")
    made.counts()

    assert found == []
    os.close(fd)


def test_a_ledger_as_large_as_a_file_can_be(fd: int) -> None:
    first = ledger.Ledger(fd, 10)
    first.record(os.getpid(), PEERS[0], float("-inf"))
    held = first.record(os.getpid(), PEERS[1], 1.0)
    first.record(os.getpid(), PEERS[1], float("nan"))
    os.ftruncate(fd, 1 << 60)

    assert ledger.snapshot(fd).held == [held]


NUMBERS = [0.0, -1.0, 1e308, float("inf"), float("-inf"), float("nan")]


@pytest.mark.parametrize("pid", [1, 2, 1 << 22, 1 << 31, (1 << 32) - 1])
def test_numbers_that_nobody_can_mean(fd: int, pid: int) -> None:
    record = struct.Struct("=IHBxdd16s")
    data = b"".join(
        record.pack(pid, 1, 4, started, until, bytes(16)) for started in NUMBERS for until in NUMBERS
    )
    os.pwrite(fd, b"\xff" * ledger.HEADER + data, 0)
    os.ftruncate(fd, 1 << 60)
    made = ledger.Ledger(fd, 10)

    assert made.take_over(CHILDREN) == []
    made.count("accepted")
    assert made.counts()["accepted"] == (1 << 64) - 1
    assert made.hold(os.getpid(), PEERS[0]).record == 0


def test_counters_end_where_records_begin(fd: int) -> None:
    made = ledger.Ledger(fd, 1)
    held = made.hold(os.getpid(), PEERS[1])
    for name in ledger.COUNTERS:
        made.set(name, 2**64 - 1)

    assert set(made.counts().values()) == {2**64 - 1}
    assert [(each.pid, each.peer) for each in ledger.snapshot(fd).held] == [(held.pid, PEERS[1])]
