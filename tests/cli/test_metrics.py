"""What `tcpdconf status --format prometheus` prints."""

import re
from typing import Any

from tcpdconf.cli import metrics

REFUSED = {"access": 3, "per_ip": 0}
LIST = {"state": "up", "asked": 12, "listed": 3, "not_listed": 9, "why": ""}


def answer(**service: object) -> dict[str, Any]:
    known = {"pid": 2, "connections": 1, "max_connections": 40, "accepted": 7, "refused": REFUSED}
    return {
        "version": "1.2",
        "config": {"loaded_at": 1767225600.25},
        "last_reload": {"at": 1767225601.5, "ok": False},
        "services": {"smtp": {**known, "dns_lists": {}, **service}},
    }


def test_a_sample_for_each_count() -> None:
    lines = metrics.exposition(answer()).splitlines()

    assert [line for line in lines if not line.startswith("#")] == [
        'tcpdconf_info{version="1.2"} 1',
        "tcpdconf_config_loaded_timestamp_seconds 1767225600.25",
        "tcpdconf_last_reload_timestamp_seconds 1767225601.5",
        "tcpdconf_last_reload_success 0",
        'tcpdconf_worker_up{service="smtp"} 1',
        'tcpdconf_connections{service="smtp"} 1',
        'tcpdconf_max_connections{service="smtp"} 40',
        'tcpdconf_accepted_total{service="smtp"} 7',
        'tcpdconf_refused_total{service="smtp",reason="access"} 3',
        'tcpdconf_refused_total{service="smtp",reason="per_ip"} 0',
    ]


def test_each_metric_has_its_help_and_type_once_and_before_its_samples() -> None:
    text = metrics.exposition(answer(dns_lists={"a.example": LIST, "b.example": LIST}))
    names = re.findall(
        r"^# HELP (\S+) \S.*\n# TYPE \1 (?:gauge|counter)\n(?:\1[ {].*\n)+", text, re.MULTILINE
    )

    assert len(names) == len(set(names)) == text.count("# TYPE ") == 11


def test_every_class_of_answers_of_a_list_is_a_sample() -> None:
    text = metrics.exposition(answer(dns_lists={"dnsbl.example": LIST}))

    assert re.findall(r"^tcpdconf_dns_list.*", text, re.MULTILINE) == [
        'tcpdconf_dns_list_up{service="smtp",zone="dnsbl.example"} 1',
        'tcpdconf_dns_list_answers_total{service="smtp",zone="dnsbl.example",class="listed"} 3',
        'tcpdconf_dns_list_answers_total{service="smtp",zone="dnsbl.example",class="not_listed"} 9',
    ]


def test_every_class_of_answers_about_names_is_a_sample() -> None:
    names = {"state": "paused", "why": "", "asked": 3, "answered": 1, "timeout": 2}
    text = metrics.exposition(answer(names=names))

    assert re.findall(r"^tcpdconf_names.*", text, re.MULTILINE) == [
        'tcpdconf_names_up{service="smtp"} 0',
        'tcpdconf_names_answers_total{service="smtp",class="answered"} 1',
        'tcpdconf_names_answers_total{service="smtp",class="timeout"} 2',
    ]
    assert "tcpdconf_names" not in metrics.exposition(answer(names=None))


def test_a_name_cannot_end_its_label() -> None:
    text = metrics.exposition(answer(dns_lists={'a"b\\c\nd': LIST}))

    assert r'zone="a\"b\\c\nd"' in text
