"""Workers that share their counts, here as several tables of one process: limits hold over all of them."""

import ipaddress
import math
import os
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpdconf.config.model import tables
from tcpdconf.daemon.shared import layout
from tcpdconf.daemon.shared.memory import NoPlaceError, SharedMemory
from tcpdconf.daemon.shared.segment import OwnSegment, Segments
from tcpdconf.daemon.shared.table import SharedTable
from tcpdconf.policy import connection, limits, shared_limits
from tcpdconf.policy.penalties import Offence
from tcpdconf.policy.shared_penalties import SharedPenalties

SMTP, IMAP = 1, 2


def end(text: str) -> connection.Endpoint:
    address = ipaddress.ip_address(text)
    return connection.endpoint(address.version, int(address), 4000)


class Host:
    """The shared memory, and workers in it."""

    def __init__(self) -> None:
        self.memory = SharedMemory()
        self.wake = os.eventfd(0, os.EFD_NONBLOCK)
        self.tables: list[SharedTable] = []

    def table(self, service: int = SMTP, place: int | None = None) -> SharedTable:
        """The table of a worker, in a new place or in that of an earlier worker."""
        place = self.memory.add(service) if place is None else place
        self.tables.append(SharedTable(os.dup(self.memory.fd), place, os.dup(self.wake)))
        return self.tables[-1]

    def worker(
        self,
        *group: dict[str, Any],
        service: int = SMTP,
        reserves: bool = False,
        **keys: Any,  # noqa: ANN401 (as TOML gives them)
    ) -> shared_limits.SharedSlots:
        """A worker whose service has the limits `keys`; other services of its group have the others."""
        others = [each for one in group for each in shared_limits.shapes(settings(one))]
        made = shared_limits.SharedSlots(settings(keys), self.table(service), others, reserves=reserves)
        made.publish()
        return made

    def close(self) -> None:
        """Close all descriptors."""
        for each in self.tables:
            each.close()
        self.memory.close()
        os.close(self.wake)


def settings(keys: dict[str, Any]) -> tables.Limits:
    return tables.Limits.model_validate({"max_connections": 1000} | keys)


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("keys", "same", "other", "reason"),
    [
        ({"max_per_ip": 4}, "192.0.2.1", "192.0.2.2", "per_ip"),
        ({"max_per_network": 4}, "192.0.2.77", "192.0.3.1", "per_network"),
        ({"levels": [{"ipv6": 48, "max_connections": 4}]}, "2001:db8::1:2", "2001:db8:1::", "per_network"),
        ({"rate": "4/h"}, "192.0.2.1", "192.0.2.2", "rate"),
        ({"levels": [{"ipv4": 16, "rate": "4/h"}]}, "192.0.99.1", "192.1.0.1", "rate"),
    ],
)
def test_a_limit_holds_over_all_workers(
    host: Host, keys: dict[str, Any], same: str, other: str, reason: str
) -> None:
    workers = [host.worker(**keys) for _ in range(3)]
    first = "192.0.2.1" if "." in same else "2001:db8::1"

    got = [workers[turn % 3].take(end(first if turn % 2 else same), None, 10.0) for turn in range(4)]
    assert got == [None] * 4
    refused = [each.take(end(same), None, 10.0) for each in workers]
    assert [each.reason for each in refused if each is not None] == [reason] * 3
    assert workers[0].take(end(other), None, 10.0) is None


def test_what_one_worker_releases_another_may_take(host: Host) -> None:
    one, other = host.worker(max_per_ip=1), host.worker(max_per_ip=1)
    peer = end("192.0.2.1")
    for _ in range(3):
        assert one.take(peer, None, 0) is None
        assert other.take(peer, None, 0) is not None
        one.release(peer)
        assert other.take(peer, None, 0) is None
        other.release(peer)


def test_a_refusal_takes_nothing_of_any_limit(host: Host) -> None:
    one, other = (host.worker(max_per_ip=1, max_per_network=3, rate="10/h") for _ in range(2))
    assert one.take(end("192.0.2.1"), None, 0.0) is None
    for _ in range(20):
        refused = other.take(end("192.0.2.1"), None, 0.0)
        assert refused is not None
        assert dict(refused.detail) == {"limit": "max_per_ip", "value": 1, "held": 1}
    assert [other.take(end(f"192.0.2.{n}"), None, 0.0) is None for n in (2, 3, 4)] == [True, True, False]


