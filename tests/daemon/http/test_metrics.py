"""Tests /metrics and `tcpdconf status --format prometheus`."""

import pathlib
import re
import subprocess
from typing import Any

from prometheus_client.openmetrics import parser
from support import peers

from tcpdconf.daemon.http import exposition, metrics

REFUSED = {"access": 3, "per_ip": 0}
LIST = {"state": "up", "asked": 12, "listed": 3, "not_listed": 9, "why": ""}


def answer(**service: object) -> dict[str, Any]:
    known = {
        "pid": 2,
        "connections": 1,
        "max_connections": 40,
        "accepted": 7,
        "expired": 2,
        "refused": REFUSED,
    }
    return {
        "version": "1.2",
        "config": {"loaded_at": 1767225600.25},
        "last_reload": {"at": 1767225601.5, "ok": False},
        "services": {"smtp": {**known, "dns_lists": {}, **service}},
    }


def text(status: dict[str, Any]) -> str:
    return exposition.text(status).decode()


def test_a_sample_for_each_count() -> None:
    lines = text(answer()).splitlines()

    assert [line for line in lines if not line.startswith("#")] == [
        'tcpdconf_build_info{version="1.2"} 1.0',
        'tcpdconf_info{version="1.2"} 1.0',
        "tcpdconf_config_loaded_timestamp_seconds 1.76722560025e+09",
        "tcpdconf_config_last_reload_success_timestamp_seconds 1.76722560025e+09",
        "tcpdconf_last_reload_timestamp_seconds 1.7672256015e+09",
        "tcpdconf_config_last_reload_successful 0.0",
        "tcpdconf_last_reload_success 0.0",
        'tcpdconf_worker_up{service="smtp"} 1.0',
        'tcpdconf_connections{service="smtp"} 1.0',
        'tcpdconf_max_connections{service="smtp"} 40.0',
        'tcpdconf_accepted_total{service="smtp"} 7.0',
        'tcpdconf_expired_total{service="smtp"} 2.0',
        'tcpdconf_refused_total{reason="access",service="smtp"} 3.0',
        'tcpdconf_refused_total{reason="per_ip",service="smtp"} 0.0',
    ]


def test_each_metric_has_its_help_and_type_once_and_before_its_samples() -> None:
    found = text(answer(dns_lists={"a.example": LIST, "b.example": LIST}))
    names = re.findall(
        r"^# HELP (\S+) \S.*\n# TYPE \1 (?:gauge|counter)\n(?:\1[ {].*\n)+", found, re.MULTILINE
    )

    assert len(names) == len(set(names)) == found.count("# TYPE ") == 16


def test_every_class_of_answers_of_a_list_is_a_sample() -> None:
    found = text(answer(dns_lists={"dnsbl.example": LIST}))

    assert re.findall(r"^tcpdconf_dns_list.*", found, re.MULTILINE) == [
        'tcpdconf_dns_list_up{service="smtp",zone="dnsbl.example"} 1.0',
        'tcpdconf_dns_list_state{service="smtp",state="up",zone="dnsbl.example"} 1.0',
        'tcpdconf_dns_list_state{service="smtp",state="untested",zone="dnsbl.example"} 0.0',
        'tcpdconf_dns_list_state{service="smtp",state="suspended",zone="dnsbl.example"} 0.0',
        'tcpdconf_dns_list_state{service="smtp",state="paused",zone="dnsbl.example"} 0.0',
        'tcpdconf_dns_list_answers_total{class="listed",service="smtp",zone="dnsbl.example"} 3.0',
        'tcpdconf_dns_list_answers_total{class="not_listed",service="smtp",zone="dnsbl.example"} 9.0',
    ]


