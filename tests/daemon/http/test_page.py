"""The page: everything is escaped and bounded, and it needs nothing but itself."""

import base64
import hashlib
import html
import html.parser
import re
from collections.abc import Mapping
from typing import Any

import pytest

from tcpdconf.daemon.http import markup, page
from tcpdconf.daemon.http.history import INTERVAL, SAMPLES, History, Sample

EVIL = "<script>alert(1)</script>&\"'\x1b[2J"
NOW = 1767225600.0


def service(**more: Any) -> dict[str, Any]:  # noqa: ANN401 (JSON)
    """A service that is well."""
    return {
        "accepts": True,
        "stays_up": True,
        "connections": 1,
        "max_connections": 40,
        "accepted": 7,
        "refused": {"banned": 0, "access": 0, "rate": 0},
        "listeners": ["127.0.0.1:25"],
        "dns_lists": {},
        **more,
    }


def status(services: Mapping[str, Any], **more: Any) -> dict[str, Any]:  # noqa: ANN401 (JSON)
    """An answer to `status`, with the keys that the page does not do without."""
    return {
        "version": "1",
        "stopping": False,
        "bans": 0,
        "last_reload": {"ok": True, "at": NOW, "problems": []},
        "connections_by_address": [],
        "services": services,
        **more,
    }


def hostile() -> dict[str, Any]:
    """A status in which every text is hostile."""
    problem = {
        "file": EVIL, "line": 1, "column": 1, "key": EVIL, "message": EVIL, "severity": "error",
        "hint": EVIL, "code": "syntax",
    }  # fmt: skip
    evil = service(
        accepts=False,
        waiting=2,
        refused={EVIL: 3, "rate": 0},
        would_refuse={EVIL: 1},
        listeners=[EVIL],
        dns_lists={EVIL: {"state": "up", "asked": 1, "listed": 0, "why": EVIL}},
    )
    return status(
        {EVIL: evil},
        version=EVIL,
        config={"dir": EVIL, "loaded_at": NOW},
        bans=3,
        banned=[{"network": EVIL, "service": EVIL, "until": NOW, "reason": EVIL, "by": EVIL}],
        last_reload={"ok": False, "at": NOW, "problems": [problem]},
        connections_by_address=[{"address": EVIL, "connections": 1}],
        refused_by_address=[{"address": EVIL, "refused": 1}],
        cluster=cluster(host(EVIL), engine=EVIL, state=EVIL, why=EVIL),
    )


def cluster(*hosts: dict[str, Any], **more: Any) -> dict[str, Any]:  # noqa: ANN401 (JSON)
    """The engine and its hosts."""
    return {
        "engine": "rediss://192.0.2.10:6379/0", "on_failure": "local", "state": "up", "why": "",
        "since": NOW - 7260, "hosts": list(hosts), **more,
    }  # fmt: skip