def test_all_workers_of_a_service_are_full_together_and_another_service_is_not(host: Host) -> None:
    one, other = (host.worker(max_connections=2) for _ in range(2))
    imap = host.worker(max_connections=2, service=IMAP)
    assert one.take(end("192.0.2.1"), None, 0) is None
    assert not other.full
    assert other.take(end("192.0.2.2"), None, 0) is None
    assert one.full
    assert other.full
    assert (one.total, one.taken) == (1, 2)
    assert one.take(end("192.0.2.3"), None, 0) is shared_limits.ALL_TAKEN
    assert imap.take(end("192.0.2.3"), None, 0) is None
    assert not imap.full


def test_a_worker_says_that_a_slot_is_free_if_another_has_paused(host: Host) -> None:
    one, other, imap = host.table(), host.table(), host.table(IMAP)
    imap.set_paused(paused=True)
    one.set_paused(paused=True)
    one.wake()
    with pytest.raises(BlockingIOError):
        os.eventfd_read(host.wake)
    other.wake()
    assert os.eventfd_read(host.wake) == 1


def test_services_of_a_group_apply_their_own_numbers_to_common_counts(host: Host) -> None:
    small: dict[str, Any] = {"max_per_ip": 2}
    large: dict[str, Any] = {"max_per_ip": 4, "max_per_network": 5}
    pop, imap = host.worker(large, **small), host.worker(small, service=IMAP, **large)
    peer = end("192.0.2.1")
    assert [pop.take(peer, None, 0), imap.take(peer, None, 0)] == [None, None]
    assert pop.take(peer, None, 0) is not None
    assert [imap.take(peer, None, 0) is None for _ in range(3)] == [True, True, False]
    for n in (2, 3):  # POP3 does not limit networks, IMAP counts its connections as well
        pop.take(end(f"192.0.2.{n}"), None, 0)
    refused = imap.take(end("192.0.2.9"), None, 0)
    assert refused is not None
    assert dict(refused.detail) == {"limit": "max_per_network", "value": 5, "held": 6}


def test_services_of_a_group_spend_tokens_of_each_others_rates(host: Host) -> None:
    slow: dict[str, Any] = {"rate": "2/h"}
    fast: dict[str, Any] = {"rate": "5/h"}
    pop, imap = host.worker(fast, **slow), host.worker(slow, service=IMAP, **fast)
    peer = end("192.0.2.1")
    assert [imap.take(peer, None, 0.0) is None for _ in range(6)] == [True] * 5 + [False]
    assert pop.take(peer, None, 0.0) is not None
    # for its rate the bucket is empty, not more than that: after half an hour there is a token
    assert pop.take(peer, None, 1700.0) is not None
    assert pop.take(peer, None, 1801.0) is None


def test_a_rate_is_the_same_limit_twice_but_spends_one_token(host: Host) -> None:
    worker = host.worker(rate="3/h", levels=[{"ipv4": 32, "rate": "3/h"}])
    assert [worker.take(end("192.0.2.1"), None, 0.0) is None for _ in range(4)] == [True] * 3 + [False]


@pytest.mark.parametrize("spent", [False, True])
def test_a_token_that_one_worker_has_reserved_is_kept_from_all(host: Host, spent: bool) -> None:
    slow: dict[str, Any] = {"rate": "2/h"}
    fast: dict[str, Any] = {"rate": "5/h"}
    one, other = (host.worker(fast, reserves=True, **slow) for _ in range(2))
    imap = host.worker(slow, service=IMAP, reserves=True, **fast)
    peer, pending = end("192.0.2.1"), list[limits.RateLimiter]()
    assert imap.take(peer, None, 0.0, pending) is None  # reserves a token of the other service's rate, too

    assert [other.take(peer, None, 0.0) is None for _ in range(2)] == [True, False]
    imap.settle(peer, 0.0, pending, spent=spent)
    assert [one.take(peer, None, 0.0) is None for _ in range(2)] == [not spent, False]
    assert [imap.take(peer, None, 0.0) is None for _ in range(4)] == [True, True, True, False]


def test_tokens_that_a_killed_worker_has_reserved_are_free_again(host: Host) -> None:
    killed, other = (host.worker(rate="1/h", reserves=True) for _ in range(2))
    peer = end("192.0.2.1")
    killed.take(peer, None, 0.0, [])
    assert other.take(peer, None, 0.0) is not None
    successor = shared_limits.SharedSlots(settings({"rate": "1/h"}), host.table(place=0), reserves=True)
    successor.publish()
    assert other.take(peer, None, 0.0) is None


