import ipaddress
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpdconf.config.model import tables, values
from tcpdconf.policy import connection, limits


def end(text: str) -> connection.Endpoint:
    address = ipaddress.ip_address(text)
    return connection.endpoint(address.version, int(address), 4000)


def slots(**keys: Any) -> limits.Slots:  # noqa: ANN401 (as TOML gives them)
    return limits.Slots(tables.Limits.model_validate(keys))


def refused(
    made: limits.Slots, text: str, now: float = 0.0, most: int | None = None
) -> connection.Refused | None:
    return made.take(end(text), most, now)


def test_what_is_left_out_is_not_limited() -> None:
    made = slots(max_connections=100)

    assert [refused(made, "192.0.2.1") for _ in range(100)] == [None] * 100
    assert made.full


@pytest.mark.parametrize(
    ("keys", "same", "other"),
    [
        ({"max_per_ip": 2}, "192.0.2.1", "192.0.2.2"),
        ({"max_per_ip": 2}, "2001:db8::1", "2001:db8::2"),
        ({"max_per_network": 2}, "192.0.2.77", "192.0.3.1"),
        ({"max_per_network": 2}, "2001:db8::f00", "2001:db8:0:1::1"),
        ({"max_per_network": 2, "network": {"ipv4": 16}}, "192.0.99.1", "192.1.2.1"),
        ({"max_per_network": 2, "network": {"ipv6": 48}}, "2001:db8:0:99::1", "2001:db8:1::1"),
        ({"levels": [{"ipv4": 8, "ipv6": 32, "max_connections": 2}]}, "192.255.0.1", "193.0.2.1"),
    ],
)
def test_a_level_counts_its_networks(keys: dict[str, Any], same: str, other: str) -> None:
    first = "192.0.2.1" if "." in same else "2001:db8::1"
    made = slots(**keys)

    assert [refused(made, first), refused(made, same)] == [None, None]
    assert refused(made, first) is not None
    assert refused(made, other) is None
    made.release(end(same))
    assert refused(made, first) is None


def test_a_level_leaves_a_family_alone_that_it_does_not_name() -> None:
    made = slots(levels=[{"ipv6": 0, "max_connections": 1}])

    assert [refused(made, "192.0.2.1") for _ in range(3)] == [None] * 3
    assert [bool(refused(made, f"2001:db8::{n}")) for n in (1, 2)] == [False, True]


def test_a_refusal_names_the_limit_its_value_and_what_is_held() -> None:
    made = slots(max_per_ip=1, levels=[{"ipv4": 16, "max_connections": 2}], rate="5/min")
    made.take(end("192.0.2.1"), None, 0)
    made.take(end("192.0.3.1"), None, 0)

    assert refused(made, "192.0.2.1") == connection.Refused(
        "per_ip", (("limit", "max_per_ip"), ("value", 1), ("held", 1))
    )
    assert refused(made, "192.0.4.1") == connection.Refused(
        "per_network", (("limit", "levels[0].max_connections"), ("value", 2), ("held", 2))
    )


def test_a_rule_overrides_only_the_limit_per_address() -> None:
    made = slots(max_per_ip=1, max_per_network=3)

    assert [refused(made, "192.0.2.1", most=5) is None for _ in range(4)] == [True, True, True, False]
    lowered = slots(max_per_ip=4)
    assert [refused(lowered, "192.0.2.1", most=1) is None for _ in range(2)] == [True, False]


def test_a_rate_gives_its_burst_at_once_and_then_one_at_a_time() -> None:
    made = slots(max_connections=1000, rate="3/30s")

    assert [refused(made, "192.0.2.1", 100.0) is None for _ in range(4)] == [True, True, True, False]
    assert refused(made, "192.0.2.1", 109.9) is not None
    assert refused(made, "192.0.2.1", 110.0) is None
    assert refused(made, "192.0.2.1", 110.0) is not None
    assert refused(made, "192.0.2.2", 110.0) is None
    assert [refused(made, "192.0.2.1", 500.0) is None for _ in range(4)] == [True, True, True, False]


