"""When judging may stop: what is missing never changes what is said to be settled."""

from collections.abc import Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from support.dns import chains, dnsanswers

from tcpdconf.policy.dns import judge, query
from tcpdconf.policy.dns.chain import Chain


def test_judging_stops_when_nothing_that_is_missing_can_matter() -> None:
    made = chains.chain(
        chains.allow("w"), chains.block("a"), chains.block("b"), chains.block("c", variable="X")
    )
    w, a, b, c = judge.questions(made, chains.CLIENT, {})
    no, yes = dnsanswers.NOBODY, dnsanswers.answer(chains.A2, "A")

    def still_open(found: dict[query.Question, query.Answer]) -> set[query.Question]:
        return set(judge.judge(made, chains.CLIENT, found, {}).open)

    assert still_open({}) == {w, a, b, c}
    assert still_open({a: yes}) == {w, c}
    assert still_open({w: no, a: yes}) == {c}
    assert still_open({w: yes, c: no}) == set()


def test_a_score_is_sure_before_all_have_answered() -> None:
    made = chains.weighed(
        chains.block("a", weight=2),
        chains.block("b", weight=2),
        chains.block("c"),
        chains.allow("w", weight=-1),
    )
    a, b, c, w = judge.questions(made, chains.CLIENT, {})
    no, yes = dnsanswers.NOBODY, dnsanswers.answer(chains.A2, "A")

    assert judge.judge(made, chains.CLIENT, {a: no, b: no}, {}).open == frozenset()
    assert judge.judge(made, chains.CLIENT, {a: yes, b: yes}, {}).open == frozenset()
    assert judge.judge(made, chains.CLIENT, {b: yes, c: yes, w: no}, {}).open == {a}
    assert judge.judge(made, chains.CLIENT, {b: yes, c: yes}, {}).open == {a, w}


ZONES = ["z0", "z1", "z2", "z3"]
LISTS = st.builds(
    lambda zone, act, variable, match, txt, reading, message: {
        "zone": zone,
        "action": act,
        "variable": variable,
        "match": match,
        "txt": txt,
        "answers": reading,
        **({"message": message} if act == "block" else {}),
    },
    st.sampled_from(ZONES),
    st.sampled_from(["block", "block", "allow"]),
    st.sampled_from(["BLOCK", "BLOCK", "X", "BLOCK_IP", "BLOCK_TXT", "ALLOW_0"]),
    st.sampled_from([[], [], ["127.0.0.[2..3]"]]),
    st.booleans(),
    st.sampled_from(["safe", "any"]),
    st.sampled_from(["", "no @"]),
)
SCORED = st.builds(
    lambda made, weight: (
        made if weight is None else {**made, "weight": -weight if made["action"] == "allow" else weight}
    ),
    LISTS.map(lambda made: {**made, "variable": "BLOCK"}),
    st.none() | st.integers(1, 3),
)
RECORDS: st.SearchStrategy[Any] = st.sampled_from(
    [None, None, chains.A2, chains.TWO, chains.ONLY, {"MX": []}, {"A": ["127.0.0.9"]},
     {"A": ["127.255.255.254"], "TXT": ["e"]}, {"A": ["203.0.113.1"]}, "SERVFAIL",
     {"A": "REFUSED", "TXT": ["t"]}, {**chains.A2, "TXT": "DROP"}]
)  # fmt: skip
WORLDS = st.fixed_dictionaries({chains.FRONT + zone: RECORDS for zone in ZONES})
CHAINS = st.one_of(
    st.lists(LISTS, max_size=5).map(lambda lists: chains.chain(*lists)),
    st.tuples(st.lists(SCORED, max_size=6), st.integers(1, 4)).map(
        lambda pair: chains.weighed(*pair[0], threshold=pair[1])
    ),
)
ENVIRONMENTS = st.sampled_from([{}, {}, {"BLOCK": ""}, {"X": "1"}, {"BLOCK_IP": "stale"}])


def naive_addresses(made: chains.Table, answer: query.Answer) -> list[str] | None:
    """The addresses that count; None when not even a text does."""
    if made["answers"] == "safe":
        if any(not x.startswith("127.") or x.startswith("127.255.255.") for x in answer.addresses):
            return None
        if answer.status != "answer":
            return None
    addresses = [x for x in answer.addresses if not made["match"] or x in {"127.0.0.2", "127.0.0.3"}]
    return addresses or (None if answer.addresses or made["match"] else [])


