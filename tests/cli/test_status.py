import os
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpdconf.cli import columns
from tcpdconf.cli import status as status_page
from tcpdconf.config import printable

NOW = 1_700_000_000.0  # 2023-11-14, 22:13:20 UTC
PAUSED = {"state": "paused", "why": "no name server answers", "asked": 9, "timeout": 2, "unreachable": 3}
ERROR = {"file": "/etc/tcpdconf/conf.d/a.toml", "line": 0, "key": "", "message": "no", "severity": "error"}
UP = {"state": "up", "why": "", "asked": 7, "timeout": 0, "unreachable": 0}


@pytest.fixture(autouse=True)
def utc() -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = "UTC"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


def service(**other: object) -> dict[str, Any]:
    refused = dict.fromkeys(
        ("banned", "access", "per_ip", "per_network", "rate", "dropped", "proxy", "spawn"), 0
    )
    return {
        "pid": 2, "connections": 0, "max_connections": 40, "accepted": 0, "refused": refused,
        "listeners": ["*:25"], "dns_lists": {}, **other,
    }  # fmt: skip


def answer(**other: object) -> dict[str, Any]:
    return {
        "pid": 1,
        "version": "1.2",
        "config": {"dir": "/etc/tcpdconf/conf.d", "hash": "0", "loaded_at": NOW - 200},
        "last_reload": None,
        "services": {"smtp": service()},
        **other,
    }


def test_the_page() -> None:
    problem = {
        "file": "c/a.toml",
        "line": 3,
        "key": "services.a.user",
        "message": "there is no user \x1b[31m",
        "severity": "error",
    }
    warning = {**problem, "message": "not shown", "severity": "warning"}
    lists = {"dnsbl.example": {"state": "up", "asked": 12, "listed": 3}}
    refused = {**service()["refused"], "access": 3, "per_ip": 20}
    page = status_page.status(
        answer(
            last_reload={"ok": False, "at": NOW - 90_000, "changed": [], "problems": [warning, problem]},
            services={
                "smtp": service(connections=13, accepted=10_000, refused=refused, dns_lists=lists),
                "imap": service(pid=None, max_connections=300, listeners=["*:143", "*:220"], names=PAUSED),
                "pop3": service(listeners=["*:110"], names=UP),
            },
            connections_by_address=[{"address": "192.0.2.1", "connections": 12}],
            refused_by_address=[{"address": "2001:db8::1", "refused": 23}],
            started_at=NOW - 90_061,
        ),
        NOW,
    )

    assert page == (
        "RELOAD REJECTED 2023-11-13 21:13:20 (1 d 1 h ago): previous configuration in effect\n"
        "  c/a.toml:3: services.a.user: there is no user \ufffd[31m\n"
        "\n"
        "tcpdconf       1.2, pid 1, up 1 d 1 h\n"
        "configuration  /etc/tcpdconf/conf.d, loaded 22:10:00 (3 min 20 s ago)\n"
        "\n"
        "SERVICE  SLOTS                                    ACCEPTED  REFUSED  LISTENERS\n"
        "smtp     [######..............] 13/40             10000     23       *:25\n"
        "imap     [....................] 0/300, no worker  0         0        *:143, *:220\n"
        "pop3     [....................] 0/40              0         0        *:110\n"
        "\n"
        "REFUSED  REASONS\n"
        "smtp     access 3, per_ip 20\n"
        "\n"
        "LIST           SERVICE  STATE  ASKED  LISTED\n"
        "dnsbl.example  smtp     up     12     3\n"
        "\n"
        "NAMES  STATE   ASKED  UNANSWERED  WHY\n"
        "imap   paused  9      5           no name server answers\n"
        "pop3   up      7      0           -\n"
        "\n"
        "MOST REFUSED IN TEN MINUTES  REFUSALS\n"
        "2001:db8::1                  23\n"
        "\n"
        "BUSIEST ADDRESSES  CONNECTIONS\n"
        "192.0.2.1          12\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("reload", "line"),
    [
        ({"ok": True, "at": NOW, "changed": ["a", "b"], "problems": []}, "22:13:20 (0 s ago): a, b changed"),
        ({"ok": True, "at": NOW, "changed": [], "problems": []}, "22:13:20 (0 s ago): nothing changed"),
    ],
)
def test_reloads(reload: dict[str, Any], line: str) -> None:
    counted = {"succeeded": 1, "rejected": 1}
    shown = status_page.status(answer(last_reload=reload, reloads=counted), NOW)
    assert f"\nlast reload    {line}\n" in shown