def test_a_refusal_spends_no_token_of_any_level() -> None:
    made = slots(max_connections=1000, rate="1/h", levels=[{"ipv4": 24, "rate": "3/h"}])

    assert refused(made, "192.0.2.1") is None
    assert [refused(made, "192.0.2.1") for _ in range(10)].count(None) == 0
    assert [refused(made, f"192.0.2.{n}") is None for n in (2, 3, 4)] == [True, True, False]


def test_rates_remember_a_bounded_number_of_addresses() -> None:
    made = slots(max_connections=10_000_000, rate="1/h")
    for value in range(200_000):
        made.take(connection.Endpoint(4, value, 1, ""), None, 0.0)

    (rate,) = made._rates
    assert len(rate._young) + len(rate._old) <= 2 * 65536


LIMITS = st.builds(
    lambda **keys: tables.Limits.model_validate({k: v for k, v in keys.items() if v is not None}),
    max_connections=st.integers(1, 6),
    max_per_ip=st.none() | st.integers(1, 3),
    max_per_network=st.none() | st.integers(1, 4),
    network=st.builds(lambda a, b: {"ipv4": a, "ipv6": b}, st.integers(0, 32), st.integers(0, 128)),
    rate=st.sampled_from([None, "2/s", "3/min"]),
)
PEERS = st.sampled_from(
    ["192.0.2.1", "192.0.2.2", "192.0.3.1", "2001:db8::1", "2001:db8::2", "2001:db8:1::1"]
)


def test_how_far_the_limits_of_a_peer_are_used() -> None:
    levels = [{"ipv4": 16, "max_connections": 9, "rate": "5/min"}, {"ipv6": 48, "max_connections": 9}]
    made = slots(max_per_ip=4, max_per_network=6, levels=levels)
    for text in ("192.0.2.1", "192.0.2.1", "192.0.2.9", "192.0.3.1", "2001:db8::1"):
        made.hold(end(text))

    assert made.uses(end("192.0.2.1"), 7) == [
        limits.Use("max_per_ip", "192.0.2.1", 2, 7),
        limits.Use("max_per_network", "192.0.2.0/24", 3, 6),
        limits.Use("levels[0].max_connections", "192.0.0.0/16", 4, 9),
        limits.Use("levels[0].rate", "192.0.0.0/16", None, 5, values.Rate(5, 60.0)),
    ]
    assert made.uses(end("2001:db8::2"), None) == [
        limits.Use("max_per_ip", "2001:db8::2", 0, 4),
        limits.Use("max_per_network", "2001:db8::/64", 1, 6),
        limits.Use("levels[1].max_connections", "2001:db8::/48", 1, 9),
    ]


@given(LIMITS, st.lists(st.tuples(st.booleans(), PEERS, st.floats(0, 2)), max_size=60))
def test_slots_never_exceed_a_limit_and_return_to_nothing(
    configured: tables.Limits, steps: list[tuple[bool, str, float]]
) -> None:
    """A naive recount of everything that is held agrees after every step."""
    made, held, now = limits.Slots(configured), list[connection.Endpoint](), 0.0
    for arrives, text, pause in steps:
        now += pause
        if arrives and not made.full:
            peer = end(text)
            if made.take(peer, None, now) is None:
                held.append(peer)
        elif held and not arrives:
            made.release(held.pop(0))
        assert made.total == len(held) <= configured.max_connections
        per_ip = Counter(peer.text for peer in held)
        assert max(per_ip.values(), default=0) <= (configured.max_per_ip or 99)
        network = {4: configured.network.ipv4, 6: configured.network.ipv6}
        per_network = Counter(
            ipaddress.ip_network((peer.text, network[peer.version]), strict=False) for peer in held
        )
        assert max(per_network.values(), default=0) <= (configured.max_per_network or 99)
    for peer in held:
        made.release(peer)
    assert made.total == 0
    assert [count.held for count in made._counts] == [{} for _ in made._counts]