def naive(
    lists: list[chains.Table], world: Mapping[str, Any], environment: Mapping[str, str]
) -> dict[str, str]:
    """One list after the other, as the manual tells it, without a word about what may be missing."""
    found: dict[str, str] = {}
    allows = 0
    for made in lists:
        name = made["variable"]
        a, txt = (dnsanswers.answer(world[chains.FRONT + made["zone"]], kind) for kind in ("A", "TXT"))
        addresses = naive_addresses(made, a)
        text = txt.texts[0][0].decode() if made["txt"] and txt.texts else ""
        if name in {**environment, **found} or addresses is None or not (addresses or text):
            continue
        own = made.get("message", "").replace("@", "::ffff:127.0.0.5", 1)
        blocked = text or own or f"Blacklisted by {made['zone']}"
        found[name] = blocked if made["action"] == "block" else ""
        if addresses:
            found[name + "_IP"] = addresses[-1 if made.get("message") else 0]
        if text:
            found[name + "_TXT"] = text
        found[name + "_ZONE"] = made["zone"]
        if addresses and made["action"] == "allow":
            found[f"ALLOW_{allows}"] = name
            allows += 1
    return found


@given(st.lists(LISTS, max_size=6), WORLDS, ENVIRONMENTS)
def test_judging_is_asking_one_after_the_other(
    lists: list[chains.Table], world: Mapping[str, Any], environment: dict[str, str]
) -> None:
    made = chains.chain(*lists)
    found = dnsanswers.answers(world, judge.questions(made, chains.CLIENT, environment))

    assert naive(lists, world, environment) == judge.judge(made, chains.CLIENT, found, environment).variables


@settings(max_examples=500)
@given(CHAINS, WORLDS, WORLDS, ENVIRONMENTS, st.sets(st.integers(0, 7)))
def test_stopping_early_changes_nothing(
    made: Chain,
    world: Mapping[str, Any],
    other: Mapping[str, Any],
    environment: dict[str, str],
    silent: set[int],
) -> None:
    """With any answers missing: when no question is open, whatever they will be gives the same variables."""
    asked = list(judge.questions(made, chains.CLIENT, environment))
    everything = dnsanswers.answers(world, asked)
    arrived = {q: everything[q] for place, q in enumerate(asked) if place not in silent}
    judgement = judge.judge(made, chains.CLIENT, arrived, environment)

    assert judgement.open <= everything.keys() - arrived.keys()
    while judgement.open:
        arrived |= {q: everything[q] for q in judgement.open}
        judgement = judge.judge(made, chains.CLIENT, arrived, environment)
    completed = dnsanswers.answers(other, asked) | arrived
    assert judgement.variables == judge.judge(made, chains.CLIENT, completed, environment).variables


@settings(max_examples=500)
@given(CHAINS, WORLDS, WORLDS, ENVIRONMENTS, st.sets(st.integers(0, 7)))
def test_what_is_sure_stays(
    made: Chain,
    world: Mapping[str, Any],
    other: Mapping[str, Any],
    environment: dict[str, str],
    silent: set[int],
) -> None:
    """A variable that is sure has its value at the end, whichever answers are missing. So has a refusal."""
    asked = list(judge.questions(made, chains.CLIENT, environment))
    everything = dnsanswers.answers(world, asked)
    arrived = {q: everything[q] for place, q in enumerate(asked) if place not in silent}
    sure = judge.judge(made, chains.CLIENT, arrived, environment).sure
    full = judge.judge(made, chains.CLIENT, dnsanswers.answers(other, asked) | arrived, environment)

    assert sure.items() <= full.variables.items()


def test_a_listing_is_sure_when_no_list_before_it_can_have_its_variable() -> None:
    made = chains.chain(
        chains.allow("w"), chains.block("a"), chains.block("b", variable="X"), chains.block("c", variable="X")
    )
    w, a, b, c = judge.questions(made, chains.CLIENT, {})
    no, yes = dnsanswers.NOBODY, dnsanswers.answer(chains.A2, "A")

    def sure(found: dict[query.Question, query.Answer]) -> set[str]:
        return {name for name in ("BLOCK", "X") if name in judge.judge(made, chains.CLIENT, found, {}).sure}

    assert sure({}) == set()
    assert sure({a: yes}) == set()
    assert sure({a: yes, b: yes}) == {"X"}
    assert sure({a: yes, w: no}) == {"BLOCK"}
    assert sure({c: yes}) == set()
    assert sure({w: yes}) == {"BLOCK"}


def test_a_score_is_sure_when_the_rest_cannot_lower_it() -> None:
    made = chains.weighed(chains.block("a", weight=3), chains.block("b"), chains.allow("w", weight=-1))
    a, b, w = judge.questions(made, chains.CLIENT, {})
    no, yes = dnsanswers.NOBODY, dnsanswers.answer(chains.A2, "A")

    assert "BLOCK" not in judge.judge(made, chains.CLIENT, {a: yes}, {}).sure
    assert "BLOCK" in judge.judge(made, chains.CLIENT, {a: yes, w: no}, {}).sure
    assert "BLOCK" in judge.judge(made, chains.CLIENT, {a: yes, b: yes}, {}).sure