def test_reserved_tokens_survive_a_reload(host: Host) -> None:
    one, other = (host.worker(rate="1/h", reserves=True) for _ in range(2))
    peer, pending = end("192.0.2.1"), list[limits.RateLimiter]()
    one.take(peer, None, 0.0, pending)
    again = shared_limits.renewed(one, settings({"rate": "1/h"}), host.tables[0], reserves=True)
    assert isinstance(again, shared_limits.SharedSlots)
    again.publish()
    assert other.take(peer, None, 0.0) is not None
    again.settle(peer, 0.0, pending, spent=False)
    assert other.take(peer, None, 0.0) is None


def test_limits_that_only_observe_see_all_workers(host: Host) -> None:
    one, other = (host.worker(max_per_ip=1, rate="2/h", enforce=False) for _ in range(2))
    peer = end("192.0.2.1")
    assert one.take(peer, None, 0.0) is None
    assert one.would_refuse(peer, None, 0.0) is None
    assert other.take(peer, None, 0.0) is None
    would = other.would_refuse(peer, None, 0.0)
    assert would is not None
    assert dict(would.detail) == {"limit": "max_per_ip", "value": 1, "held": 1}
    one.release(peer)
    assert other.would_refuse(peer, None, 0.0) is None  # the second token
    assert other.would_refuse(peer, None, 0.0) is not None
    assert [(use.limit, use.held) for use in one.uses(peer, None)] == [("max_per_ip", 1), ("rate", None)]


def test_counts_of_a_killed_worker_stay_until_its_successor_has_them(host: Host) -> None:
    killed, other = host.worker(max_per_ip=3), host.worker(max_per_ip=3)
    peer, gone = end("192.0.2.1"), end("192.0.2.2")
    for _ in range(2):
        killed.take(peer, None, 0)
    killed.take(gone, None, 0)

    successor = shared_limits.SharedSlots(settings({"max_per_ip": 3}), host.table(place=0))
    successor.hold(peer)  # as it finds it in the ledger: of the others the programs have ended
    assert [use.held for use in other.uses(peer, None)] == [2]
    successor.publish()
    assert [use.held for use in other.uses(peer, None)] == [1]
    assert [use.held for use in other.uses(gone, None)] == [0]
    assert other.taken == 1
    successor.release(peer)
    assert [use.held for use in other.uses(peer, None)] == [0]


def test_a_place_that_is_removed_counts_no_more_and_is_used_again(host: Host) -> None:
    removed, other = host.worker(max_per_ip=1, rate="2/h"), host.worker(max_per_ip=1, rate="2/h")
    peer = end("192.0.2.1")
    removed.take(peer, None, 0.0)
    host.memory.remove(0)
    assert other.take(peer, None, 0.0) is None
    again = host.worker(max_per_ip=1, rate="2/h")
    assert host.tables[-1].is_at(host.memory.fd, 0)
    assert (again.taken, other.taken) == (1, 1)
    other.release(peer)
    refused = again.take(peer, None, 0.0)
    assert refused is not None
    assert refused.reason == "rate"  # the tokens that it has spent are spent


def test_a_resized_service_keeps_its_connections(host: Host) -> None:
    one, other = host.worker(max_per_ip=9), host.worker(max_per_ip=9)
    peers = [end(f"192.0.{n // 200}.{n % 200}") for n in range(400)]
    for peer in peers:
        assert one.take(peer, None, 0) is None
    larger = shared_limits.renewed(
        one, settings({"max_connections": 50_000, "max_per_network": 200}), host.tables[0]
    )
    assert isinstance(larger, shared_limits.SharedSlots)
    assert [use.held for use in other.uses(peers[5], None)] == [1]
    larger.publish()
    assert [use.held for use in other.uses(peers[5], None)] == [1]
    refused = larger.take(peers[5], None, 0)
    assert refused is not None
    assert dict(refused.detail) == {"limit": "max_per_network", "value": 200, "held": 200}
    for peer in peers:
        larger.release(peer)
    assert other.taken == 0
    assert [use.held for use in other.uses(peers[5], None)] == [0]


def test_plain_limits_that_become_shared_keep_connections_and_rates(host: Host) -> None:
    plain = shared_limits.renewed(
        limits.Slots(settings({})), settings({"max_per_ip": 2, "rate": "3/h"}), None
    )
    peer = end("192.0.2.1")
    plain.take(peer, None, 0.0)
    shared = shared_limits.renewed(plain, settings({"max_per_ip": 2, "rate": "3/h"}), host.table())
    assert isinstance(shared, shared_limits.SharedSlots)
    shared.publish()
    other = host.worker(max_per_ip=2, rate="3/h")
    assert other.take(peer, None, 0.0) is None
    assert other.take(peer, None, 0.0) is not None
    other.release(peer)
    assert other.take(peer, None, 0.0) is None
    assert shared.take(end("192.0.2.1"), 100, 0.0) is not None  # three tokens are spent


