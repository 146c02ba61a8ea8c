"""Penalties as sshd's PerSourcePenalties: the first tests are sshd's own, regress/penalty.sh and others."""

import signal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.links import end

from tcpdconf.config.model import tables
from tcpdconf.config.model.service import Service, ServiceSettings
from tcpdconf.policy import connection, penalties
from tcpdconf.policy.penalties import Offence, Penalties

REFUSED = Offence("refused")


def table(most: int = penalties.SOURCES, **keys: Any) -> Penalties:  # noqa: ANN401 (as TOML gives them)
    return Penalties(tables.Penalties.model_validate(keys), most=most)


def enforced(made: Penalties, text: str, now: float) -> bool:
    return made.refusal(end(text), now) is not None


def test_penalties_add_up_and_are_enforced_from_min_on() -> None:
    """The second configuration of sshd's penalty.sh: authfail:300s min:350s max:900s."""
    made = table(killed="300s", min="350s", max="900s")
    made.offend(end("192.0.2.1"), Offence("killed"), 0.0)
    assert not enforced(made, "192.0.2.1", 2.0)

    made.offend(end("192.0.2.1"), Offence("killed"), 4.0)

    assert enforced(made, "192.0.2.1", 6.0)
    assert enforced(made, "192.0.2.1", 599.9)
    assert not enforced(made, "192.0.2.2", 6.0)


def test_a_penalty_expires() -> None:
    """The first configuration of sshd's penalty-expire.sh: authfail:10s max:20s min:1s."""
    made = table(killed="10s", min="1s", max="20s")
    made.offend(end("192.0.2.1"), Offence("killed"), 100.0)

    assert enforced(made, "192.0.2.1", 102.0)
    assert not enforced(made, "192.0.2.1", 113.0)
    made.offend(end("192.0.2.1"), Offence("killed"), 113.0)  # adds to nothing
    assert not enforced(made, "192.0.2.1", 123.1)


def test_once_it_is_enforced_it_is_until_it_expires() -> None:
    made = table(refused=10, min=15)
    made.offend(end("192.0.2.1"), REFUSED, 0.0)
    assert not enforced(made, "192.0.2.1", 1.0)
    made.offend(end("192.0.2.1"), REFUSED, 1.0)

    assert enforced(made, "192.0.2.1", 19.9)  # with less than min left
    assert not enforced(made, "192.0.2.1", 20.1)


def test_a_penalty_of_exactly_min_is_enforced_at_any_time_of_the_clock() -> None:
    made = table(refused=15, min=15)
    for number in range(200):
        now = 12345.678 + number * 0.1
        made.offend(end(f"192.0.2.{number}"), REFUSED, now)
        assert enforced(made, f"192.0.2.{number}", now)


def test_no_penalty_is_longer_than_max() -> None:
    made = table(refused=30, max=70)
    for _ in range(5):
        made.offend(end("192.0.2.1"), REFUSED, 10.0)

    assert made.refusal(end("192.0.2.1"), 10.0) == (
        "penalty", (("offence", "refused"), ("seconds", 70.0)), False
    )  # fmt: skip
    assert not enforced(made, "192.0.2.1", 80.1)


def test_a_refusal_by_penalty_adds_nothing() -> None:
    made = table(refused=30)
    made.offend(end("192.0.2.1"), REFUSED, 0.0)

    assert all(enforced(made, "192.0.2.1", second) for second in range(30))
    assert not enforced(made, "192.0.2.1", 30.1)


@pytest.mark.parametrize(
    ("keys", "same", "other"),
    [
        ({}, "192.0.2.1", "192.0.2.2"),
        ({}, "2001:db8::1", "2001:db8:0:1::1"),
        ({}, "::ffff:192.0.2.1", "192.0.2.2"),
        ({"network": {"ipv4": 24}}, "192.0.2.77", "192.0.3.1"),
        ({"network": {"ipv6": 48}}, "2001:db8:0:77::1", "2001:db8:1::1"),
        ({"network": {"ipv6": 128}}, "2001:db8::1", "2001:db8::2"),
        ({"network": {"ipv4": 0}}, "192.0.2.1", "2001:db8::1"),
    ],
)
def test_a_penalty_falls_on_a_network(keys: dict[str, Any], same: str, other: str) -> None:
    made = table(refused=30, **keys)
    made.offend(end("2001:db8::99" if same.startswith("2001:db8:0:77") else same), REFUSED, 0.0)

    assert enforced(made, same, 1.0)
    assert not enforced(made, other, 1.0)


