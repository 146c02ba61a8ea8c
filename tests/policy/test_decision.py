from collections.abc import Sequence

import pytest

from tcpdconf.config.model import tables
from tcpdconf.policy import connection, decision, limits
from tcpdconf.policy.access import table as access_table

PEER = connection.endpoint(4, 0xC0000201, 40000)  # 192.0.2.1
LOCAL = connection.endpoint(4, 0xC6336401, 25)  # 198.51.100.1
OWN = connection.endpoint(4, 0x7F000001, 2525)
LINK = connection.Link(PEER, LOCAL)


def source(name: str, *rules: dict[str, object]) -> decision.NamedTable:
    file = tables.AccessFile.model_validate({"rules": list(rules)})
    return decision.NamedTable(name, access_table.build(file.rules))


def rule(
    action: str, network: str | None = None, local: str | None = None, **environment: str
) -> dict[str, object]:
    keys = {"action": action, "network": network, "local": local, "environment": environment}
    return {key: value for key, value in keys.items() if value is not None}


ALLOW, DENY = rule("allow", "192.0.2.0/24", A="1"), rule("deny", "192.0.2.0/24")
LOCAL_ALLOW = rule("allow", local="*:25", A="local", L="1")
LOCAL_DENY = rule("deny", local="198.51.100.1:25")


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ([], {}),
        ([source("one", rule("deny", "203.0.113.0/24"))], {}),
        ([source("one", ALLOW)], {"A": "1"}),
        ([source("one", DENY)], "one"),
        ([source("one", ALLOW), source("two", DENY)], {"A": "1"}),
        ([source("one"), source("two", DENY)], "two"),
        ([source("one", LOCAL_ALLOW)], {"A": "local", "L": "1"}),
        ([source("one", LOCAL_ALLOW, ALLOW)], {"A": "1", "L": "1"}),
        ([source("one", ALLOW), source("two", LOCAL_ALLOW)], {"A": "1", "L": "1"}),
        ([source("one", LOCAL_DENY, ALLOW)], "one"),
        ([source("one", ALLOW), source("two", LOCAL_DENY)], "two"),
        ([source("one", LOCAL_ALLOW, DENY)], "one"),
    ],
)
def test_rules_of_several_sources(
    sources: Sequence[decision.NamedTable], expected: dict[str, str] | str
) -> None:
    """A dict: admitted with these variables; a string: refused by that source."""
    slots = limits.Slots(tables.Limits())
    verdict = decision.admit(sources, slots, LINK, 0.0)

    if isinstance(expected, dict):
        assert isinstance(verdict, decision.Admitted)
        assert dict(verdict.variables) == expected
        assert slots.total == 1
    else:
        assert isinstance(verdict, connection.Refused)
        assert (verdict.reason, verdict.detail) == ("access", (("source", expected),))
        assert slots.total == 0


@pytest.mark.parametrize(("rule", "local"), [(DENY, False), (LOCAL_DENY, True)])
def test_a_refusal_tells_whose_end_the_rule_was_for(rule: dict[str, object], local: bool) -> None:
    verdict = decision.admit([source("one", rule)], limits.Slots(tables.Limits()), LINK, 0.0)

    assert isinstance(verdict, connection.Refused)
    assert verdict.local == local


PROXIED = connection.Link(PEER, LOCAL, connection.Proxy(connection.endpoint(4, 0x7F000002, 1), OWN))


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([rule("deny", local="198.51.100.1:25")], {}),
        ([rule("deny", local="127.0.0.1:2525")], "one"),
        ([rule("deny") | {"proxied_local": "198.51.100.1:25"}], "one"),
        ([rule("deny") | {"proxied_local": "127.0.0.1:2525"}], {}),
        (
            [rule("allow", P="1") | {"proxied_local": "*:25"}, rule("allow", local="*:2525", O="1")],
            {"P": "1", "O": "1"},
        ),
        ([rule("deny", "192.0.2.1", "127.0.0.1") | {"proxied_local": "*:25"}], "one"),
        ([rule("deny", "192.0.2.1", "127.0.0.1") | {"proxied_local": "*:26"}, ALLOW], {"A": "1"}),
        ([rule("deny", local="127.0.0.1") | {"proxied_local": "*:25"}], "one"),
        ([rule("deny", local="127.0.0.1") | {"proxied_local": "*:26"}], {}),
    ],
)
def test_rules_tell_the_own_end_from_the_proxied_one(
    rules: list[dict[str, object]], expected: dict[str, str] | str
) -> None:
    verdict = decision.admit([source("one", *rules)], limits.Slots(tables.Limits()), PROXIED, 0.0)

    if isinstance(verdict, decision.Admitted):
        assert dict(verdict.variables) == expected
    else:
        assert isinstance(verdict, connection.Refused)
        assert (verdict.reason, verdict.detail) == ("access", (("source", expected),))


def test_a_rule_for_a_proxied_end_is_for_no_connection_without_a_header() -> None:
    rules = [rule("deny") | {"proxied_local": "*:25"}, rule("deny", "192.0.2.1") | {"proxied_local": "*:25"}]
    verdict = decision.admit([source("one", *rules)], limits.Slots(tables.Limits()), LINK, 0.0)

    assert verdict == decision.Admitted(())


def test_the_clients_override_counts_over_the_local_one() -> None:
    local = {**rule("allow", local="*:25"), "max_per_ip": 1}
    peers = {**rule("allow", "192.0.2.1"), "max_per_ip": 2}
    slots = limits.Slots(tables.Limits(max_per_ip=9))
    verdicts = [decision.admit([source("one", local, peers)], slots, LINK, 0.0) for _ in range(3)]

    assert [isinstance(verdict, decision.Admitted) for verdict in verdicts] == [True, True, False]


def test_access_comes_before_limits() -> None:
    slots = limits.Slots(tables.Limits(max_per_ip=1))
    slots.hold(PEER)

    assert decision.admit([source("one", DENY)], slots, LINK, 0.0) == connection.Refused(
        "access", (("source", "one"),)
    )


@pytest.mark.parametrize(
    ("drop", "layers", "expected"),
    [
        ([], [{"BLOCK": "x"}], None),
        (["BLOCK"], [{}], None),
        (["BLOCK"], [{"BLOCK": ""}], None),
        (["BLOCK"], [{"BLOCK": "x"}], "BLOCK"),
        (["A", "BLOCK"], [{"BLOCK": "x"}], "BLOCK"),
        (["BLOCK"], [{}, {"BLOCK": "base"}], "BLOCK"),
        (["BLOCK"], [{"BLOCK": ""}, {"BLOCK": "base"}], None),
    ],
)
def test_drop(drop: list[str], layers: list[dict[str, str]], expected: str | None) -> None:
    verdict = decision.screen(drop, *layers)

    assert (verdict and dict(verdict.detail)["variable"]) == expected