def test_many_networks_are_counted_exactly(host: Host) -> None:
    """Twice as many cells as networks: every one finds a cell, also after many have come and gone."""
    one, other = host.worker(max_connections=3000, max_per_ip=5), host.worker(max_per_ip=5)
    dice, held = random.Random(1), Counter[int]()  # noqa: S311
    for _ in range(20_000):
        value = dice.randrange(4000)
        peer = connection.Endpoint(4, value, 1, str(value))
        if held[value] and dice.random() < 0.6:
            one.release(peer)
            held[value] -= 1
        elif one.take(peer, None, 0) is None:
            held[value] += 1
    key = one._writers[4][0].key
    assert {value: host.tables[1].others(key(4, value)) for value in range(4000)} == {
        value: held[value] for value in range(4000)
    }
    assert other.taken == held.total()


def test_a_flood_of_addresses_uses_bounded_memory_and_forgets_the_oldest(host: Host) -> None:
    worker = host.worker(rate="2/h")
    offender = end("192.0.2.1")
    worker.take(offender, None, 0.0)
    for value in range(20_000):
        peer = connection.Endpoint(6, value << 64, 1, "")
        worker.take(peer, None, 1.0)
        worker.release(peer)
    other = host.worker(rate="2/h")
    assert other.take(offender, None, 1.0) is None
    assert other.take(offender, None, 1.0) is not None
    assert os.fstat(host.memory.fd).st_blocks * 512 < 4 << 20


def test_a_penalty_that_one_worker_charges_holds_at_the_others(host: Host) -> None:
    wanted = tables.Penalties.model_validate({"killed": 20, "min": 15})
    one, other = (SharedPenalties("smtp", wanted, (), host.table()) for _ in range(2))
    charged = one.offend(end("192.0.2.1"), Offence("killed"), 1000.0)
    assert charged is not None
    refused = other.refusal(end("192.0.2.1"), 1001.0)
    assert refused is not None
    assert dict(refused.detail) == {"offence": "killed", "seconds": 19.0}
    assert other.refusal(end("192.0.2.2"), 1001.0) is None


def test_all_places_can_be_taken(host: Host) -> None:
    assert [host.memory.add(SMTP) for _ in range(layout.PLACES)] == list(range(layout.PLACES))
    with pytest.raises(NoPlaceError):
        host.memory.add(SMTP)
    host.memory.remove(7)
    assert host.memory.add(IMAP) == 7
    assert host.table(place=1000).generation() == 0


def test_nobody_can_shrink_the_memory_under_another(host: Host) -> None:
    for size in (0, layout.size() + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(host.memory.fd, size)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**64 - 1))), st.binary(max_size=4096), st.randoms()
)
def test_whatever_is_in_a_segment_harms_nobody_else(
    words: list[tuple[int, int]], cells: bytes, dice: random.Random
) -> None:
    host = Host()
    try:
        worker = host.worker(max_per_ip=3, rate="3/h")
        wild = host.memory.add(SMTP)
        for number, value in words:
            os.pwrite(host.memory.fd, value.to_bytes(8, "little"), layout.word(wild, number) * 8)
        at = layout.size(wild) + dice.choice([layout.RATES, layout.COUNTS, layout.counts(3)])
        os.pwrite(host.memory.fd, cells, at)
        peer = end("192.0.2.1")
        if worker.take(peer, None, 0.0) is None:
            worker.release(peer)
        assert math.isfinite(host.tables[0].full_at(bytes(layout.KEY)) or 0.0) or cells
        successor = OwnSegment(host.memory.fd, wild)
        successor.fit(1000)
        for key in successor.counted():
            successor.put(key, 0)
        assert successor.counted() == []
    finally:
        host.close()


def test_a_key_is_found_at_its_place_only() -> None:
    key = bytes(range(1, 25))
    shifted = bytes(3) + key + bytes(layout.BUCKET - 27)
    assert layout.found(shifted, key) == -1
    there = bytes(3) + key + bytes(5 * 32 + 8 - 27) + key
    assert layout.found(there + bytes(layout.BUCKET - len(there)), key) == 5 * 32


def test_a_count_without_a_free_cell_is_left_out() -> None:
    memory = SharedMemory()
    place = memory.add(SMTP)
    segment = OwnSegment(memory.fd, place)
    segment.fit(1)
    keys = [number.to_bytes(24) for number in range(1, 1000)]
    for key in keys:
        segment.put(key, 7)
    counted = {*segment.counted()}
    assert 100 < len(counted) <= 128
    reader = Segments(memory.fd, 1)
    assert {key for key in keys if reader.held([place], key) == 7} == counted
    memory.close()