def test_both_families_have_a_table_of_their_own() -> None:
    made = table(most=1, refused=30)
    made.offend(end("192.0.2.1"), REFUSED, 0.0)
    made.offend(end("2001:db8::1"), REFUSED, 0.0)

    assert enforced(made, "192.0.2.1", 1.0)
    assert enforced(made, "2001:db8::1", 1.0)


def test_the_exempt_are_never_charged_or_refused() -> None:
    made = table(refused=30, network={"ipv4": 8})
    assert made.offend(end("127.0.0.1"), REFUSED, 0.0) is None
    assert made.offend(end("::1"), REFUSED, 0.0) is None
    made = table(refused=30, network={"ipv4": 24}, exempt=["192.0.2.9"])
    made.offend(end("192.0.2.1"), REFUSED, 0.0)

    assert not enforced(made, "192.0.2.9", 1.0)  # of the same network
    assert enforced(made, "192.0.2.2", 1.0)
    assert made.offend(end("127.0.0.1"), REFUSED, 0.0) is not None


def test_who_expires_first_is_dropped_when_the_table_is_full() -> None:
    made = table(most=3, refused=30, killed=60)
    made.offend(end("192.0.2.1"), REFUSED, 0.0)
    made.offend(end("192.0.2.2"), Offence("killed"), 0.0)
    made.offend(end("192.0.2.3"), REFUSED, 1.0)
    made.offend(end("192.0.2.1"), REFUSED, 2.0)  # until 60
    made.offend(end("192.0.2.4"), Offence("killed"), 3.0)

    assert [enforced(made, f"192.0.2.{n}", 3.0) for n in (1, 2, 3, 4)] == [True, True, False, True]
    made.offend(end("192.0.2.5"), REFUSED, 3.0)  # is itself the first to expire
    assert [enforced(made, f"192.0.2.{n}", 3.0) for n in (1, 2, 4, 5)] == [True, True, True, False]


def test_a_kind_without_a_value_costs_nothing() -> None:
    made = table(status={"75": 20})
    offences = [
        *(Offence(kind) for kind in ("refused", "proxy", "early_talker", "killed")),
        Offence("status", 1),
    ]

    assert [made.offend(end("192.0.2.1"), offence, 0.0) for offence in offences] == [None] * 5
    found = made.offend(end("192.0.2.1"), Offence("status", 75), 0.0)
    assert found == (20.0, True, "status 75")


@pytest.mark.parametrize(
    ("code", "offence"),
    [
        (0, None),
        (75, Offence("status", 75)),
        (-signal.SIGSEGV, Offence("killed")),
        (-signal.SIGKILL, Offence("killed")),
        (-signal.SIGPIPE, None),
        (-signal.SIGTERM, None),
    ],
)
def test_what_the_end_of_a_program_says(code: int, offence: Offence | None) -> None:
    assert penalties.of_exit(code) == offence


def service(**keys: Any) -> Service:  # noqa: ANN401 (as TOML gives them)
    listener = {"port": 25, "haproxy": {"trusted": ["192.0.2.7"]}}
    found = {"program": ["/bin/cat"], "listeners": [listener], "penalties": {"refused": 30}, **keys}
    return Service.model_validate(found)


def test_a_reload_keeps_the_penalties_of_unchanged_settings() -> None:
    made = penalties.renewed(None, service())

    assert made is not None
    assert penalties.renewed(made, service(limits={"max_connections": 9})) is made
    assert penalties.renewed(made, service(penalties={"refused": 31})) is not made
    assert penalties.renewed(made, service(penalties=None)) is None
    assert penalties.renewed(None, service(penalties=None)) is None


