"""Counts of refusals: right within the bound that Misra and Gries prove, and never much memory."""

import collections
import random
import sys

from hypothesis import given
from hypothesis import strategies as st

from tcpdconf.daemon.guard.refused_addresses import MINUTE, MINUTES, WIDTH, Address, RefusedAddresses

TEN_MINUTES = MINUTE * MINUTES
# a stream of refusals: blocks of one address, so that small examples fill all counters, and gaps in seconds
BLOCKS = st.lists(
    st.tuples(st.integers(0, 3 * WIDTH), st.integers(1, 40), st.sampled_from([0.0, 0.5, 59.9, 60.0, 200.0])),
    max_size=3 * WIDTH,
)
FLOOD = st.tuples(st.integers(1, 500), st.integers(0, 2000), st.randoms(use_true_random=False))


def address(number: int) -> Address:
    return (4, number) if number % 2 else (6, number << 64)


def everything(found: RefusedAddresses, now: float) -> dict[Address, int]:
    return dict(found.most(now, MINUTES * WIDTH))


@given(BLOCKS)
def test_counts_are_within_their_bound(blocks: list[tuple[int, int, float]]) -> None:
    """Never more than there were in ten minutes, never less than the bound allows of nine minutes."""
    found, now = RefusedAddresses(), 1000.0
    events: list[tuple[float, Address]] = []
    for number, count, gap in blocks:
        now += gap
        for _ in range(count):
            found.count(address(number), now)
            events.append((now, address(number)))
    counted = everything(found, now)

    recent = collections.Counter(each for at, each in events if at > now - TEN_MINUTES)
    certain = collections.Counter(each for at, each in events if at > now - TEN_MINUTES + MINUTE)
    lost = recent.total() / (WIDTH + 1)
    assert all(count <= recent[each] for each, count in counted.items())
    assert all(counted.get(each, 0) >= count - lost for each, count in certain.items())


@given(FLOOD)
def test_who_is_refused_most_is_found_in_a_flood(flood: tuple[int, int, random.Random]) -> None:
    """However its refusals and those of thousands of other addresses are mixed."""
    count, others, mixer = flood
    events = [address(1)] * count + [address(10 + number) for number in range(others)]
    mixer.shuffle(events)
    found = RefusedAddresses()
    for each in events:
        found.count(each, 0.0)

    counted = everything(found, 0.0)
    assert count - len(events) / (WIDTH + 1) <= counted.get(address(1), 0) <= count
    if count > 1 + len(events) / (WIDTH + 1):
        assert found.most(0.0, 1) == [(address(1), counted[address(1)])]


def test_few_addresses_are_counted_exactly() -> None:
    found = RefusedAddresses()
    for number in range(WIDTH):
        for _ in range(number):
            found.count(address(number), 5.0)

    assert found.most(5.0, 2) == [(address(WIDTH - 1), WIDTH - 1), (address(WIDTH - 2), WIDTH - 2)]


def test_nothing_older_than_ten_minutes_counts() -> None:
    found = RefusedAddresses()
    for second in range(0, 1200, 10):
        found.count(address(1), float(second))
    assert 54 <= everything(found, 1190.0)[address(1)] <= 60
    assert everything(found, 1190.0 + TEN_MINUTES - MINUTE - 0.1)  # the last one counts for nine minutes
    assert everything(found, 1190.0 + TEN_MINUTES) == {}

    found.count(address(2), 99_999.0)
    assert everything(found, 99_999.0) == {address(2): 1}


def test_a_flood_of_different_addresses_takes_little_memory() -> None:
    found = RefusedAddresses()
    for number in range(200_000):
        found.count((6, number << 64), number * TEN_MINUTES / 200_000)

    now = TEN_MINUTES - 0.1
    assert len(everything(found, now)) <= MINUTES * WIDTH
    tables = [found._counts, *(counts for _, counts in found._earlier)]
    assert len(tables) <= MINUTES
    size = sum(sys.getsizeof(table) for table in tables)
    size += sum(sys.getsizeof(each) + sys.getsizeof(each[1]) + 32 for table in tables for each in table)
    assert size < 300_000


def test_nothing_is_allocated_before_the_first_refusal() -> None:
    found = RefusedAddresses()
    assert found.most(0.0, 10) == []
    assert sys.getsizeof(found._counts) <= sys.getsizeof({})
