import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import links

from tcpdconf.config.courier import prefixes
from tcpdconf.config.courier import records as courier_records
from tcpdconf.policy.access import cidr
from tcpdconf.policy.access import courier as courier_access
from tcpdconf.policy.access.courier import Records
from tcpdconf.policy.access.table import AccessTable, Rule

Variables = dict[str, str]


@pytest.mark.parametrize(
    ("value", "variables"),
    [
        # each as couriertcpd was seen to do it
        (b"allow", {}),
        (b"allow,A=1", {"A": "1"}),
        (b"allow,RELAYCLIENT", {"RELAYCLIENT": ""}),
        (b"allow,RELAYCLIENT,SIZELIMIT=1000000", {"RELAYCLIENT": "", "SIZELIMIT": "1000000"}),
        (b"allow,A=1=2=", {"A": "1=2="}),
        (b"allow,A==1", {"A": "=1"}),
        (b"allow, A=1 ,  B=2  ,C", {"A": "1", "B": "2", "C": ""}),
        (b"allow,A=1\r", {"A": "1"}),
        (b"allow,\tA=1\x0b\x0c", {"A": "1"}),
        (b"allow,A=\t1\t,B", {"A": "\t1", "B": ""}),
        (b"allow,A = 1", {"A ": " 1"}),
        (b"allow,A ,B\t", {"A ": "", "B\t": ""}),
        (b"allow,A=1,B\r", {"A": "1", "B\r": ""}),
        (b"allow, ,B", {"B": ""}),
        (b'allow,A="x,y",B=2', {"A": "x,y", "B": "2"}),
        (b"allow,A='x,y',B=2", {"A": "x,y", "B": "2"}),
        (b'allow,"A=x,y",B=2', {"A": "x,y", "B": "2"}),
        (b'allow,A="x,y,B=2', {"A": "x,y,B=2"}),
        (b'allow,A=" x ",B=2', {"A": " x", "B": "2"}),
        (b'allow,A="it\'s",B=2', {"A": "it's", "B": "2"}),
        (b"allow,A='say \"x\"',B", {"A": 'say "x"', "B": ""}),
        (b"allow,A='''x,y", {"A": "x,y"}),
        (b'allow,A=\\"x', {"A": "\\x"}),
        (b'allow,B=x=",",C', {"B": "x=,", "C": ""}),
        (b'allow,"A,B"=1', {"A,B": "1"}),
        (b"allow,A=1,", {"A": "1"}),
        (b"allow,A=1,,B=2", {"A": "1", "B": "2"}),
        (b"allow,=x,B=1", {"B": "1"}),
        (b"allow,A=1,B=2,A=3", {"A": "3", "B": "2"}),
        (b"allow,A=1#c", {"A": "1#c"}),
        (b"allowFOO=1", {"FOO": "1"}),
        (b"allow FOO=1", {"FOO": "1"}),
        (b"allow;A=1", {";A": "1"}),
        (b"allowallow,A", {"allow": "", "A": ""}),
        (b"FOO=bar,BAZ", {"FOO": "bar", "BAZ": ""}),
        (b"foo", {"foo": ""}),
        (b"1", {"1": ""}),
        (b"", {}),
        (b"DENY", {"DENY": ""}),
        (b" deny", {"deny": ""}),
        (b"\tdeny", {"deny": ""}),
        (b'"deny"', {"deny": ""}),
        (b"allow,deny", {"deny": ""}),
        (b"allow,A=\xc3\xa9", {"A": "é"}),
        (b"allow,A=" + b"x" * 3000, {"A": "x" * 3000}),
    ],
)
def test_values_that_allow(value: bytes, variables: Variables) -> None:
    found = courier_access.rule(value)

    assert (variables, "allow") == (dict(found.environment), found.action)


@pytest.mark.parametrize("value", [b"deny", b"denyx", b"deny,A=1", b"deny \r", b"deny\0"])
def test_values_that_deny(value: bytes) -> None:
    assert courier_access.rule(value) == Rule("deny")


@pytest.mark.parametrize(
    ("value", "limit"), [(b"allow,MAXCPERIP=100", 100), (b"allow,MAXCPERIP=0", None), (b"allow", None)]
)
def test_maxcperip_is_a_limit_and_stays_a_variable(value: bytes, limit: int | None) -> None:
    found = courier_access.rule(value)

    assert limit == found.max_per_ip
    assert ("MAXCPERIP" in dict(found.environment)) == (b"MAXCPERIP" in value)


