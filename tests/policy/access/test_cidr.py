import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import links

from tcpdconf.config.courier import prefixes
from tcpdconf.policy.access import cidr
from tcpdconf.policy.access.table import AccessTable, Rule


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (b"192.168.0.0/22", [(4, 22, 0xC0A800 >> 2)]),
        (b"23.83.208.1/20", [(4, 20, 0x1753D0 >> 4)]),
        (b"1.2.3.4/32", [(4, 32, 0x01020304)]),
        (b"10/8", [(4, 8, 10)]),
        (b"10.1/12", [(4, 12, 0x0A0)]),
        (b"10/24", [(4, 24, 0x0A0000)]),
        (b"127.4.4.3-127.4.4.5", [(4, 32, 0x7F040403), (4, 31, 0x7F040404 >> 1)]),
        (b"1.2.3.0-1.2.3.255", [(4, 24, 0x010203)]),
        (b"1.2-1.3", [(4, 15, 0x0102 >> 1)]),
        (b"1.2.3.4-1.2.3.4", [(4, 32, 0x01020304)]),
        (b"0.0.0.0/0", [(4, 1, 0), (4, 1, 1)]),
        (b"0.0.0.0-255.255.255.255", [(4, 1, 0), (4, 1, 1)]),
        (b"2001:db8::/32", [(6, 32, 0x20010DB8)]),
        (b"2001:DB8::1/33", [(6, 33, 0x20010DB8 << 1)]),
        (b"::/0", [(6, 1, 0), (6, 1, 1)]),
        (b"::1.2.3.4/128", [(6, 128, 0x01020304)]),
        (b"::ffff:1.2.3.0/120", [(6, 120, 0xFFFF010203)]),
        (b"2001:db8::-2001:db8::5", [(6, 126, 0x20010DB8 << 94), (6, 127, 0x20010DB8 << 95 | 2)]),
    ],
)
def test_cidr_notation_and_ranges(written: bytes, expected: list[prefixes.Prefix]) -> None:
    assert expected == list(prefixes.networks(written))


@pytest.mark.parametrize(
    "written",
    [
        b"1.2.3.4/33", b"1.2.3.4/08", b"1.2.3.4/", b"1.2.3.4/255.255.255.0", b"1.2.3.256/32", b"01.2.3.4/32",
        b"1.2.3.4.5/32", b"1.2.3.5-1.2.3.4", b"1.2-1.2.3", b"1.2.3.4-::5", b"2001:db8::/129", b"2001:db8:/32",
        b"1::2::3/64", b"12345::/16", b".../3", b":/3", b"abcd/16", b"1.2.3.4/24-1.2.3.5",
        b"2001:db8-2001:db9", b"1.2.3.4/9999999999999999999", b"",
    ],
)  # fmt: skip
def test_what_is_neither_network_nor_range(written: bytes) -> None:
    with pytest.raises(ValueError, match="is neither a network nor a range of addresses"):
        prefixes.networks(written)


numbers = st.one_of(
    st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address),
    st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address),
)


@given(numbers, st.data())
def test_a_range_holds_its_addresses_and_no_others(
    first: ipaddress.IPv4Address | ipaddress.IPv6Address, data: st.DataObject
) -> None:
    bits = first.max_prefixlen
    last = type(first)(data.draw(st.integers(int(first), min(int(first) + 2**70, 2**bits - 1))))
    position = int(first)
    for version, length, prefix in prefixes.networks(f"{first}-{last}".encode()):
        assert (first.version, position) == (version, prefix << bits - length)
        position += 1 << bits - length

    assert int(last) + 1 == position


def read(text: bytes) -> AccessTable:
    table = AccessTable()
    cidr.read(text, Rule("deny"), table.peers)
    return table


def test_a_list_as_it_is_published() -> None:
    table = read(
        b"# a list\n; Last-Modified: today\n\n"
        b"192.0.2.0/24 ; SBL1\n198.51.100.0/24\t# other\n203.0.113.7\r\n  2001:db8::/32\n"
        b"2001:DB9::1 ;x\n::ffff:10.0.0.0/104\n192.0.2.0/24\n172.16.0.0/12#no blank\n203.0.113.8"
    )
    listed = (
        "192.0.2.9",
        "198.51.100.1",
        "203.0.113.7",
        "203.0.113.8",
        "2001:db8::9",
        "2001:db9::1",
        "10.9.9.9",
    )

    assert [links.answer(table, peer) for peer in listed] == ["deny"] * len(listed)
    assert [links.answer(table, peer) for peer in ("192.0.3.1", "203.0.113.9", "2001:db9::2")] == [None] * 3
    assert len(table.peers) == 8


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (
            b"192.0.2.7/24",
            '"192.0.2.7/24" has bits set after its prefix; did you mean "192.0.2.0/24"?',
        ),
        (
            b"2001:db8::1/32",
            '"2001:db8::1/32" has bits set after its prefix; did you mean "2001:db8::/32"?',
        ),
        (b"*", 'a CIDR list cannot have "*"; 0.0.0.0/0 and ::/0 are all addresses'),
        *[
            (line, "must be an address or network such as")
            for line in (
                b"192.0.2.0/24 deny", b"192.0.2.0/24\tdeny", b"192.0.2", b"192.0.2.0/", b"192.0.2.0/33",
                b"10/8", b"192.0.2.256", b"192.0.02.0/24", b"192.0.2.1-192.0.2.9", b"example.com",
                b"192.0.2.0/24/24", b"/24", b"\xff", b"192.0.2.0\0",
            )
        ],
    ],
)  # fmt: skip
def test_what_is_no_network_is_an_error_of_its_line(line: bytes, text: str) -> None:
    for before in (b"# one\n\n", b"10.0.0.0/24\n10.0.0.0/8\n"):  # lengths that have come before, and not
        with pytest.raises(cidr.CidrLineError) as caught:
            read(before + line + b"\n10.0.0.0/8")

        assert (caught.value.line, str(caught.value)[: len(text)]) == (3, text)


def test_the_length_of_a_mapped_network_is_none_of_ipv4() -> None:
    with pytest.raises(cidr.CidrLineError, match="must be an address"):
        read(b"::ffff:10.0.0.0/104\n10.0.0.0/104\n")


nets = st.tuples(numbers, st.integers(0, 128)).map(
    lambda pair: ipaddress.ip_network((pair[0], min(pair[1], pair[0].max_prefixlen)), strict=False)
)


@given(st.lists(nets, max_size=30), st.lists(numbers, max_size=5))
def test_a_list_is_a_scan_over_its_networks(
    networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network],
    others: list[ipaddress.IPv4Address | ipaddress.IPv6Address],
) -> None:
    table = read("\n".join(str(network) for network in networks).encode())
    for peer in [*others, *(network.network_address for network in networks)]:
        wanted = any(peer in network for network in networks)

        assert (links.answer(table, str(peer)) == "deny") == wanted


@given(st.lists(st.one_of(st.binary(max_size=20), nets.map(lambda network: str(network).encode()))))
def test_any_text_is_a_list_or_an_error_of_a_line(lines: list[bytes]) -> None:
    try:
        read(b"\n".join(lines))
    except cidr.CidrLineError as error:
        assert error.line >= 1  # noqa: PT017 (no error is as good)
