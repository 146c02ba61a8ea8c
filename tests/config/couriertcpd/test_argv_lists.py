"""Tests the translations of -haproxy, -block and -allow, and their safer meanings."""

from typing import Any

import pytest
from support.courier import commandlines

from tcpdconf.config.couriertcpd import parse

ANY = {"trusted": "any", "versions": ["v1"]}
BOTH = {"local_addresses": ["127.0.0.1", "::1"]}


@pytest.mark.parametrize(
    ("option", "ports", "found"),
    [
        ("-haproxy", "25,26", [ANY, ANY]),
        ("-haproxy=", "25", [ANY]),
        ("-haproxy=/", "25", [ANY]),
        ("-haproxy=abc", "25", [ANY]),
        ("-haproxy=-3", "25", [ANY]),
        ("-haproxy=5", "25", [{**ANY, "timeout": 5.0}]),
        ("-haproxy=2/foo=bar", "25", [{**ANY, "timeout": 2.0}]),
        ("-haproxy=1,9", "25", [{**ANY, "timeout": 9.0}]),
        ("-haproxy=/port=25", "25,26", [ANY, None]),
        ("-haproxy=/port=25/port=26", "25,26", [ANY, None]),
        ("-haproxy=/port=smtp", "25,26", [ANY, ANY]),
        ("-haproxy=/port=9", "25", [None]),
        ("-haproxy=1/port=25,4/port=26", "25,26", [{**ANY, "timeout": 1.0}, {**ANY, "timeout": 4.0}]),
        ("-haproxy=9,4/port=26", "25,26", [{**ANY, "timeout": 9.0}, {**ANY, "timeout": 4.0}]),
        ("-haproxy=/port=0.25", "25", [ANY]),
        ("-haproxy=/port=0.0.0.0.25", "25,::1.26", [ANY, None]),
        ("-haproxy=/port=::.26", "25,::1.26", [None, ANY]),
        ("-haproxy=/port=127.1.25", "127.0.0.1.25,127.0.0.2.25", [ANY, None]),
        ("-haproxy=/port=127.1.25", "25", [{**ANY, "local_addresses": ["127.0.0.1"]}]),
        ("-haproxy=/port=::1.25", "0.0.0.0.25", [None]),
        ("-haproxy=/port=127.1.25,/port=::1.25", "25", [ANY | BOTH]),
        ("-haproxy=3/port=127.1.25,8/port=::1.25", "25", [{**ANY, **BOTH, "timeout": 8.0}]),
        ("-haproxy=3/port=127.1.25,8", "25", [{**ANY, "timeout": 8.0}]),
    ],
)  # fmt: skip
def test_the_listeners_of_haproxy(option: str, ports: str, found: list[Any]) -> None:
    assert [table.get("haproxy") for table in commandlines.listeners(ports, option)] == found


ZONE = {"zone": "bl.test"}
SHOWN = {**ZONE, "display_zone": "shown", "message": "Blacklisted by bl.test"}


@pytest.mark.parametrize(
    ("option", "found"),
    [
        ("-block=bl.test", ZONE),
        ("-block=bl.test.", {"zone": "bl.test."}),
        ("-block=bl.test=shown,MYVAR", {**SHOWN, "variable": "MYVAR"}),
        ("-block=bl.test,MYVAR,", {**ZONE, "variable": "MYVAR"}),
        ("-block=bl.test=a=b/127.0.0.2,", {**SHOWN, "display_zone": "b", "match": ["127.0.0.2"]}),
        ("-block=bl.test/127.2", {**ZONE, "match": ["127.0.0.2"]}),
        ("-block=bl.test,MYVAR/127.0.0.2", {**ZONE, "variable": "MYVAR", "match": ["127.0.0.2"]}),
        ("-block=bl.test/127.0.0.2,MYVAR", {**ZONE, "match": ["127.0.0.2"], "message": "MYVAR"}),
        ("-block=bl.test/0.0.0.0", ZONE),
        ("-block=bl.test,BLOCK,Go, see http://x.test/?ip=@", {**ZONE, "message": "Go, see http://x.test/?ip=@"}),
        ("-block=bl.test,BLOCK,two\nlines", {**ZONE, "message": "two lines"}),
        ("-block=bl.test,BLOCK,*", {**ZONE, "txt": True, "message": "*"}),
        ("-block=bl.test,BLOCK/127.0.0.2,*", {**ZONE, "match": ["127.0.0.2"], "message": "*"}),
        ("-allow=bl.test=shown", {**ZONE, "action": "allow", "display_zone": "shown"}),
        ("-allow=bl.test,BLOCK,", {**ZONE, "action": "allow", "txt": True}),
        ("-allow=bl.test/127.0.0.3,x", {**ZONE, "action": "allow", "match": ["127.0.0.3"], "txt": True}),
    ],
)  # fmt: skip
def test_dns_lists(option: str, found: dict[str, Any]) -> None:
    assert commandlines.service(option)["dns_lists"] == [{**found, "answers": "any", "probe": False}]


@pytest.mark.parametrize(
    "option",
    ["-block", "-block=,X", "-block=a..b", f"-block={'a' * 64}.test", "-block=bl.t,a-b", "-block=b.t,,x",
     "-block=bl.test/", "-allow=bl.test/127.0.0.256", "-block=bl.test/0x7f.1"],
)  # fmt: skip
def test_a_list_that_never_answers_is_left_out(option: str) -> None:
    assert "dns_lists" not in commandlines.service(option)
    assert ("ignored", option) in commandlines.kinds(option)


def test_without_exact_the_service_is_the_safe_one_and_says_so() -> None:
    lists = ["-block=bl.test,BLOCK,*", "-block=b4.test=shown", "-block=b3.test/127.0.0.2,*"]
    unchanged = ["-block=b2.test/192.0.2.1", "-access=/a"]
    changed = [*lists, "-maxperc=5", "-denymsg=no", "-haproxy=/port=25", "-stderr=/log"]
    found = parse.parse([*changed, *unchanged, *commandlines.PROGRAM], exact=False)
    assert found.service is not None
    table = found.service.model_dump(mode="json", by_alias=True, exclude_defaults=True)

    assert table["dns_lists"] == [
        {"zone": "bl.test", "txt": True},
        {"zone": "b4.test", "display_zone": "shown"},
        {"zone": "b3.test", "match": ["127.0.0.2"], "txt": True},
        {"zone": "b2.test", "match": ["192.0.2.1"], "answers": "any"},
    ]
    assert table["limits"] == {"max_per_ip": 4, "max_per_network": 5}
    assert (table["access"], table["deny_message"]) == ([{"file": "/a"}], "no")
    assert table["listeners"] == [{"port": 25, "haproxy": {"trusted": "any"}}]
    assert {note.what for note in found.notes if note.kind == "changed"} == {*changed, "environment"}