def test_a_token_that_is_reserved_is_kept_from_others_until_it_is_given_back() -> None:
    made = slots(max_connections=1000, rate="2/h", levels=[{"ipv4": 24, "rate": "3/h"}])
    peer, pending = end("192.0.2.1"), list[limits.RateLimiter]()

    assert made.take(peer, None, 0.0, pending) is None
    assert [refused(made, "192.0.2.1") is None for _ in range(2)] == [True, False]
    made.settle(peer, 0.0, pending, spent=False)
    made.release(peer)
    assert [refused(made, "192.0.2.1") is None for _ in range(2)] == [True, False]
    assert [refused(made, "192.0.2.2") is None for _ in range(2)] == [True, False]


def test_reserved_tokens_survive_a_reload_that_keeps_their_rate() -> None:
    peer, pending = end("192.0.2.1"), list[limits.RateLimiter]()
    made = slots(rate="2/h", levels=[{"ipv4": 24, "rate": "2/h"}])
    assert made.take(peer, None, 0.0, pending) is None
    kept = made.resized(tables.Limits.model_validate({"rate": "2/h"}))

    assert [refused(kept, "192.0.2.1") is None for _ in range(2)] == [True, False]
    kept.settle(peer, 0.0, pending, spent=False)
    assert [refused(kept, "192.0.2.1") is None for _ in range(2)] == [True, False]


def test_a_rate_that_only_observes_gives_back_what_a_refused_connection_has_reserved() -> None:
    made = slots(rate="1/h", enforce=False)
    peer, pending = end("192.0.2.1"), list[limits.RateLimiter]()
    for spent in (False, False, True):
        assert made.take(peer, None, 0.0, pending) is None
        assert made.would_refuse(peer, None, 0.0, pending) is None
        made.settle(peer, 0.0, pending, spent=spent)
        pending.clear()

    assert made.take(peer, None, 0.0, pending) is None
    assert made.would_refuse(peer, None, 0.0, pending) is not None
    assert not pending


ARRIVALS = st.lists(st.tuples(PEERS, st.floats(0, 40), st.booleans(), st.integers(0, 3)), max_size=40)


@given(st.sampled_from(["1/min", "3/min", "20/min"]), ARRIVALS)
def test_refused_connections_leave_no_trace_in_a_rate_and_admitted_ones_never_exceed_it(
    rate: str, arrivals: list[tuple[str, float, bool, int]]
) -> None:
    """Others decide in any order; some later arrivals come first."""
    keys = {"max_connections": 1000, "rate": rate, "levels": [{"ipv4": 16, "ipv6": 32, "rate": rate}]}
    made, expected = (limits.Slots(tables.Limits.model_validate(keys)) for _ in range(2))
    waiting: list[tuple[int, connection.Endpoint, bool, list[limits.RateLimiter]]] = []
    now = 0.0

    def settle(until: int) -> None:
        for each in [each for each in waiting if each[0] <= until]:
            waiting.remove(each)
            _, peer, admitted, pending = each
            made.settle(peer, now, pending, spent=admitted)
            if admitted:  # it conforms to the rate at the time when it is admitted
                assert expected.take(peer, None, now) is None

    for turn, (text, pause, admitted, later) in enumerate(arrivals):
        now += pause
        pending: list[limits.RateLimiter] = []
        if made.take(end(text), None, now, pending) is None:
            waiting.append((turn + later, end(text), admitted, pending))
        settle(turn)
    settle(len(arrivals) + 3)

    for text in ("192.0.2.1", "192.0.3.1", "2001:db8::1"):
        made_now = [refused(made, text, now) is None for _ in range(21)]
        assert made_now == [refused(expected, text, now) is None for _ in range(21)]
    assert [rate._reserved for rate in made._rates] == [{}, {}]