def test_every_class_of_answers_about_names_is_a_sample() -> None:
    names = {"state": "paused", "why": "", "asked": 3, "answered": 1, "timeout": 2}
    found = text(answer(names=names))

    assert re.findall(r"^tcpdconf_names.*", found, re.MULTILINE) == [
        'tcpdconf_names_up{service="smtp"} 0.0',
        'tcpdconf_names_answers_total{class="answered",service="smtp"} 1.0',
        'tcpdconf_names_answers_total{class="timeout",service="smtp"} 2.0',
    ]
    assert "tcpdconf_names" not in text(answer(names=None))


def test_penalties_are_samples() -> None:
    found = text(answer(penalties={"charged": 9, "active": 2, "sources": []}))

    assert re.findall(r"^tcpdconf_penalties.*", found, re.MULTILINE) == [
        'tcpdconf_penalties_total{service="smtp"} 9.0',
        'tcpdconf_penalties_active{service="smtp"} 2.0',
    ]
    assert "tcpdconf_penalties" not in text(answer(penalties=None))


def test_a_name_cannot_end_its_label() -> None:
    found = text(answer(dns_lists={'a"b\\c\nd': LIST}))

    assert r'zone="a\"b\\c\nd"' in found


def test_a_list_that_is_not_tested_yet_is_not_suspended() -> None:
    found = text(answer(dns_lists={"dnsbl.example": {**LIST, "state": "untested"}}))

    assert re.findall(r"^tcpdconf_dns_list_(?:up|state).* 1.0$", found, re.MULTILINE) == [
        'tcpdconf_dns_list_state{service="smtp",state="untested",zone="dnsbl.example"} 1.0'
    ]


def test_the_buckets_of_a_histogram_add_up() -> None:
    found = text(
        answer(histograms={"connection": {"bounds": [0.5, 60.0], "counts": [3, 0, 2], "sum": 200.5}})
    )

    assert re.findall(r"^tcpdconf_connection_duration_seconds.*", found, re.MULTILINE) == [
        'tcpdconf_connection_duration_seconds_bucket{le="0.5",service="smtp"} 3.0',
        'tcpdconf_connection_duration_seconds_bucket{le="60",service="smtp"} 3.0',
        'tcpdconf_connection_duration_seconds_bucket{le="+Inf",service="smtp"} 5.0',
        'tcpdconf_connection_duration_seconds_count{service="smtp"} 5.0',
        'tcpdconf_connection_duration_seconds_sum{service="smtp"} 200.5',
    ]


def test_the_reference_has_every_metric_and_only_those() -> None:
    """docs/reference/http.md."""
    page = (pathlib.Path(__file__).parents[3] / "docs/reference/http.md").read_text()
    table = re.findall(r"^\| `(\w+)` \| (\w+) \|", page, re.MULTILINE)

    assert sorted(table) == sorted((each.name, each.kind) for each in metrics.FAMILIES)


def test_promtool_finds_nothing_wrong() -> None:
    peers.need("promtool")
    lists = {"a.example": LIST, "b.example": {**LIST, "state": "untested"}}
    used = {"cpu": 1.5, "resident": 4096, "descriptors": 9, "started": 1767225600, "lost_lines": 0}
    found = answer(
        dns_lists=lists,
        names={"state": "up", "why": "", "asked": 3, "answered": 1},
        penalties={"charged": 9, "active": 2, "sources": []},
        histograms={"start": {"bounds": [0.5], "counts": [3, 1], "sum": 2.5}},
        would_refuse={"rate": 1},
        restarts=1,
        early_talkers=0,
        awaited_headers=0,
        accepts=True,
        process=used,
    )
    found |= {"reloads": {"succeeded": 2, "rejected": 1}, "bans": 3, "process": used}
    run = subprocess.run(
        ["promtool", "check", "metrics"], input=text(found), capture_output=True, text=True, check=False
    )

    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_openmetrics_can_be_parsed() -> None:
    found = exposition.openmetrics(answer(dns_lists={"a.example": LIST})).decode()
    names = [family.name for family in parser.text_string_to_metric_families(found)]  # type: ignore[no-untyped-call]

    assert "tcpdconf_accepted" in names
