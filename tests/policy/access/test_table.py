import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import links

from tcpdconf.config.model import tables, values
from tcpdconf.policy import connection
from tcpdconf.policy.access import table as access_table
from tcpdconf.policy.access.table import AccessTable, DuplicateRuleError, Ends, Networks, Rule


def build(*rules: dict[str, object]) -> AccessTable:
    return access_table.build(
        [tables.AccessRule.model_validate({"action": "allow", **rule}) for rule in rules]
    )


def rule(name: str, network: str | None = None, local: str | None = None) -> dict[str, object]:
    written = {"network": network, "local": local, "environment": {"V": name}}
    return {key: value for key, value in written.items() if value is not None}


# few distinct bits, so that networks nest and clients hit them
numbers4 = st.sampled_from([0, 1, 0x0A000000, 0x0A000001, 0x0A010000, 0x0A0100FF, 0x7F000001, 0xFFFFFFFF])
numbers6 = st.sampled_from([0, 1, 0x20010DB8 << 96, 0x20010DB8 << 96 | 1, 0x20010DB9 << 96, 0xFE80 << 112])
addresses = st.one_of(numbers4.map(ipaddress.IPv4Address), numbers6.map(ipaddress.IPv6Address))


@st.composite
def networks(draw: st.DrawFn) -> values.IPNetwork:
    address = draw(addresses)
    return ipaddress.ip_network((address, draw(st.integers(0, address.max_prefixlen))), strict=False)


ports = st.sampled_from([25, 587])
local_ends = st.one_of(
    st.none(),
    networks().map(str),
    ports.map(lambda port: f"*:{port}"),
    st.tuples(addresses, ports).map(lambda pair: f"[{pair[0]}]:{pair[1]}"),
)


@st.composite
def written_rules(draw: st.DrawFn) -> list[dict[str, object]]:
    pairs = draw(st.lists(st.tuples(networks().map(str), local_ends), max_size=25, unique_by=str))
    return [rule(str(number), network, local) for number, (network, local) in enumerate(pairs)]


def scanned(rules: list[dict[str, object]], link: connection.Link) -> set[str]:
    """Return the rule by its definition: the longest network, then the most specific local end."""
    ranks = {}
    for written in rules:
        network = ipaddress.ip_network(str(written["network"]))
        where = values.local(written["local"]) if "local" in written else values.Local(None, None)
        if ipaddress.ip_address(link.peer.text) not in network:
            continue
        if where.port not in {None, link.local.port}:
            continue
        if where.network is not None and ipaddress.ip_address(link.local.text) not in where.network:
            continue
        ranks[str(written["environment"])] = (
            network.prefixlen,
            -1 if where.network is None else where.network.prefixlen,
            where.port is not None,
        )
    best = max(ranks.values(), default=None)
    return {name for name, rank in ranks.items() if rank == best}


@given(written_rules(), addresses, addresses, ports)
def test_lookup_is_a_scan_over_all_rules(
    rules: list[dict[str, object]], peer: values.IPAddress, local: values.IPAddress, port: int
) -> None:
    link = connection.Link(links.end(str(peer)), links.end(str(local), port))
    try:
        table = build(*rules)
    except DuplicateRuleError:
        return  # 192.0.2.1 and 192.0.2.1/32
    found = table.find(link)
    wanted = scanned(rules, link)

    assert (str({"V": links.named(found)}) in wanted) if found else not wanted


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        ("192.0.2.1", "one"),
        ("192.0.2.2", "net"),
        ("::ffff:192.0.2.1", "one"),
        ("192.0.3.1", "all"),
        ("2001:db8::1", "net6"),
        ("2001:db9::1", "all"),
    ],
)
def test_the_longest_prefix_decides(peer: str, name: str) -> None:
    table = build(
        rule("all", "*"),
        rule("one", "192.0.2.1"),
        rule("net", "192.0.2.0/24"),
        rule("net6", "2001:db8::/32"),
    )

    assert name == links.answer(table, peer)


