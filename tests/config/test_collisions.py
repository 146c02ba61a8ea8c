"""Which listeners are in each other's way: the same as when each is compared with each."""

import itertools

import hypothesis
from hypothesis import strategies

from tcpdconf.config import collisions

ADDRESSES = ["*", "0.0.0.0", "::", "127.0.0.1", "192.0.2.1", "::1", "2001:db8::1"]


def overlap(one: str, other: str) -> bool:
    """Return whether two addresses cannot share a port; "::" is IPv6 only, "*" both families."""
    if one == other or "*" in {one, other}:
        return True
    same_family = (":" in one) == (":" in other)
    return same_family and bool({one, other} & {"0.0.0.0", "::"})


@hypothesis.given(
    strategies.lists(strategies.tuples(strategies.sampled_from(ADDRESSES), strategies.integers(1, 3)))
)
def test_each_listener_is_told_with_the_first_that_is_in_its_way(ends: list[tuple[str, int]]) -> None:
    bound = [collisions.Bound("s", place, *end) for place, end in enumerate(ends)]
    expected = []
    for place, each in enumerate(bound):
        before = (other for other in bound[:place] if other.port == each.port)
        first = next((other for other in before if overlap(other.address, each.address)), None)
        expected += [] if first is None else [(each, first)]

    assert list(collisions.pairs(bound)) == expected


def test_many_addresses_of_a_port_are_not_compared_each_with_each() -> None:
    """It would take an hour."""
    many = itertools.islice(itertools.product(range(256), repeat=3), 200_000)
    bound = [collisions.Bound("s", n, f"127.{a}.{b}.{c}", 25) for n, (a, b, c) in enumerate(many)]

    assert list(collisions.pairs([*bound, bound[-1]])) == [(bound[-1], bound[-1])]


def test_an_address_that_means_another() -> None:
    shown = ["*", "192.0.2.1", "::ffff:c000:201", "::1"]

    assert [collisions.unmapped(address) for address in shown] == ["*", "192.0.2.1", "192.0.2.1", "::1"]
