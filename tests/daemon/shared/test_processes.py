"""Real processes that take and release slots while they are stopped and killed at any moment."""

import contextlib
import itertools
import mmap
import os
import random
import signal
import time
from collections.abc import Iterator
from typing import Final

import pytest

from tcpdconf.config.model import tables
from tcpdconf.daemon.shared.memory import SharedMemory
from tcpdconf.daemon.shared.table import SharedTable
from tcpdconf.policy import connection, shared_limits

LIMIT: Final = 2
PLACES: Final = 3
SETTINGS: Final = tables.Limits(max_connections=100, max_per_ip=LIMIT)
PEERS: Final = [connection.endpoint(4, value, 4000) for value in range(3)]


# words of a place; the first ones have what it holds of each peer, and CHANGES how often that has changed
CHANGES, TAKES, LONGEST, FAULTS, WORDS = 3, 4, 5, 6, 8
Board = memoryview


def work(memory: SharedMemory, place: int, board: Board, held: list[int], seed: int) -> None:
    """Take and release for ever; `held` are the connections of the process before this one."""
    dice = random.Random(seed)  # noqa: S311
    slots = shared_limits.SharedSlots(SETTINGS, SharedTable(os.dup(memory.fd), place, os.eventfd(0)))
    for peer, count in enumerate(held):
        for _ in range(count):
            slots.hold(PEERS[peer])
    slots.publish()
    mine = place * WORDS
    while True:
        peer = dice.randrange(len(PEERS))
        at = mine + peer
        if board[at] and dice.random() < 0.5:
            board[at] -= 1  # first: for others it may count longer than it does, not shorter
            board[mine + CHANGES] += 1
            slots.release(PEERS[peer])
            continue
        began = time.monotonic_ns()
        refused = slots.take(PEERS[peer], None, 0.0)
        board[mine + LONGEST] = max(board[mine + LONGEST], time.monotonic_ns() - began)
        board[mine + TAKES] += 1
        if refused is None:
            board[at] += 1
            board[mine + CHANGES] += 1
            once, again = look(board, peer), look(board, peer)
            if once == again and sum(held for held, _ in once) > LIMIT:
                board[mine + FAULTS] += 1


def look(board: Board, peer: int) -> list[tuple[int, int]]:
    """Return the connections that all processes hold of a peer; the sum is valid if it is the same twice."""
    return [(board[at + peer], board[at + CHANGES]) for at in range(0, PLACES * WORDS, WORDS)]


class Crowd:
    """Places, each with a process that is started again when it was killed."""

    def __init__(self) -> None:
        self.memory = SharedMemory()
        self.places = [self.memory.add(1) for _ in range(PLACES)]
        self.board = memoryview(mmap.mmap(-1, 4096)).cast("Q")
        self.pids = [0] * PLACES
        self.seeds = itertools.count(1)
        for place in self.places:
            self.start(place)

    def start(self, place: int) -> None:
        """Start a process, which has the connections of the one before, as a ledger would tell it."""
        held = self.held(place)
        seed = next(self.seeds)
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                work(self.memory, place, self.board, held, seed)
            os._exit(1)
        self.pids[place] = pid

    def kill(self, place: int) -> None:
        """Kill a process."""
        os.kill(self.pids[place], signal.SIGKILL)
        os.waitpid(self.pids[place], 0)

    def held(self, place: int) -> list[int]:
        """Return the number of connections that a process reports, by peer."""
        return self.board[place * WORDS : place * WORDS + len(PEERS)].tolist()

    def close(self) -> None:
        """Kill all processes."""
        for place in self.places:
            self.kill(place)
        self.memory.close()


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    made = Crowd()
    yield made
    made.close()


def trouble(crowd: Crowd, seconds: float) -> None:
    """Stop and kill processes at random moments."""
    dice = random.Random(7)  # noqa: S311
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        place = dice.choice(crowd.places)
        time.sleep(dice.random() * 0.01)
        if dice.random() < 0.5:
            crowd.kill(place)
            crowd.start(place)
        else:
            os.kill(crowd.pids[place], signal.SIGSTOP)
            time.sleep(dice.choice([0.001, 0.02, 0.12]))
            os.kill(crowd.pids[place], signal.SIGCONT)


def check(crowd: Crowd) -> None:
    """No limit was exceeded, and what is counted after quiet is just what the processes hold."""
    assert [crowd.board[place * WORDS + FAULTS] for place in crowd.places] == [0] * PLACES
    for place in crowd.places:  # perhaps in the middle of something: its successor has the counts
        crowd.kill(place)
    for place in crowd.places:
        slots = shared_limits.SharedSlots(
            SETTINGS, SharedTable(os.dup(crowd.memory.fd), place, os.eventfd(0))
        )
        for peer, count in zip(PEERS, crowd.held(place), strict=True):
            for _ in range(count):
                slots.hold(peer)
        slots.publish()
    table = SharedTable(os.dup(crowd.memory.fd), crowd.memory.add(1), os.eventfd(0))
    found = shared_limits.SharedSlots(SETTINGS, table)
    counted = [sum(column) for column in zip(*map(crowd.held, crowd.places), strict=True)]
    assert [found.uses(peer, None)[0].held for peer in PEERS] == counted
    for place in crowd.places:
        crowd.start(place)


def test_limits_hold_while_processes_are_killed_and_stopped(crowd: Crowd) -> None:
    trouble(crowd, 2.0)
    check(crowd)
    assert min(crowd.board[place * WORDS + TAKES] for place in crowd.places) > 100


@pytest.mark.slow
def test_limits_hold_for_long(crowd: Crowd) -> None:
    for _ in range(5):
        trouble(crowd, 6.0)
        check(crowd)


def test_a_stopped_process_delays_the_others_little(crowd: Crowd) -> None:
    """It is stopped at any moment, also within its turn: the others wait for 50 ms then, and only once."""
    others = [place * WORDS for place in (1, 2)]
    for _ in range(40):
        for at in others:
            crowd.board[at + LONGEST] = 0
        os.kill(crowd.pids[0], signal.SIGSTOP)
        wanted = [crowd.board[at + TAKES] + 5 for at in others]
        end = time.monotonic() + 20
        while any(crowd.board[at + TAKES] < enough for at, enough in zip(others, wanted, strict=True)):
            assert time.monotonic() < end
            time.sleep(0.002)
        assert max(crowd.board[at + LONGEST] for at in others) < 2e9  # 50 ms, and what a busy machine adds
        os.kill(crowd.pids[0], signal.SIGCONT)
