"""Writes the page of the daemon: services, refusals, addresses, DNS lists, the last reload, bans. Pure.

It is one HTML document. Without JavaScript the browser reloads it. Its script fetches it again and replaces
the parts that differ, so sections are always there, in the same order, and hidden while they are empty.
"""

import base64
import hashlib
import importlib.resources
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from tcpdconf.config import printable, problems
from tcpdconf.daemon.http import markup, response
from tcpdconf.daemon.http.history import History
from tcpdconf.daemon.http.markup import Cell, Column, Html

_REFRESH: Final = 10  # seconds between two loads without JavaScript
_MOST: Final = 200  # most rows of a table
_HOSTS: Final = 50  # of a cluster
_PROBLEMS: Final = 50
_LISTENERS: Final = 3
_FULL: Final = 90  # percent of the slots, as in `tcpdconf status --check`
_TOLD: Final = 5  # most problems named in the overall state
_NEVER: Final = 1000 * 365 * 86400  # seconds; the page shows a longer ban as endless
_FAILURES: Final = ("error_code", "outside_127", "servfail", "refused", "timeout", "unreachable", "malformed")
_LEVELS: Final = ("warning", "critical")

_Status = Mapping[str, Any]
_Service = tuple[str, Mapping[str, Any]]


def _resource(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text("utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


_STYLE: Final = _resource("page.css")
_SCRIPT: Final = _resource("page.js")
HEADERS: Final = response.allowing(style=_digest(_STYLE), script=_digest(_SCRIPT))


def html(status: _Status, history: History, host: str, now: float) -> str:
    """Return the page for an answer to `status`; `now` is Unix time."""
    level, state = _state(status)
    title = markup.text(f"{'' if level == 'ok' else f'{level.capitalize()}: '}tcpdconf on {host}")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<noscript><meta http-equiv="refresh" content="{_REFRESH}"></noscript>
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>tcpdconf on {markup.text(host)}</h1>
<div role="status"><p class="state {level}">{state}</p><p id="stale"></p></div>
<p class="dim">{_facts(status, now)}</p>
</header>
<main>
{_section("rejected", "The last reload was rejected", _rejected(status))}
{_section("services", "Services", _services(status, history))}
{_section("refused", "Refusals by reason", _refused(status))}
{_section("would", "Would be refused", _would_refuse(status))}
<div class="pair">
{_section("busiest", "Busiest addresses", _busiest(status))}
{_section("most-refused", "Most refused addresses", _most_refused(status))}
</div>
{_section("lists", "DNS lists", _lists(status))}
{_section("cluster", "Cluster", _cluster(status, now))}
{_section("reload", "Last reload", _reload(status))}
{_section("bans", "Bans", _bans(status, now))}
</main>
<footer><p>The same for programs: <a href="status.json">status.json</a>, <a href="metrics">metrics</a>,
<a href="readyz">readyz</a></p></footer>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _section(name: str, title: str, content: str) -> str:
    """Return a section; the id of its heading labels its table."""
    if not content:
        return f'<section id="{name}" hidden></section>'
    return f'<section id="{name}"><h2 id="{name}-title">{title}</h2>\n{content}</section>'


def _state(status: _Status) -> tuple[str, Html]:
    """Return the overall state as a word and a sentence.

    Screen readers announce each change of it, so it has no number that changes often.
    """
    found = sorted(_troubles(status), key=lambda trouble: -_LEVELS.index(trouble[0]))
    if found:
        texts = [text for _, text in found[:_TOLD]]
        if len(found) > _TOLD:
            texts.append(f"and {len(found) - _TOLD} more")
        level, sentence = found[0][0], f"{'; '.join(texts)}."
    else:
        count = len(status["services"])
        level = "ok"
        sentence = f"{_count(count, 'service')} accept{'s' if count == 1 else ''} connections."
    word = {"ok": "OK"}.get(level, level.capitalize())
    return level, Html(f"{markup.element('strong', f'{word}:')} {markup.text(sentence)}")


def _troubles(status: _Status) -> Iterator[tuple[str, str]]:
    if status["stopping"]:
        yield "critical", "the daemon is stopping"
    last = status["last_reload"]
    if last is None:
        yield "warning", "the daemon is starting"
    elif not last["ok"]:
        yield "warning", "the last reload was rejected"
    cluster = status.get("cluster")
    if cluster is not None and cluster["state"] != "up":
        yield _without_engine(cluster)
    for name, each in status["services"].items():
        level, text = _service_state(each)
        if level:
            yield level, f"{name}: {text}"
        for zone, one in each["dns_lists"].items():
            if one["state"] in {"suspended", "paused"}:
                yield "warning", f"DNS list {zone} of {name}: {one['state']}"


def _service_state(each: Mapping[str, Any]) -> tuple[str, str]:
    """Return the level of a service ("" without a problem), and its state in words."""
    used, of = each["connections"], each["max_connections"]
    if not each.get("stays_up", "n"):
        return "critical", "its worker does not stay up"
    if not each["accepts"]:
        return "critical", "does not accept"
    if each.get("draining"):
        return "warning", "draining"
    if used >= of:
        return "warning", "full"
    if used * 100 >= of * _FULL:
        return "warning", "nearly full"
    return "", "accepts"


def _facts(status: _Status, now: float) -> str:
    facts = [f"As of {_moment(now)}", f"version {markup.text(status['version'])}"]
    started, config = status.get("started_at"), status.get("config")
    if started is not None:
        facts.insert(1, f"started {_moment(started)} ({printable.duration(now - started)} ago)")
    if config is not None:
        facts.append(f"configuration {markup.text(config['dir'])}, loaded {_moment(config['loaded_at'])}")
    return " · ".join(facts)


def _services(status: _Status, history: History) -> str:
    services = status["services"]
    shown = list(services.items())
    caption = "Connections of the last quarter of an hour; accepted and refused since the daemon started"
    if len(shown) > _MOST:
        # services with problems first, then the busiest
        shown.sort(key=lambda item: (not _service_state(item[1])[0], -item[1]["connections"]))
        caption = f"{_MOST} of {len(shown):,} services: those with trouble, then the busiest. {caption}"
        shown = shown[:_MOST]
    if not shown:
        return ""
    columns = (
        Column("Service"), Column("State"), Column("Slots", "whole"), Column("Waiting", "n"),
        Column("Connections, peak", "whole"), Column("Accepted", "n"), Column("Refused", "n"),
        Column("Listeners", "whole"),
    )  # fmt: skip
    rows = (_service_row(name, each, history) for name, each in shown)
    return markup.table("services-title", caption, columns, rows)


def _service_row(name: str, each: Mapping[str, Any], history: History) -> tuple[Cell, ...]:
    level, state = _service_state(each)
    used, of = each["connections"], each["max_connections"]
    return (
        name,
        markup.element("span", state, class_=level) if level else state,
        Html(markup.beside(f"{used:,} / {of:,}") + markup.bar(used, of)),
        each.get("waiting", ""),
        markup.sparkline(history.of(name)),
        each["accepted"],
        sum(each["refused"].values()),
        _some(each["listeners"]),
    )


def _some(listeners: Sequence[str]) -> str:
    more = f" and {len(listeners) - _LISTENERS} more" if len(listeners) > _LISTENERS else ""
    return " ".join(listeners[:_LISTENERS]) + more


def _refused(status: _Status) -> str:
    return _by_reason("refused", "Counted since the daemon started", _counts(status, "refused"))


def _would_refuse(status: _Status) -> str:
    caption = "Served, but refused if all limits, penalties and access sources were enforced"
    return _by_reason("would", caption, _counts(status, "would_refuse"))


def _counts(status: _Status, key: str) -> list[tuple[str, Mapping[str, int]]]:
    found = [(name, each.get(key) or {}) for name, each in status["services"].items()]
    return [(name, counts) for name, counts in found if any(counts.values())]


def _by_reason(section: str, caption: str, found: list[tuple[str, Mapping[str, int]]]) -> str:
    """Return a table of counts with a column for each reason that occurs."""
    if not found:
        return ""
    reasons = [reason for reason in found[0][1] if any(counts.get(reason) for _, counts in found)]
    if len(found) > _MOST:
        found.sort(key=lambda item: -sum(item[1].values()))
        caption = f"{_MOST} of {len(found):,} services, those with the most first. {caption}"
    columns = [Column("Service"), Column("All", "n"), *(Column(reason, "n") for reason in reasons)]
    rows: Iterator[Sequence[Cell]] = (
        (name, sum(counts.values()), *(counts.get(reason, 0) for reason in reasons))
        for name, counts in found[:_MOST]
    )
    return markup.table(f"{section}-title", caption, columns, rows)


def _busiest(status: _Status) -> str:
    rows = [(each["address"], each["connections"]) for each in status["connections_by_address"]]
    columns = Column("Address"), Column("Connections", "n")
    return markup.table("busiest-title", "Now", columns, rows) if rows else ""


def _most_refused(status: _Status) -> str:
    rows = [(each["address"], each["refused"]) for each in status.get("refused_by_address") or ()]
    columns = Column("Address"), Column("Refused", "n")
    return markup.table("most-refused-title", "In the last ten minutes", columns, rows) if rows else ""


def _lists(status: _Status) -> str:
    found = [
        (zone, name, each)
        for name, service in status["services"].items()
        for zone, each in (*service["dns_lists"].items(), *_names(service))
    ]
    if not found:
        return ""
    caption = "Counted since the worker started"
    if len(found) > _MOST:
        found.sort(key=lambda item: item[2]["state"] == "up")
        caption = f"{_MOST} of {len(found):,} lists, those that are not up first. {caption}"
    columns = (
        Column("Zone"), Column("Service"), Column("State"), Column("Asked", "n"), Column("Listed", "n"),
        Column("No answer", "n"), Column("Mean time", "n"),
    )  # fmt: skip
    return markup.table("lists-title", caption, columns, (_list_row(*each) for each in found[:_MOST]))


def _names(service: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the lookups of host names as one more list."""
    if service.get("names") is not None:
        yield "(host names)", service["names"]


def _list_row(zone: str, service: str, each: Mapping[str, Any]) -> tuple[Cell, ...]:
    state, why = each["state"], each.get("why", "")
    told = f"{state}: {why}" if why else state
    return (
        zone,
        service,
        told if state == "up" else markup.element("span", told, class_="warning"),
        each["asked"],
        each.get("listed", ""),
        sum(each.get(name, 0) for name in _FAILURES),
        _mean(each.get("times")),
    )


def _mean(times: Mapping[str, Any] | None) -> str:
    count = 0 if times is None else sum(times["counts"])
    return f"{1000 * times['sum'] / count:,.0f} ms" if times is not None and count else ""


def _cluster(status: _Status, now: float) -> str:
    """Return the state of the engine, and the hosts that share it; this host is the first of them."""
    cluster = status.get("cluster")
    if cluster is None:
        return ""
    lasts = printable.duration(now - cluster["since"]) if "since" in cluster else ""
    if cluster["state"] == "up":
        level, told = "", f"up for {lasts}: limits hold over all hosts"
    else:
        level, without = _without_engine(cluster)
        why = f" ({cluster['why']})" if cluster["why"] else ""
        told = f"{cluster['state']}{lasts and f' for {lasts}'}{why}: {without}"
    shown = markup.element("span", told, class_=level) if level else markup.text(told)
    state = f"<p>{markup.text(cluster['engine'])} {shown}.</p>"
    hosts = cluster["hosts"]
    if not hosts:
        return state
    caption = "Connections when the lease was renewed, every 5 s"
    if len(hosts) > _HOSTS:
        caption = f"{_HOSTS} of {len(hosts)} hosts: this one, then those whose lease is over. {caption}"
        hosts = sorted(hosts, key=lambda each: (not each["own"], each["alive"]))[:_HOSTS]
    columns = Column("Host"), Column("Lease"), Column("Connections", "n")
    return f"{state}\n{markup.table('cluster-title', caption, columns, map(_host_row, hosts))}"


def _host_row(each: Mapping[str, Any]) -> tuple[Cell, ...]:
    name, lease = printable.lease(each)
    shown = lease if each["alive"] else markup.element("span", lease, class_="warning")
    return name, shown, each["connections"]


def _without_engine(cluster: Mapping[str, Any]) -> tuple[str, str]:
    """Return the level of an engine that does not answer, and what it means."""
    if cluster["on_failure"] == "refuse":
        return "critical", "the engine of the cluster does not answer, clients are refused"
    return "warning", "the engine of the cluster does not answer, limits hold on this host alone"


def _rejected(status: _Status) -> str:
    last = status["last_reload"]
    if last is None or last["ok"]:
        return ""
    return f"<p>At {_moment(last['at'])}. The previous configuration stays in effect.</p>\n{_problems(last)}"


def _reload(status: _Status) -> str:
    last = status["last_reload"]
    if last is None or not last["ok"]:
        return ""
    if sum(status.get("reloads", {}).values()) == 1:  # the start counts as one
        return f"<p>None since the start.</p>\n{_problems(last)}"
    changed, details = last.get("changed") or (), last.get("details") or ()
    told = f"{_count(len(changed), 'service')} changed" if changed or details else "nothing changed"
    listed = _listed(details, len(details)) if details else ""
    return f"<p>{_moment(last['at'])}: {told}.</p>\n{listed}{_problems(last)}"


def _problems(last: Mapping[str, Any]) -> str:
    found = last["problems"]
    lines = (
        f"{each}. Hint: {each.hint}" if each.hint else str(each)
        for each in problems.from_records(found[:_PROBLEMS])
    )
    return _listed(lines, len(found)) if found else ""


def _listed(lines: Iterable[object], count: int) -> str:
    """Return lines as a list; `count` is the total number, of which `lines` may be a part."""
    items = [markup.element("li", line) for line in lines]
    if count > len(items):
        items.append(markup.element("li", f"and {count - len(items)} more"))
    return f"<ul>{''.join(items)}</ul>"


def _bans(status: _Status, now: float) -> str:
    count, newest = status["bans"], status.get("banned")
    if not newest:
        return f"<p>{_count(count, 'ban')}.</p>"
    columns = Column("Network"), Column("Service"), Column("Ends", "whole"), Column("Reason"), Column("By")
    rows = (
        (each["network"], each["service"] or "all", _end(each["until"], now), each["reason"], each["by"])
        for each in newest
    )
    caption = f"{_count(count, 'ban')}; the newest first" if count > 1 else _count(count, "ban")
    return markup.table("bans-title", caption, columns, rows)


def _end(until: float | None, now: float) -> str:
    if until is None or until - now > _NEVER:
        return "never"
    return Html(f"{_moment(until)} (in {printable.duration(until - now)})")


def _moment(at: float) -> Html:
    """Return a Unix time as a date and time of this host's time zone."""
    there = time.localtime(at)
    shown = time.strftime("%Y-%m-%d %H:%M:%S", there)
    return markup.element("time", shown, datetime=time.strftime("%Y-%m-%dT%H:%M:%S%z", there))


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
