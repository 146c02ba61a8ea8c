"""Limits and access sources with `enforce = false` change nothing, and tell what would be refused."""

import ipaddress
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpdconf.config.model import tables
from tcpdconf.config.model.service import Service
from tcpdconf.policy import connection, decision, limits
from tcpdconf.policy.access import table as access_table

LOCAL = connection.endpoint(4, 0xC6336401, 25)  # 198.51.100.1
NETWORK = "192.0.2.0/24"
ALLOW = {"network": NETWORK, "action": "allow", "environment": {"A": "1"}}
DENY = {"network": NETWORK, "action": "deny"}


def link(text: str = "192.0.2.1") -> connection.Link:
    return connection.Link(connection.endpoint(4, int(ipaddress.IPv4Address(text)), 4000), LOCAL)


def sources(*written: Sequence[dict[str, Any]]) -> list[decision.NamedTable]:
    """Sources with these rules, named by their index."""
    return [
        decision.NamedTable(
            str(index), access_table.build(tables.AccessFile.model_validate({"rules": list(rules)}).rules)
        )
        for index, rules in enumerate(written)
    ]


def slots(**keys: Any) -> limits.Slots:  # noqa: ANN401 (as TOML gives them)
    return limits.Slots(tables.Limits.model_validate({"max_connections": 1000, **keys}))


def admit(
    every: list[decision.NamedTable],
    enforced: str,
    held: limits.Slots,
    *,
    peer: str = "192.0.2.1",
    now: float = 0.0,
) -> decision.Admitted | connection.Refused:
    """Decide; `enforced` has a letter for each source, "y" if it decides."""
    deciding = [source for source, letter in zip(every, enforced, strict=True) if letter == "y"]
    return decision.admit(deciding, held, link(peer), now, every if len(deciding) < len(every) else None)


@pytest.mark.parametrize(
    ("rules", "enforced", "variables", "would"),
    [
        ([[DENY]], "n", {}, "0"),
        ([[ALLOW]], "n", {}, None),
        ([[ALLOW], [DENY]], "yn", {"A": "1"}, None),  # it would not even be asked
        ([[DENY], [ALLOW]], "ny", {"A": "1"}, "0"),
        ([[], [DENY], [ALLOW]], "yny", {"A": "1"}, "1"),
        ([[ALLOW], [DENY]], "nn", {}, None),
        ([[DENY], [DENY]], "nn", {}, "0"),
        ([[{"local": "*:25", "action": "deny"}], [ALLOW]], "ny", {"A": "1"}, "0"),
        ([[{"local": "*:26", "action": "deny"}], [ALLOW]], "ny", {"A": "1"}, None),
    ],
)
def test_a_source_that_only_observes(
    rules: list[list[dict[str, Any]]], enforced: str, variables: dict[str, str], would: str | None
) -> None:
    held = slots()
    verdict = admit(sources(*rules), enforced, held)

    assert isinstance(verdict, decision.Admitted)
    assert (dict(verdict.variables), held.total) == (variables, 1)
    if would is None:
        assert verdict.unenforced is None
    else:
        assert verdict.unenforced is not None
        assert (verdict.unenforced.reason, verdict.unenforced.detail) == ("access", (("source", would),))


def test_a_source_that_only_observes_admits_nobody() -> None:
    verdict = admit(sources([ALLOW], [DENY]), "ny", slots())

    assert isinstance(verdict, connection.Refused)
    assert verdict.detail == (("source", "1"),)


@pytest.mark.parametrize(
    ("keys", "reason", "name"),
    [
        ({"enforce": False, "max_per_ip": 2}, "per_ip", "max_per_ip"),
        ({"enforce": False, "max_per_network": 2}, "per_network", "max_per_network"),
        ({"enforce": False, "rate": "2/h"}, "rate", "rate"),
        ({"levels": [{"ipv4": 8, "max_connections": 2, "enforce": False}]}, "per_network", "levels[0]."),
        ({"levels": [{"ipv4": 8, "rate": "2/h", "enforce": False}]}, "rate", "levels[0].rate"),
        ({"enforce": False, "levels": [{"ipv4": 8, "max_connections": 2}]}, "per_network", "levels[0]."),
    ],
)
def test_limits_that_only_observe(keys: dict[str, Any], reason: str, name: str) -> None:
    """They tell what the same limits refuse otherwise, in the same words."""
    observing = slots(**keys)
    verdicts = [admit([], "", observing) for _ in range(4)]

    assert observing.total == 4
    told = [verdict.unenforced for verdict in verdicts if isinstance(verdict, decision.Admitted)]
    assert told[:2] == [None, None]
    assert [(each.reason, dict(each.detail)["value"]) for each in told[2:] if each is not None] == [
        (reason, "2/h" if reason == "rate" else 2)
    ] * 2
    last = told[2]
    assert last is not None
    assert str(dict(last.detail)["limit"]).startswith(name)
    levels = [{**level, "enforce": True} for level in keys.get("levels", [])]
    enforcing = slots(**{**keys, "enforce": True, "levels": levels})
    assert [admit([], "", enforcing) for _ in range(3)][-1] == last


def test_a_level_may_hold_while_other_limits_observe() -> None:
    held = slots(enforce=False, max_per_ip=1, levels=[{"ipv4": 8, "max_connections": 2, "enforce": True}])
    verdicts = [admit([], "", held) for _ in range(3)]

    assert isinstance(verdicts[1], decision.Admitted)
    assert verdicts[1].unenforced is not None
    assert isinstance(verdicts[2], connection.Refused)
    assert held.total == 2


def test_slots_in_all_always_hold() -> None:
    held = slots(max_connections=1, enforce=False)
    admit([], "", held)

    assert held.full