@pytest.mark.parametrize(
    ("local", "name"),
    [
        ("192.0.2.1:25", "address and port"),
        ("192.0.2.1:26", "address"),
        ("192.0.2.2:25", "network"),
        ("198.51.100.1:25", "port"),
        ("198.51.100.1:26", "any"),
    ],
)
def test_the_most_specific_local_end_decides(local: str, name: str) -> None:
    """As -accesslocal: address and port, address, its networks, port, everything."""
    table = build(
        rule("any", local="0.0.0.0/0"),
        rule("port", local="*:25"),
        rule("network", local="192.0.2.0/24"),
        rule("address", local="192.0.2.1"),
        rule("address and port", local="192.0.2.1:25"),
    )
    host, _, port = local.rpartition(":")

    assert name == links.local_answer(table, host, int(port))
    assert links.answer(table, host) is None


def test_a_port_makes_a_local_end_more_specific() -> None:
    rules = [rule("address", "*", "192.0.2.1"), rule("port", "*", "192.0.2.1:25"), rule("other", "*", "*:25")]
    for order in (rules, rules[::-1]):
        table = build(*order)

        assert [links.answer(table, "10.0.0.1", "192.0.2.1", port) for port in (25, 26)] == [
            "port",
            "address",
        ]


def test_a_rule_for_another_local_end_leaves_the_shorter_network_to_decide() -> None:
    table = build(rule("net", "192.0.2.0/24"), rule("one", "192.0.2.1", "*:587"))

    assert links.answer(table, "192.0.2.1", port=587) == "one"
    assert links.answer(table, "192.0.2.1", port=25) == "net"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (rule("a", "192.0.2.1"), rule("b", "192.0.2.1/32")),
        (rule("a", "*"), rule("b", "0.0.0.0/0")),
        (rule("a", "::ffff:192.0.2.0/120"), rule("b", "192.0.2.0/24")),
        (rule("a", local="*:25"), rule("b", local="*:25")),
        (rule("a", "*", "127.0.0.1:25"), rule("b", "*", "127.0.0.1:25")),
    ],
)
def test_two_rules_for_the_same_are_refused(first: dict[str, object], second: dict[str, object]) -> None:
    with pytest.raises(DuplicateRuleError) as caught:
        build(rule("other", "10.0.0.0/8"), first, second)

    assert caught.value.index == 2


def test_a_known_rule_is_found_for_exactly_its_network_and_local_end() -> None:
    networks_ = Networks()
    here = Ends(own=values.Local(None, 25))
    assert networks_.add((4, 8, 10), Rule("allow"), here)
    assert networks_.get((4, 8, 10)) is None
    assert networks_.add((4, 8, 10), Rule("deny"))

    assert networks_.get((4, 8, 10), here) == Rule("allow")
    assert networks_.get((4, 8, 10)) == Rule("deny")
    assert networks_.get((4, 9, 10)) is None
    assert len(networks_) == 1


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("3", 3), (" 3", 3), ("+3", 3), ("3x", 3), ("007", 7), ("0" * 40 + "9", 9), ("9" * 5000, None),
        ("4294967297", 1), ("0", None), ("-1", None), ("x", None), ("", None), ("٣", None),
    ],
)  # fmt: skip
def test_maxcperip_is_read_as_atoi_reads_it(text: str, limit: int | None) -> None:
    assert limit == access_table.per_ip_override((("MAXCPERIP", text),))
    assert access_table.per_ip_override((("OTHER", text),)) is None


def test_max_per_ip_goes_before_the_variable() -> None:
    rules: dict[str, object] = {"network": "*", "environment": {"MAXCPERIP": "7"}}
    link = connection.Link(links.end(links.ANY), links.end(links.ANY))
    for written, limit in ((rules, 7), ({**rules, "max_per_ip": 3}, 3)):
        found = build(written).find(link)

        assert found is not None
        assert (limit, (("MAXCPERIP", "7"),)) == (found.max_per_ip, found.environment)
