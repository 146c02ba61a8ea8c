"""Compares tcpdconf's DNS lists with the documentation of postscreen and Haraka (`dnsbl.toml`)."""

import pathlib
import tomllib
from typing import Any, Final

import pytest
from support.dns import chains, dnsanswers

from tcpdconf.config.model import answerfilter
from tcpdconf.policy.dns import health, judge, query

TABLES: Final = tomllib.loads((pathlib.Path(__file__).parent / "dnsbl.toml").read_text())


@pytest.mark.parametrize("row", TABLES["filters"], ids=lambda row: row["filter"])
def test_a_filter_passes_what_postscreen_says(row: dict[str, Any]) -> None:
    made = answerfilter.read(row["filter"])
    assert [each for each in row["passes"] if not made.admits(answerfilter.octets(each))] == []
    assert [each for each in row["stops"] if made.admits(answerfilter.octets(each))] == []


@pytest.mark.parametrize("row", TABLES["wrong"], ids=lambda row: row["filter"])
def test_what_is_no_filter_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="octet"):
        answerfilter.read(row["filter"])


@pytest.mark.parametrize("row", TABLES["scores"], ids=lambda row: row["name"])
def test_scores_add_up_as_postscreen_s_do(row: dict[str, Any]) -> None:
    lists = []
    for zone, match, weight in row["lists"]:
        made = chains.block(zone, weight=weight) if weight > 0 else chains.allow(zone, weight=weight)
        lists.append(made | ({"match": [match]} if match else {}))
    chain = chains.weighed(*lists, threshold=row["threshold"])
    asked = judge.questions(chain, chains.CLIENT, {})
    zones = {chains.FRONT + zone: {"A": addresses} for zone, addresses in row["answers"].items()}
    found = judge.judge(chain, chains.CLIENT, dnsanswers.answers(zones, asked), {})
    assert bool(found.variables.get("BLOCK")) == row["blocked"]


@pytest.mark.parametrize("row", TABLES["zones"], ids=lambda row: row["name"])
def test_a_zone_is_used_if_haraka_would_use_it(row: dict[str, Any]) -> None:
    made = health.ListHealth("bl.test", probe=True, reading="safe")
    points = made.points("x0badcafe")
    names = {question.name: row["two"] for question in points.listed}
    names |= {question.name: row["one"] for question in points.unlisted}
    answers = {
        each: query.Answer("answer", addresses=tuple(names.get(each.name, ()))) for each in points.all()
    }
    made.tested(points, answers, 0.0)
    assert (made.state == "up") == row["usable"]
