"""Penalties that the workers of a service share, in a table that is a dict here."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpdconf.config.model import tables
from tcpdconf.config.model.service import ServiceSettings
from tcpdconf.policy import connection, shared_penalties
from tcpdconf.policy.penalties import Offence, Penalties, Penalty
from tcpdconf.policy.shared_penalties import SharedPenalties

PEER = connection.endpoint(4, 0xC0000201, 4000)
OTHER = connection.endpoint(6, 0x20010DB8 << 96 | 1, 4000)


class Dict:
    """A table; each worker writes to it and reads what the latest one has written."""

    def __init__(self) -> None:
        self.times: dict[bytes, float] = {}

    def full_at(self, key: bytes) -> float:
        """Return the latest time."""
        return self.times.get(key, 0.0)

    def spend(self, key: bytes, full_at: float, now: float) -> float:  # noqa: ARG002
        """Set a time."""
        self.times[key] = max(full_at, self.times.get(key, 0.0))
        return 0.0

    def exclusively(self, act: Callable[[], Any], undo: Callable[[Any], object]) -> Any:  # noqa: ANN401, ARG002
        """Call it."""
        return act()

    def others(self, key: bytes) -> int:  # noqa: ARG002
        """Return nobody."""
        return 0

    def put(self, key: bytes, count: int) -> None:
        """Do nothing."""

    def taken(self) -> int:
        """Return none."""
        return 0

    def take(self, total: int) -> None:
        """Do nothing."""

    def replace(self, counts: dict[bytes, int], entries: int) -> None:
        """Do nothing."""


def settings(**keys: Any) -> tables.Penalties:  # noqa: ANN401 (as TOML gives them)
    return tables.Penalties.model_validate(
        {"refused": 30, "status": {"75": 10}, "min": 40, "max": 100} | keys
    )


def worker(table: Dict, name: str = "smtp", **keys: Any) -> SharedPenalties:  # noqa: ANN401
    return SharedPenalties(name, settings(**keys), (), table)


@pytest.mark.parametrize("peer", [PEER, OTHER])
def test_offences_at_all_workers_add_up_and_all_of_them_refuse(peer: connection.Endpoint) -> None:
    table = Dict()
    one, other, third = (worker(table) for _ in range(3))
    assert one.offend(peer, Offence("refused"), 1000.0) is not None
    assert other.refusal(peer, 1000.0) is None  # below min
    assert other.offend(peer, Offence("status", 75), 1000.0) is not None
    for each in (one, other, third):
        refused = each.refusal(peer, 1000.5)
        assert refused is not None
        assert dict(refused.detail) == {"offence": "status 75", "seconds": 39.5}
        assert each.refusal(peer, 1041.0) is None
    assert third.active(1000.0) == 1


def test_other_services_and_exempt_clients_are_not_concerned() -> None:
    table = Dict()
    one, other = worker(table, min=10), worker(table, "imap", min=10)
    one.offend(PEER, Offence("refused"), 1000.0)
    assert one.refusal(PEER, 1001.0) is not None
    assert other.refusal(PEER, 1001.0) is None
    exempt = worker(table, min=10, exempt=["192.0.2.1"])
    assert exempt.refusal(PEER, 1001.0) is None


def test_a_penalty_is_kept_when_it_becomes_shared_or_is_shared_no_more() -> None:
    table, service = Dict(), ServiceSettings(penalties=settings(min=10))
    plain = shared_penalties.renewed(None, "smtp", service, None)
    assert type(plain) is Penalties
    plain.offend(PEER, Offence("refused"), 1000.0)
    shared = shared_penalties.renewed(plain, "smtp", service, table)
    assert isinstance(shared, SharedPenalties)
    assert shared.refusal(PEER, 1001.0) is not None
    assert shared_penalties.renewed(shared, "smtp", service, table) is shared
    again = shared_penalties.renewed(shared, "smtp", service, None)
    assert type(again) is Penalties
    assert again.refusal(PEER, 1001.0) is not None
    assert shared_penalties.renewed(shared, "smtp", ServiceSettings(), table) is None


@given(
    st.floats(0.001, 4e9),
    st.booleans(),
    st.sampled_from(["refused", "proxy", "early_talker", "killed"])
    | st.integers(1, 255).map("status {}".format),
)
def test_a_penalty_is_one_number(until: float, active: bool, offence: str) -> None:
    number = shared_penalties.encoded(Penalty(until, active, offence))
    found = shared_penalties.decoded(number)
    assert (found.active, found.offence) == (active, offence)
    assert found.until == pytest.approx(until, abs=0.001)
    assert number == pytest.approx(until, abs=0.001)


@given(st.floats(min_value=0, exclude_min=True, allow_infinity=False, allow_nan=False))
def test_any_number_is_a_penalty_or_none(number: float) -> None:
    table = Dict()
    made = worker(table)
    table.times[made._key(PEER)] = number
    made.refusal(PEER, 1000.0)
    made.offend(PEER, Offence("refused"), 1000.0)
    refused = made.refusal(PEER, 1000.0)
    assert refused is None or refused.reason == "penalty"