def test_a_rules_own_limit_observes_with_the_limits() -> None:
    """It stands in the place of limits.max_per_ip."""
    one = sources([{**ALLOW, "max_per_ip": 1}])
    observing, enforcing = slots(enforce=False), slots()

    assert [isinstance(admit(one, "y", enforcing), connection.Refused) for _ in range(2)] == [False, True]
    verdicts = [admit(one, "y", observing) for _ in range(2)]
    assert [isinstance(each, decision.Admitted) and each.unenforced is not None for each in verdicts] == [
        False,
        True,
    ]


def test_a_limit_of_a_source_that_only_observes_counts_against_limits_that_hold() -> None:
    one = sources([{**ALLOW, "max_per_ip": 1}])
    held = slots(max_per_ip=3)
    verdicts = [admit(one, "n", held) for _ in range(4)]

    assert [
        None if isinstance(each, connection.Refused) else each.unenforced is not None for each in verdicts
    ] == [False, True, True, None]


def test_observed_rates_spend_no_token_for_those_who_would_be_refused() -> None:
    """So as many would be refused as are refused later."""
    observing, enforcing = slots(enforce=False, rate="2/10s"), slots(rate="2/10s")
    moments = [float(second) for second in range(60)]
    would = [admit([], "", observing, now=now) for now in moments]
    refused = [admit([], "", enforcing, now=now) for now in moments]

    assert [isinstance(each, decision.Admitted) and each.unenforced is not None for each in would] == [
        isinstance(each, connection.Refused) for each in refused
    ]


def test_rates_keep_their_buckets_when_they_are_enforced() -> None:
    observing = slots(enforce=False, rate="2/h")
    for _ in range(2):
        admit([], "", observing)
    enforcing = observing.resized(tables.Limits.model_validate({"rate": "2/h"}))

    assert isinstance(admit([], "", enforcing), connection.Refused)


RULES = st.lists(
    st.fixed_dictionaries(
        {
            "network": st.sampled_from(["192.0.2.1", NETWORK, "192.0.0.0/16", "198.51.100.0/24"]),
            "action": st.sampled_from(["allow", "deny"]),
            "environment": st.sampled_from([{}, {"A": "1"}]),
        },
        optional={"max_per_ip": st.integers(1, 3)},
    ),
    max_size=3,
    unique_by=lambda rule: str(rule["network"]),
)
LIMITS = st.fixed_dictionaries(
    {"enforce": st.booleans()},
    optional={
        "max_per_ip": st.integers(1, 3),
        "max_per_network": st.integers(1, 4),
        "rate": st.sampled_from(["2/s", "3/min"]),
        "levels": st.lists(
            st.fixed_dictionaries(
                {"ipv4": st.just(8), "max_connections": st.integers(1, 4)},
                optional={"enforce": st.booleans()},
            ),
            max_size=2,
        ),
    },
)
STEPS = st.lists(
    st.tuples(st.sampled_from(["192.0.2.1", "192.0.2.2", "192.0.9.1"]), st.floats(0, 1), st.booleans()),
    max_size=30,
)


def without(keys: dict[str, Any]) -> dict[str, Any]:
    """The same limits without those that only observe."""
    kept = keys if keys["enforce"] else {"levels": keys.get("levels", [])}
    levels = [level for level in kept.get("levels", []) if level.get("enforce", keys["enforce"])]
    return {**kept, "enforce": True, "levels": [{**level, "enforce": True} for level in levels]}


@given(st.lists(st.tuples(RULES, st.sampled_from("yn")), max_size=3), LIMITS, STEPS)
def test_nobody_notices_what_only_observes(
    chosen: list[tuple[list[dict[str, Any]], str]], keys: dict[str, Any], steps: list[tuple[str, float, bool]]
) -> None:
    """Verdicts and variables are those of a service without it. A rule's own limit is one of the limits."""
    if not keys["enforce"]:
        chosen = [
            ([{key: rule[key] for key in rule if key != "max_per_ip"} for rule in rules], letter)
            for rules, letter in chosen
        ]
    every, letters = sources(*(rules for rules, _ in chosen)), "".join(letter for _, letter in chosen)
    kept = [source for source, letter in zip(every, letters, strict=True) if letter == "y"]
    held, plain, now = slots(**keys), slots(**without(keys)), 0.0
    clients: list[connection.Endpoint] = []
    for peer, pause, leaves in steps:
        now += pause
        one = admit(every, letters, held, peer=peer, now=now)
        other = decision.admit(kept, plain, link(peer), now)
        assert isinstance(one, decision.Admitted) == isinstance(other, decision.Admitted)
        if isinstance(one, decision.Admitted) and isinstance(other, decision.Admitted):
            assert one.variables == other.variables
            clients.append(link(peer).peer)
        else:
            assert isinstance(one, connection.Refused)
            assert isinstance(other, connection.Refused)
            assert one.reason == other.reason
        if leaves and clients:
            gone = clients.pop(0)
            held.release(gone)
            plain.release(gone)
    for client in clients:
        held.release(client)
    assert [count.held for count in held._counts] == [{} for _ in held._counts]


def test_keys_that_only_observe() -> None:
    written = {
        "program": ["/bin/cat"],
        "listeners": [{"port": 1}],
        "access": [{"rules": []}, {"rules": [], "enforce": False}],
        "limits": {
            "enforce": False,
            "max_per_ip": 1,
            "levels": [{"ipv4": 8, "rate": "1/s", "enforce": True}, {"ipv4": 9, "rate": "1/s"}],
        },
    }

    assert Service.model_validate(written).observed() == [
        "limits.max_per_ip",
        "limits.levels[1]",
        "access[1]",
    ]
