import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tcpdconf.cli import status as status_page

NOW = 1_700_000_000.0  # 2023-11-14, 22:13:20 UTC
PAUSED = {"state": "paused", "why": "no name server answers", "asked": 9, "timeout": 2, "unreachable": 3}
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
    refused = dict.fromkeys(("access", "per_ip", "per_network", "rate", "dropped", "proxy", "spawn"), 0)
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
    }
    lists = {"dnsbl.example": {"state": "up", "asked": 12, "listed": 3}}
    refused = {**service()["refused"], "access": 3, "per_ip": 20}
    page = status_page.status(
        answer(
            last_reload={"ok": False, "at": NOW - 90_000, "changed": [], "problems": [problem]},
            services={
                "smtp": service(connections=13, accepted=10_000, refused=refused, dns_lists=lists),
                "imap": service(pid=None, max_connections=300, listeners=["*:143", "*:220"], names=PAUSED),
                "pop3": service(listeners=["*:110"], names=UP),
            },
            connections_by_address=[{"address": "192.0.2.1", "connections": 12}],
        ),
        NOW,
    )

    assert page == (
        "tcpdconf       1.2, pid 1\n"
        "configuration  /etc/tcpdconf/conf.d, loaded 22:10:00 (3 min 20 s ago)\n"
        "last reload    2023-11-13 21:13:20 (1 d 1 h ago): REJECTED, what was loaded before goes on\n"
        "               c/a.toml:3: services.a.user: there is no user \ufffd[31m\n"
        "\n"
        "SERVICE  SLOTS                                   ACCEPTED  REFUSED              LISTENERS\n"
        "smtp     [######..............] 13/40            10000     access 3, per_ip 20  *:25\n"
        "imap     [....................] 0/300 no worker  0         -                    *:143, *:220\n"
        "pop3     [....................] 0/40             0         -                    *:110\n"
        "\n"
        "LIST           SERVICE  STATE  ASKED  LISTED\n"
        "dnsbl.example  smtp     up     12     3\n"
        "\n"
        "NAMES  STATE   ASKED  UNANSWERED  WHY\n"
        "imap   paused  9      5           no name server answers\n"
        "pop3   up      7      0           -\n"
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
    assert f"\nlast reload    {line}\n" in status_page.status(answer(last_reload=reload), NOW)


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
    assert status_page.duration(seconds) == shown


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
        "a        [....................] 0/40 not accepting  0         -        *:25",
        "b        [....................] 0/40                0         -        *:25",
    ]