def host(name: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 (JSON)
    """A host of the cluster with a lease."""
    return {"name": name, "own": False, "alive": True, "lease_age": 3.2, "connections": 12, **more}


def written(found: Mapping[str, Any], history: History | None = None) -> str:
    """The page."""
    return page.html(found, history or History(), "mail.example.org", NOW)


def section(text: str, name: str) -> str:
    """The words of a section, without its tags."""
    found = re.search(rf'<section id="{name}"[^>]*>(.*?)</section>', text, re.DOTALL)
    assert found is not None
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", found[1])).split())


def state(text: str) -> str:
    """The overall state."""
    found = re.search(r'<p class="state \w+">(.*?)</p>', text)
    assert found is not None
    return re.sub(r"<[^>]+>", "", found[1])


class Tags(html.parser.HTMLParser):
    """Collects the tags of a page, and their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect a tag."""
        self.found.append((tag, dict(attrs)))


def test_no_text_becomes_markup() -> None:
    history = History()
    for at in (0.0, 15.0):
        history.add(at, {EVIL: 1})
    text = page.html(hostile(), history, EVIL, NOW)
    tags = Tags(text).found

    assert "\x1b" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;&amp;&quot;&#x27;") >= 20
    assert {tag for tag, _ in tags} == {
        "html", "head", "meta", "title", "style", "body", "header", "main", "section", "h1", "h2",
        "p", "ul", "li", "div", "table", "caption", "thead", "tbody", "tr", "th", "td", "span", "strong",
        "time", "svg", "rect", "polyline", "noscript", "footer", "a", "script",
    }  # fmt: skip
    assert [tag for tag, _ in tags].count("script") == 1
    names = {name for _, attributes in tags for name in attributes}
    assert not [name for name in names if name in {"src", "style"} or name.startswith("on")]
    assert {attributes["href"] for tag, attributes in tags if tag == "a"} == {
        "status.json", "metrics", "readyz",
    }  # fmt: skip


def test_its_style_and_script_are_those_that_the_policy_allows() -> None:
    text = written(status({}))
    policy = page.HEADERS["Content-Security-Policy"]
    hashes = {}
    for tag in ("style", "script"):
        found = re.search(rf"<{tag}>(.*)</{tag}>", text, re.DOTALL)
        assert found is not None
        hashes[tag] = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()

    assert policy.startswith("default-src 'none'; ")
    assert policy.endswith(
        f"; style-src 'sha256-{hashes['style']}'; script-src 'sha256-{hashes['script']}'; connect-src 'self'"
    )


def test_sections_are_always_there_in_the_same_order() -> None:
    """The script compares them by their places."""
    pages = [written(each) for each in (status({}), status({"a": service()}), hostile())]

    assert len({tuple(re.findall(r'<section id="([\w-]+)"', each)) for each in pages}) == 1


def test_the_overall_state() -> None:
    full, nearly = service(connections=40), service(connections=36)
    paused = service(dns_lists={"l.example": {"state": "suspended", "asked": 1, "listed": 1, "why": ""}})
    rejected = {"ok": False, "at": NOW, "problems": []}

    assert state(written(status({"a": service(), "b": service()}))) == "OK: 2 services accept connections."
    assert state(written(status({"a": service()}))) == "OK: 1 service accepts connections."
    assert state(written(status({}, last_reload=None))) == "Warning: the daemon is starting."
    assert state(written(status({"a": full, "b": nearly}))) == "Warning: a: full; b: nearly full."
    assert state(written(status({"a": paused}))) == "Warning: DNS list l.example of a: suspended."
    assert state(written(status({"a": service(), "b": service(accepts=False)}, last_reload=rejected))) == (
        "Critical: b: does not accept; the last reload was rejected."
    )
    assert state(written(status({"a": service(draining=True)}))) == "Warning: a: draining."
    assert state(written(status({"a": service(stays_up=False)}))) == (
        "Critical: a: its worker does not stay up."
    )
    assert state(written(status({str(n): full for n in range(9)}))).endswith("; and 4 more.")
    assert "<title>Critical: tcpdconf on " in written(status({"a": service()}, stopping=True))


def test_the_engine_and_the_hosts_of_a_cluster() -> None:
    hosts = (
        host("mx1", own=True, lease_age=0.4),
        host("mx2", connections=1234),
        host("mx3", alive=False, lease_age=20),
    )
    text = written(status({"a": service()}, cluster=cluster(*hosts)))

    assert section(text, "cluster") == (
        "Cluster rediss://192.0.2.10:6379/0 up for 2 h 1 min: limits hold over all hosts. "
        "Connections when the lease was renewed, every 5 s Host Lease Connections "
        "mx1 (this host) 0 s 12 mx2 3 s 1,234 mx3 over, 20 s old 12"
    )
    assert state(text).startswith("OK: ")
    assert section(written(status({}, cluster=None)), "cluster") == ""


@pytest.mark.parametrize(
    ("on_failure", "level", "means"),
    [("local", "Warning", "limits hold on this host alone"), ("refuse", "Critical", "clients are refused")],
)
def test_an_engine_that_does_not_answer(on_failure: str, level: str, means: str) -> None:
    down = cluster(state="down", why="cannot connect", since=NOW - 61, on_failure=on_failure)
    text = written(status({"a": service()}, cluster=down))

    means = f"the engine of the cluster does not answer, {means}"
    assert state(text) == f"{level}: {means}."
    assert section(text, "cluster").endswith(f" down for 1 min 1 s (cannot connect): {means} .")
    unknown = cluster(state="connecting", why="the cluster process is starting")
    del unknown["since"]
    text = section(written(status({}, cluster=unknown)), "cluster")
    assert " connecting (the cluster process is starting): " in text


def test_a_large_cluster_shows_this_host_and_those_whose_lease_is_over() -> None:
    others = (host(f"mx{number}", alive=number != 150) for number in range(1, 200))
    text = section(written(status({}, cluster=cluster(host("mx0", own=True), *others))), "cluster")

    assert "50 of 200 hosts: this one, then those whose lease is over." in text
    assert "mx0 (this host) 3 s 12 mx150 over, 3 s old 12 mx1 3 s 12 mx2 " in text
    assert text.count(" s ") < 60
    assert "mx49 " not in text


def test_only_reasons_that_occur_have_a_column() -> None:
    services = {
        "a": service(refused={"banned": 0, "access": 3, "rate": 0}),
        "b": service(refused={"banned": 0, "access": 1, "rate": 2}),
        "c": service(),
    }

    assert section(written(status(services)), "refused") == (
        "Refusals by reason Counted since the daemon started Service All access rate a 3 3 0 b 3 1 2"
    )
    assert section(written(status({"c": service()})), "refused") == ""


def test_a_reload_shows_what_changed_or_what_is_wrong() -> None:
    last = {"ok": True, "at": NOW, "changed": ["a"], "details": ["a: nice 0 -> 5"], "problems": []}
    told = section(written(status({}, last_reload=last)), "reload")
    assert told.endswith(": 1 service changed. a: nice 0 -> 5")
    assert section(written(status({}, last_reload=last)), "rejected") == ""

    wrong = {
        "file": "a.toml", "line": 3, "column": 1, "key": "x", "message": "is unknown", "severity": "error",
        "hint": "delete it", "code": "unknown-key",
    }  # fmt: skip
    text = written(status({}, last_reload={"ok": False, "at": NOW, "problems": [wrong] * 60}))
    assert section(text, "reload") == ""
    assert section(text, "rejected").startswith("The last reload was rejected At ")
    assert section(text, "rejected").endswith("a.toml:3:1: error: x: is unknown. Hint: delete it and 10 more")
    assert section(written(status({}, last_reload=None)), "reload") == ""

    warning = {**wrong, "severity": "warning"}
    start = {"ok": True, "at": NOW, "changed": ["a"], "details": [], "problems": [warning]}
    counted = {"succeeded": 1, "rejected": 0}
    told = section(written(status({}, last_reload=start, reloads=counted)), "reload")
    assert told.startswith("Last reload None since the start. a.toml:3:1: ")


def test_bans_and_their_ends() -> None:
    banned = [
        {"network": "192.0.2.7", "service": None, "until": NOW + 3600, "reason": "scans", "by": "uid 0 (x)"},
        {"network": "192.0.2.0/24", "service": "a", "until": None, "reason": "", "by": "uid 0 (x)"},
        {"network": "192.0.2.8", "service": "a", "until": 1e300, "reason": "", "by": "uid 0 (x)"},
    ]
    told = section(written(status({}, bans=30, banned=banned)), "bans")

    assert "30 bans; the newest first" in told
    assert "(in 1 h) scans uid 0 (x) 192.0.2.0/24 a never uid 0 (x) 192.0.2.8 a never" in told
    for unknown in (status({}, bans=1, banned=[]), status({}, bans=1, banned=None)):
        assert section(written(unknown), "bans") == "Bans 1 ban."


def test_thousands_of_services_make_a_page_of_some() -> None:
    services = {f"s{n}": service(connections=n % 30) for n in range(3000)}
    services["last"] = service(accepts=False)
    text = written(status(services))

    assert "200 of 3,001 services: those with trouble, then the busiest" in text
    rows = re.findall(r'<tr><th scope="row">(\w+)</th>', text)
    assert len(rows) == 200
    assert rows[0] == "last"
    assert rows[1] == "s29"


def test_the_history_has_the_last_samples_of_services_that_are_there() -> None:
    history = History()
    for step in range(SAMPLES + 5):
        history.add(
            step * INTERVAL, {"old": step} if step < 3 else {"a": step, **({"new": 1} if step > 60 else {})}
        )
    of_a = history.of("a")

    assert (len(of_a), of_a[0], of_a[-1].connections) == (SAMPLES, Sample(5 * INTERVAL, 5), SAMPLES + 4)
    assert [each.at for each in history.of("new")] == [step * INTERVAL for step in range(61, SAMPLES + 5)]
    assert history.of("old") == []


@pytest.mark.parametrize(
    ("counts", "name", "points"),
    [
        ([0, 0, 0, 0], "0 in 45 s", "114,19 120,19"),
        ([0, 4, 4, 4, 2], "0 to 4 in 1 min", "112,19 114,1 118,1 120,10"),
    ],
)
def test_a_sparkline_is_told_in_words_and_leaves_out_level_stretches(
    counts: list[int], name: str, points: str
) -> None:
    drawn = markup.sparkline([Sample(step * INTERVAL, count) for step, count in enumerate(counts)])

    assert f'role="img" aria-label="{name}"' in drawn
    assert f'points="{points}"' in drawn


def test_a_sparkline_fills_its_width_and_needs_two_samples() -> None:
    many = [Sample(step * 60.0, step % 2) for step in range(SAMPLES)]  # a process that samples seldom

    assert 'points="0,19 2,1 ' in markup.sparkline(many)
    assert markup.sparkline(many[:1]) == ""