def test_a_trusted_proxy_is_exempt_and_who_believes_everybody_names_none() -> None:
    made = penalties.renewed(None, service())
    other = penalties.renewed(None, service(listeners=[{"port": 25, "haproxy": {"trusted": "any"}}]))

    assert made is not None
    assert other is not None
    assert made.offend(end("192.0.2.7"), REFUSED, 0.0) is None
    assert other.offend(end("192.0.2.7"), REFUSED, 0.0) is not None


def test_the_latest_are_reported_and_restored() -> None:
    made = table(refused=30, network={"ipv4": 24})
    for number in range(9):
        made.offend(end(f"192.0.{number}.1"), REFUSED, float(number))
    made.offend(end("2001:db8::1"), REFUSED, 9.0)
    other = table(refused=1, network={"ipv4": 24})
    for source in made.latest(31.5, 4):
        other.restore(source)

    assert made.active(31.5) == 8
    assert [source.version for source in made.latest(31.5, 4)] == [6, 4, 4, 4]
    assert [enforced(other, f"192.0.{n}.9", 31.5) for n in (5, 6, 7, 8)] == [False, True, True, True]
    assert made.of(end("192.0.3.7"), 31.5) == (4, 0xC00003, 24, (33.0, True, "refused"))
    assert made.of(end("192.0.1.7"), 31.5) is None


class _Model:
    """The same rules as a list that is searched from end to end."""

    def __init__(self, most: int, settings: tables.Penalties) -> None:
        self.most = most
        self.settings = settings
        self.found: dict[int, tuple[float, bool]] = {}

    def offend(self, source: int, seconds: float, now: float) -> None:
        until, active = self.found.get(source, (now, False))
        if until < now:
            until, active = now, False
        left = min(until - now + seconds, self.settings.max)
        self.found[source] = (now + left, active or left >= self.settings.min)
        living = {key: value for key, value in self.found.items() if value[0] >= now}
        if len(living) > self.most:
            del living[min(living, key=lambda key: (living[key][0], key))]
        self.found = living

    def enforced(self, source: int, now: float) -> bool:
        until, active = self.found.get(source, (-1.0, False))
        return active and until >= now


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from(["refused", "proxy", "killed"]), st.integers(0, 200)),
        max_size=80,
    ),
    st.integers(1, 6),
)
def test_it_does_what_a_plain_list_does(offences: list[tuple[int, Any, int]], most: int) -> None:
    keys = {"refused": 8, "proxy": 16, "killed": 64, "min": 20, "max": 100}
    made, model = table(most=most, **keys), _Model(most, tables.Penalties.model_validate(keys))
    now = 0.0
    for source, kind, tenths in offences:
        now += tenths / 8  # exact in binary
        made.offend(end(f"192.0.2.{source}"), Offence(kind), now)
        model.offend(source, float(keys[kind]), now)
        known = [model.enforced(each, now) for each in range(10)]
        assert [enforced(made, f"192.0.2.{each}", now) for each in range(10)] == known
        family = made._families[4]
        assert len(family.penalties) == len(family._queue) <= most
        for each in made.latest(now, 10):
            assert now <= each.penalty.until <= now + 100
    assert made.active(now) == sum(model.enforced(each, now) for each in range(10))


def test_a_service_that_observes_refuses_nobody_and_keeps_its_penalties() -> None:
    observing = tables.Penalties(refused=30, min=15, enforce=False)
    service = ServiceSettings(penalties=observing)
    found = penalties.renewed(None, service)
    assert found is not None
    peer = connection.endpoint(4, 0xC0000201, 0)
    found.offend(peer, penalties.Offence("refused"), 0.0)
    assert found.enforced(peer, 1.0) is None
    assert found.refusal(peer, 1.0) is not None
    enforcing = service.model_copy(update={"penalties": observing.model_copy(update={"enforce": True})})
    assert penalties.renewed(found, enforcing) is found
    assert found.enforced(peer, 1.0) == found.refusal(peer, 1.0)