@pytest.mark.parametrize("value", [b"allow,A=\0", b"allow,A\0B", b"allow,A=1\nB", b"A\n=1"])
def test_no_line_end_and_no_nul_becomes_a_variable(value: bytes) -> None:
    with pytest.raises(ValueError, match="has a line end or a NUL in it"):
        courier_access.rule(value)


@given(st.binary().filter(lambda text: not set(text) & set(b"\0\n\"',=\t\r\x0b\x0c ")))
def test_a_program_gets_the_bytes_of_the_file(text: bytes) -> None:
    found = dict(courier_access.rule(b"allow,A=" + text).environment)

    assert os.fsencode(found["A"]) == text


@pytest.mark.parametrize(
    ("written", "prefix"),
    [
        (b"10", (4, 8, 10)),
        (b"192.168", (4, 16, 0xC0A8)),
        (b"192.0.2", (4, 24, 0xC00002)),
        (b"192.0.2.255", (4, 32, 0xC00002FF)),
        (b"0", (4, 8, 0)),
        (b":2001", (6, 16, 0x2001)),
        (b":2001:0db8", (6, 32, 0x20010DB8)),
        (b":0000:0000:0000:0000:0000:0000:0000:0001", (6, 128, 1)),
        (b":0000:0000:0000:0000:0000:ffff:7f00:0005", (6, 128, 0xFFFF7F000005)),
    ],
)
def test_keys(written: bytes, prefix: prefixes.Prefix) -> None:
    assert courier_records.key(written) == courier_records.RecordKey((prefix,))


@pytest.mark.parametrize(
    ("written", "prefixes", "port"),
    [
        (b"*", ((4, 0, 0), (6, 0, 0)), None),
        (b"*.25", ((4, 0, 0), (6, 0, 0)), 25),
        (b"1.2.3.4.25", ((4, 32, 0x01020304),), 25),
        (b":2001:0db8:0000:0000:0000:0000:0000:0001.65535", ((6, 128, 0x20010DB8 << 96 | 1),), 65535),
    ],
)
def test_keys_of_all_and_of_local_ends(
    written: bytes, prefixes: tuple[prefixes.Prefix, ...], port: int | None
) -> None:
    assert courier_records.key(written) == courier_records.RecordKey(prefixes, port)


DEAD = [
    b"", b" 10", b"10 ", b"10.", b".10", b"10..1", b"010", b"256", b"1.2.3.256", b"1.2.3.4.", b"1.2.3.4.0",
    b"1.2.3.4.025", b"1.2.3.4.65536", b"1.2.3.4.25.25", b"*.", b"*.*", b"**", b"::1", b":2001:db8",
    b":2001:0DB8", b"2001:0db8", b":2001:0db8:", b":2001:0db8.25",
    b":0000:0000:0000:0000:0000:0000:0000:0000:0001", b"10\r", b"1.2.3.0/24", b"10 allow",
    b"\xff", b"\xd9\xa3", b"10\n",
]  # fmt: skip


@pytest.mark.parametrize("written", DEAD)
def test_keys_that_couriertcpd_never_looks_up(written: bytes) -> None:
    assert courier_records.key(written) is None


def table(text: bytes, *, local: bool = False) -> AccessTable:
    records = Records(local=local)
    courier_access.read(text, records)
    return records.table


def test_a_file_as_debian_ships_it() -> None:
    found = table(
        b"# Default access policies for courieresmtpd\n#\n\n"
        b"127.0.0.1\tallow,RELAYCLIENT\n"
        b":0000:0000:0000:0000:0000:0000:0000:0001\tallow,RELAYCLIENT\n\n"
        b"10\tallow,RELAYCLIENT\n  # and\n192.168\tallow,RELAYCLIENT\r\n\t\r\n"
        b"# 192.168.5\tdeny\n"
        b"*\tdeny"
    )

    assert [links.answer(found, peer) for peer in ("127.0.0.1", "::1", "10.9.9.9", "192.168.5.1")] == [
        "allow"
    ] * 4
    assert [links.answer(found, peer) for peer in ("127.0.0.2", "::2", "11.0.0.0")] == ["deny"] * 3
    assert not found.dead