def test_the_start_is_no_reload_for_people() -> None:
    start = {"ok": True, "at": NOW, "changed": ["a", "b"], "problems": []}
    shown = status_page.status(answer(last_reload=start, reloads={"succeeded": 1, "rejected": 0}), NOW)
    assert "\nlast reload    none since the start\n" in shown


@pytest.mark.parametrize(
    ("used", "of", "shown"),
    [(0, 40, 0), (1, 1000, 1), (39, 40, 19), (999, 1000, 19), (40, 40, 20), (50, 40, 20), (1, 1, 20)],
)  # fmt: skip
def test_bars(used: int, of: int, shown: int) -> None:
    assert status_page.bar(used, of) == "[" + "#" * shown + "." * (20 - shown) + "]"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-1, "0 s"), (0, "0 s"), (7.9, "7 s"), (60, "1 min"), (200, "3 min 20 s"), (3600, "1 h"),
        (7260, "2 h 1 min"), (3605, "1 h"), (86400 * 3, "3 d"), (86400 * 400 + 3600, "400 d 1 h"),
    ],
)  # fmt: skip
def test_durations(seconds: float, shown: str) -> None:
    assert printable.duration(seconds) == shown


def test_penalties() -> None:
    row = {"offence": "refused", "seconds": 0.4, "active": True}
    few = {
        "charged": 9,
        "active": 1,
        "sources": [
            {"network": "192.0.2.1", "offence": "status 75", "seconds": 590.2, "active": True},
            {**row, "network": "192.0.2.2", "active": False},
        ],
    }
    many = {"active": 131072, "sources": [{**row, "network": f"2001:db8:{n}::/64"} for n in range(12)]}
    services = {
        "smtp": service(penalties=few),
        "imap": service(penalties=many),
        "pop3": service(penalties=None),
    }
    page = status_page.status(answer(services=services), NOW)

    assert page.partition("\nPENALTIES")[2].splitlines() == [
        "        SERVICE  OFFENCE    LEFT",
        "192.0.2.1        smtp     status 75  9 min 50 s",
        *(f"{f'2001:db8:{n}::/64':15}  imap     refused    0 s" for n in range(10)),
        "and 131062 more  imap",
    ]


def test_connections() -> None:
    each = {"pid": 77, "peer": "192.0.2.1:4000", "service": "smtp", "started": NOW - 5, "age": 5.0}

    assert status_page.connections({"connections": [each]}) == (
        "PID  PEER            SERVICE  AGE\n77   192.0.2.1:4000  smtp     5 s\n"
    )
    assert status_page.connections({"connections": []}) == "no connections\n"


def test_a_service_that_does_not_accept() -> None:
    """As while its worker is started again; a daemon of an older version does not say it."""
    shown = status_page.status(answer(services={"a": service(accepts=False), "b": service()}), NOW)
    assert [line for line in shown.splitlines() if "/40" in line] == [
        "a        [....................] 0/40, not accepting  0         0        *:25",
        "b        [....................] 0/40                 0         0        *:25",
    ]


def test_clients_wait_when_the_slots_are_full() -> None:
    services = {
        "a": service(connections=40, waiting=7),
        "b": service(connections=39, waiting=1),  # it is accepted the next moment
        "c": service(connections=40),  # an older daemon
        "d": service(connections=40, waiting=7, stays_up=False),
    }
    shown = status_page.status(answer(services=services), NOW)
    assert [line.partition("] ")[2].partition("  ")[0] for line in shown.splitlines() if "/40" in line] == [
        "40/40, 7 waiting", "39/40", "40/40", "40/40, its worker does not stay up",
    ]  # fmt: skip


