"""That the place of a rule is where the rule is written, in every format."""

import random
from collections.abc import Callable

import pytest
from support import links
from support.courier import berkeleyfiles, gdbmfiles

from tcpdconf.config.model import tables, values
from tcpdconf.policy import connection
from tcpdconf.policy.access import file as access_file
from tcpdconf.policy.access import locate
from tcpdconf.policy.access import table as access_table
from tcpdconf.policy.access.table import Ends, Networks, Rule, Stage

LOCAL = connection.endpoint(4, 0x7F000001, 25)
COURIER = (
    b"# our own\n192.168\tallow,RELAYCLIENT\n192.168.7\tdeny\n\n10.0.0.0/8\tdeny\n*\tallow,A=1\n*.25\tdeny\n"
)
CIDR = b"; from elsewhere\n192.0.2.0/24 ; one\n2001:db8::/32\n192.0.2.0/24\n"
TOML = b"""
[[rules]]
network = "192.0.2.0/24"
action = "deny"

[[rules]]
network = "192.0.2.0/24"
local = "*:25"
action = "allow"

[[rules]]
local = "127.0.0.0/8"
action = "allow"
"""


def link(text: str) -> connection.Link:
    return connection.Link(links.end(text, 40000), LOCAL)


def place(
    files: list[tuple[str, bytes]], settings: dict[str, object], client: str, stage: Stage = "peer"
) -> locate.RulePlace | None:
    source = tables.AccessSource.model_validate({"file": "/file", **settings})
    table = access_file.read(files, source)
    wanted = locate.sought(table, stage, link(client))
    return None if wanted is None else locate.in_files(files, source, wanted)


@pytest.mark.parametrize(
    ("data", "settings", "client", "stage", "expected"),
    [
        (COURIER, {}, "192.168.1.1", "peer", (2, "192.168\tallow,RELAYCLIENT")),
        (COURIER, {}, "192.168.7.1", "peer", (3, "192.168.7\tdeny")),
        (COURIER, {}, "10.9.9.9", "peer", (5, "10.0.0.0/8\tdeny")),
        (COURIER, {}, "2001:db8::1", "peer", (6, "*\tallow,A=1")),
        (COURIER, {"local": True}, "192.0.2.1", "local", (7, "*.25\tdeny")),
        (COURIER, {}, "192.0.2.1", "local", None),
        (CIDR, {"action": "deny"}, "192.0.2.9", "peer", (2, "192.0.2.0/24 ; one")),
        (CIDR, {"action": "deny"}, "2001:db8::1", "peer", (3, "2001:db8::/32")),
        (CIDR, {"action": "deny"}, "203.0.113.1", "peer", None),
        (TOML, {}, "192.0.2.9", "peer", (6, "[[rules]]")),
        (TOML, {}, "192.0.2.9", "local", (11, "[[rules]]")),
    ],
)
def test_a_rule_stands_where_it_was_written(
    data: bytes,
    settings: dict[str, object],
    client: str,
    stage: Stage,
    expected: tuple[int, str] | None,
) -> None:
    wanted = None if expected is None else locate.RulePlace("/file", *expected)
    assert place([("/file", data)], settings, client, stage) == wanted


def test_of_several_files_the_one_that_has_it() -> None:
    files = [("/d/a", b"192.0.2\tallow\n"), ("/d/b", b"\n203.0.113\tdeny\n")]
    assert place(files, {}, "203.0.113.7") == locate.RulePlace("/d/b", 2, "203.0.113\tdeny")


@pytest.mark.parametrize(
    "write", [gdbmfiles.write, pytest.param(berkeleyfiles.write, marks=pytest.mark.peer)], ids=["gdbm", "db"]
)
def test_a_record_of_a_database_is_its_key(write: Callable[[dict[bytes, bytes]], bytearray]) -> None:
    records = {b"192.168": b"allow,RELAYCLIENT", b"192.168.7": b"deny", b"*": b"allow"}
    data = bytes(write(records))
    assert place([("/db", data)], {}, "192.168.7.5") == locate.RulePlace("/db", 0, "192.168.7")


def test_the_network_is_that_of_the_rule_that_is_found() -> None:
    """`where` and `find` agree over random tables."""
    chosen = random.Random(3)  # noqa: S311 (the same tables in every run)
    for _ in range(200):
        networks = Networks()
        rules = {}
        for number in range(chosen.randrange(1, 12)):
            length = chosen.choice([0, 1, 8, 24, 31, 32])
            prefix = (4, length, chosen.choice([0, 0xC0000201, 0xC0A80001]) >> 32 - length)
            ends = chosen.choice([access_table.ANY, Ends(own=values.Local(None, 25))])
            rule = Rule("allow", (("N", str(number)),))
            if networks.add(prefix, rule, ends):
                rules[prefix, ends] = rule
        seen = link(chosen.choice(["192.0.2.1", "192.168.0.1", "192.168.0.0", "10.0.0.1"]))
        found = networks.where(seen.peer, seen)
        assert networks.find(seen.peer, seen) is (None if found is None else rules[found])