@pytest.mark.parametrize(
    ("text", "peer", "name"),
    [
        (b"127.0.0\tdeny\n127.0.0.5\tallow,V=a\n", "127.0.0.5", "a"),
        (b"127.0.0.5\tallow,V=a\n127.0.0\tdeny\n", "127.0.0.6", "deny"),
        (b"127.0.5\tdeny\n", "127.0.0.5", None),
        (b"*\tallow,V=all\n127.0.0.6\tallow,V=own\n", "127.0.0.5", "all"),
        (b":0000\tallow,V=word\n*\tdeny\n", "::1", "word"),
        (b":0000:0000:0000\tdeny\n", "127.0.0.5", None),
        (b":0000:0000:0000:0000:0000:ffff:7f00:0005\tdeny\n", "127.0.0.5", None),
        (b"::ffff:127.0.0.0/104\tdeny\n", "127.0.0.5", None),
        (b"127.4.4.16/28\tdeny\n", "127.4.4.31", "deny"),
        (b"127.4.4.16/28\tdeny\n", "127.4.4.32", None),
        (b"127.4.4.16/28 \tdeny\n", "127.4.4.31", "deny"),
        (b"127.4.4.16/28   allow,V=a b\n", "127.4.4.31", "a b"),
        (b"127.4.4.3-127.4.4.5\tdeny\n", "127.4.4.5", "deny"),
        (b"127.4.4.3-127.4.4.5\tdeny\n", "127.4.4.6", None),
        (b"::/16\tallow,V=6\n*\tdeny\n", "::1", "6"),
        (b"2001:db8::/33\tdeny\n", "2001:db8:7fff::", "deny"),
        (b"2001:db8::/33\tdeny\n", "2001:db8:8000::", None),
        (b"*\tdeny\n0.0.0.0/0\tallow,V=4\n", "192.0.2.1", "4"),
        (b"*\tdeny\n0.0.0.0/0\tallow,V=4\n", "2001:db8::1", "deny"),
        (b"10.0.0.0/9\tdeny\n10.1\tallow,V=more\n", "10.1.0.0", "more"),
        (b"192.168.0.0/22\tdeny\n192.168.1\tallow,V=more\n", "192.168.1.1", "more"),
        (b"10\tallow,V=x\n10\tallow,V=x\n10/8 allow,V=x,", "10.0.0.1", "x"),
        (b"10\t\n", "10.0.0.1", "allow"),
        (b"1.2.3.4.25\tdeny\n*.25\tdeny\n", "1.2.3.4", None),
    ],
)
def test_lines_and_answers(text: bytes, peer: str, name: str | None) -> None:
    assert name == links.answer(table(text), peer)


@pytest.mark.parametrize("text", [b"10\t\n", b"10/8\t\n"])
def test_no_value_is_the_value_that_makedat_stores_for_it(text: bytes) -> None:
    records = Records(local=False)
    courier_access.read(text, records)

    assert records.table.peers.get((4, 8, 10)) == courier_access.rule(b"1")


LOCAL = (
    b"127.0.0.1.25\tallow,V=address and port\n127.0.0.1\tallow,V=address\n127.0.0\tallow,V=network\n"
    b"*.25\tallow,V=port\n*\tallow,V=any\n"
    b":2001:0db8:0000:0000:0000:0000:0000:0001.25\tallow,V=address and port\n:2001:0db8\tallow,V=network\n"
)


@pytest.mark.parametrize(
    ("local", "port", "name"),
    [
        ("127.0.0.1", 25, "address and port"),
        ("127.0.0.1", 26, "address"),
        ("127.0.0.2", 25, "network"),
        ("127.9.0.2", 25, "port"),
        ("127.9.0.2", 26, "any"),
        ("2001:db8::1", 25, "address and port"),
        ("2001:db8::1", 26, "network"),
        ("2001:db9::1", 25, "port"),
        ("2001:db9::1", 26, "any"),
    ],
)
def test_records_serve_the_local_end_as_well_where_that_is_wanted(local: str, port: int, name: str) -> None:
    assert name == links.local_answer(table(LOCAL, local=True), local, port)
    assert links.local_answer(table(LOCAL), local, port) is None