def test_any_address_is_a_star() -> None:
    found = [
        "0.0.0.0:25",
        "[::]:25",
        "[::]:465",
        "10.0.0.0:25",
        "[::1]:25",
        "[2001:db8::]:25",
        "192.0.2.1:25",
    ]
    shown = status_page.status(answer(services={"a": service(listeners=found)}), NOW)
    assert "*:25, *:465, 10.0.0.0:25, [::1]:25, [2001:db8::]:25, 192.0.2.1:25\n" in shown


RED, YELLOW = "\x1b[1;31m", "\x1b[1;33m"


@pytest.mark.parametrize(
    ("more", "shown"),
    [
        ({"stays_up": False}, f"{RED}[....................] 0/40, its worker does not stay up\x1b[0m  "),
        ({"accepts": False}, f"{RED}[....................] 0/40, not accepting\x1b[0m  "),
        ({"pids": [7, 8], "workers": 3}, f"{YELLOW}[....................] 0/40, 2 of 3 workers\x1b[0m  "),
        ({"connections": 40, "waiting": 2}, f"{YELLOW}[####################] 40/40, 2 waiting\x1b[0m  "),
        ({"dns_lists": {"bl": {"state": "suspended", "asked": 1, "listed": 0}}}, f"{RED}suspended\x1b[0m  "),
        ({"dns_lists": {"bl": {"state": "up", "asked": 1, "listed": 0}}}, "  up     1  "),
    ],
)
def test_colours(more: dict[str, Any], shown: str) -> None:
    found = answer(services={"a": service(**more)})
    page = status_page.status(found, NOW, colour=True)
    assert shown in page
    assert re.sub(r"\x1b\[[\d;]*m", "", page) == status_page.status(found, NOW)


def test_a_rejected_reload_is_red_and_at_the_end_if_wanted() -> None:
    last = {"ok": False, "at": NOW, "changed": [], "problems": [ERROR] * 25}
    page = status_page.status(answer(last_reload=last), NOW, width=60, colour=True, end=True)
    assert [line for line in page.splitlines() if "\x1b[1;31m" in line] == [
        f"{RED}RELOAD REJECTED 22:13:20 (0 s ago): previous configuration\x1b[0m",
        f"{RED}in effect\x1b[0m",
        *[f"  {RED}/etc/tcpdconf/conf.d/a.toml: no\x1b[0m"] * 10,
        f"  {RED}and 15 more: see tcpdconf check\x1b[0m",
        f"{RED}RELOAD REJECTED 22:13:20 (0 s ago): previous configuration\x1b[0m",
        f"{RED}in effect\x1b[0m",
    ]
    assert page.endswith("\x1b[0m\n")


CELLS = st.text("ab:, \x1b\xa0", max_size=40) | st.lists(st.text("ab ,", max_size=20), max_size=6)
TABLES = st.integers(1, 6).flatmap(
    lambda count: st.lists(st.lists(CELLS, min_size=count, max_size=count), min_size=1, max_size=4)
)


@given(TABLES, st.integers(20, 120))
def test_no_line_is_too_long_and_nothing_is_lost(rows: list[list[str | list[str]]], width: int) -> None:
    """All cells are shown in full, and a width that is not reached changes nothing."""
    free, text = columns.table((), rows), columns.table((), rows, width=width)
    lines = text.splitlines()
    assert all(len(line) <= width for line in lines)
    assert all(line == line.rstrip() for line in lines)
    assert sorted(re.sub(r"\s", "", text)) == sorted(re.sub(r"\s", "", free))
    if max(map(len, free.splitlines()), default=0) <= width - 2 * len(rows[0]) and "\n\n" not in text:
        assert len(lines) == len(free.splitlines())


def test_items_of_a_list_are_kept_whole() -> None:
    table = columns.table(("A", "B"), [["x", ["per_ip 20", "access 3", "rate 7"]]], width=22)
    assert table == "A  B\nx  per_ip 20,\n   access 3, rate 7\n"