@pytest.mark.parametrize("local", [True, False])
def test_the_client_is_looked_up_without_a_port(*, local: bool) -> None:
    found = table(LOCAL, local=local)

    assert [links.answer(found, peer) for peer in ("127.0.0.1", "127.9.0.2", "2001:db8::1")] == [
        "address", "any", "network"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"0.0.0.0 allow,RELAYCLIENT", "there must be a TAB between the network and its value"),
        (b"192.168       allow", "there must be a TAB between the network and its value"),
        (b"192.168.0.1", "there must be a TAB between the network and its value"),
        (b"192.168.0.0/24", "there must be a TAB between the network and its value"),
        (b".", "there must be a TAB between the network and its value"),
        (b"192.168\t\tdeny", "there must be exactly one TAB between the network and its value"),
        (b" 10\tdeny", '" 10" is not a network; did you mean "10"?'),
        (b"10 \tdeny", '"10 " is not a network; did you mean "10"?'),
        (b":2001:0DB8\tdeny", '":2001:0DB8" is not a network; did you mean ":2001:0db8"?'),
        (
            b"2a01:270:908f::1\tallow",
            '"2a01:270:908f::1" is not a network; did you mean ":2a01:0270:908f:0000:0000:0000:0000:0001"?',
        ),
        (
            b":2a01:270:908f::1\tallow",
            '":2a01:270:908f::1" is not a network; did you mean ":2a01:0270:908f:0000:0000:0000:0000:0001"?',
        ),
        (b"\tdeny", '"" is not a network'),
        (b"example.com\tdeny", '"example.com" is not a network'),
        (b"\xff\0\tdeny", '"\\xff\\u0000" is not a network'),
        (b"1.2.3.4/33\tdeny", '"1.2.3.4/33" is neither a network nor a range of addresses'),
        (b"1.2.3.5-1.2.3.4\tdeny", '"1.2.3.5-1.2.3.4" is neither a network nor a range of addresses'),
        (b"10\tallow,A=\0", 'the variable "A" has a line end or a NUL in it'),
        (b"127/8\tallow", "another rule for the same network, with a different value, stands before it"),
        (b"*\tallow", "another rule for the same network, with a different value, stands before it"),
        (b"*.25\tallow", "another rule for the same network, with a different value, stands before it"),
    ],
)
def test_what_is_no_rule_is_an_error_of_its_line(line: bytes, text: str) -> None:
    before = b"# comment\n127\tdeny\n*\tdeny\n*.25\tdeny\n\n"
    with pytest.raises(cidr.CidrLineError) as caught:
        table(before + line + b"\n10\tdeny\n", local=True)

    assert (6, text) == (caught.value.line, str(caught.value))


@pytest.mark.parametrize("written", [key for key in DEAD if b"\n" not in key and key[-4:] != b"0/24"])
def test_a_key_that_nobody_looks_up_is_an_error_in_text(written: bytes) -> None:
    with pytest.raises(cidr.CidrLineError):
        table(written + b"\tdeny\n")


lines = st.lists(
    st.one_of(
        st.binary(max_size=20),
        st.tuples(
            st.sampled_from([b"10", b"10.1", b":2001:0db8", b"*", b"10/9", b"::/3", b"1.2.3.4.25", b"::1"]),
            st.sampled_from([b"\t", b" ", b"\t\t"]),
            st.sampled_from([b"deny", b"allow", b"allow,A='", b"\xff", b""]),
        ).map(b"".join),
    ),
    max_size=8,
)


@given(lines, st.booleans())
def test_any_text_is_a_table_or_an_error_of_a_line(text: list[bytes], local: bool) -> None:
    data = b"\n".join(text)
    try:
        table(data, local=local)
    except cidr.CidrLineError as error:
        assert 1 <= error.line <= data.count(b"\n") + 1  # noqa: PT017 (no error is as good)


@given(
    st.lists(st.sampled_from([b"10", b"10.1", b"*", b"10/9", b"::/3", b"1.2.3.4.25"]), unique=True),
    st.lists(st.sampled_from([b"# c", b"", b" ", b"\t#", b"\r"])),
    st.randoms(),
)
def test_order_comments_and_blank_lines_do_not_matter(
    keys: list[bytes], noise: list[bytes], order: random.Random
) -> None:
    text = [key + b"\tallow,V=" + key for key in keys]
    mixed = [*text, *noise]
    order.shuffle(mixed)
    one, other = (table(b"\n".join(part), local=True) for part in (text, mixed))
    for peer in ("10.0.0.1", "10.1.0.1", "10.128.0.0", "1.2.3.4", "::1", "ff00::"):
        assert links.answer(one, peer) == links.answer(other, peer)
        assert links.local_answer(one, peer) == links.local_answer(other, peer)
