from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.dns import dnsanswers

from tcpdconf.config.model.dns import Probe
from tcpdconf.policy.dns import breaker
from tcpdconf.policy.dns import health as list_health
from tcpdconf.policy.dns.answer import Outcome, Reading

V4, V6 = "{}.0.0.127.bl.test", "{}.0.0.0.0.0.f.7.f.f.f.f" + ".0" * 20 + ".bl.test"
A2 = {"A": ["127.0.0.2"]}
GOOD: dict[str, Any] = {V4.format(2): A2, V6.format(2): A2}
RANDOM = "x0badcafe.bl.test"
TROUBLE: list[Outcome] = [
    "timeout", "unreachable", "servfail", "refused", "malformed", "error", "outside",
]  # fmt: skip


def health(probe: bool | dict[str, Any] = True, reading: Reading = "safe") -> list_health.ListHealth:
    found = Probe.model_validate(probe) if isinstance(probe, dict) else probe
    return list_health.ListHealth("bl.test", found, reading)


def feed(made: list_health.ListHealth, zone: dict[str, Any], now: float = 0.0) -> list_health.Change | None:
    points = made.points("x0badcafe")
    return made.tested(points, dnsanswers.answers(zone, points.all()), now)


def up() -> list_health.ListHealth:
    made = health()
    feed(made, GOOD)
    return made


def asked(made: list_health.ListHealth, now: float) -> bool:
    """Return whether it is asked about a client then."""
    return made.state == "up" or made.tries(now)


def test_the_test_points_are_those_of_the_rfc() -> None:
    points = health().points("x0badcafe")

    assert [question.name for question in points.listed] == [V4.format(2), V6.format(2)]
    assert [question.name for question in points.unlisted] == [V4.format(1), V6.format(1)]
    assert points.random.name == RANDOM
    assert len({*points.all()}) == 5


def test_a_list_is_asked_once_it_has_passed_its_first_test() -> None:
    made = health()

    assert (made.state, asked(made, 0)) == ("untested", False)
    assert feed(made, GOOD) == list_health.Change("untested", "up", "answers correctly")
    assert asked(made, 0)
    assert feed(made, GOOD) is None


def test_a_list_without_probe_is_asked_at_once_and_never_tested() -> None:
    made = health(probe=False)

    assert asked(made, 0)
    assert not made.is_due(1e9)


@pytest.mark.parametrize(
    ("zone", "why"),
    [
        ({}, "does not list 127.0.0.2"),
        ({**GOOD, V4.format(1): A2}, "lists 127.0.0.1, as 127.0.0.2"),
        ({**GOOD, V6.format(1): A2}, "lists 127.0.0.1, as 127.0.0.2"),
        ({**GOOD, RANDOM: A2}, "lists everything: it lists a random name"),
        (
            {**GOOD, RANDOM: {"A": ["203.0.113.1"]}},
            "answers every query: the domain is parked, or the resolver rewrites answers",
        ),
        ({RANDOM: {"A": ["127.255.255.254"]}}, "answers every query with an error code"),
        ({V4.format(2): {"A": ["127.255.255.254"]}}, "answers 127.255.255.254 for 127.0.0.2"),
        ({V4.format(2): {"A": ["203.0.113.1"]}}, "answers 203.0.113.1 for 127.0.0.2"),
    ],
)
@pytest.mark.parametrize("before", [health, up])
def test_a_list_that_fails_its_test_is_suspended_until_it_passes(
    before: Any,  # noqa: ANN401 (makes a list)
    zone: dict[str, Any],
    why: str,
) -> None:
    made = before()
    change = feed(made, zone, 100)

    assert change is not None
    assert (change.after, change.why) == ("suspended", why)
    assert feed(made, zone, 200) is None
    assert not asked(made, 1e6)
    assert made.heard("listed", 1e6) is None
    assert not asked(made, 1e6)
    back = feed(made, GOOD, 300)
    assert back == list_health.Change("suspended", "up", "answers correctly")
    assert asked(made, 300)


def test_another_fault_of_a_suspended_list_is_told() -> None:
    made = up()
    feed(made, {})

    assert feed(made, {**GOOD, RANDOM: A2}) is not None


@pytest.mark.parametrize("family", [V4, V6])
def test_one_family_is_enough(family: str) -> None:
    made = health()
    feed(made, {family.format(2): A2})

    assert made.state == "up"


@pytest.mark.parametrize(
    ("probe", "zone"),
    [
        ({"listed": ["127.0.0.99"]}, {V4.format(2): {"A": ["127.0.0.99"]}}),
        ({"listed": ["203.0.113.[1..3]"]}, {V4.format(2): {"A": ["203.0.113.2"]}}),
        ({"listed": False}, {}),
        ({"unlisted": False}, {**GOOD, V4.format(1): A2}),
        ({"unlisted": ["127.0.0.10"]}, {**GOOD, V4.format(1): {"A": ["127.0.0.10"]}}),
        ({"unlisted": ["127.0.0.10"]}, GOOD),
    ],
)
def test_what_is_expected_can_be_told(probe: dict[str, Any], zone: dict[str, Any]) -> None:
    made, plain = health(probe), health()
    feed(made, zone)
    feed(plain, zone)

    assert made.state == "up"
    assert plain.state == ("up" if zone == GOOD else "suspended") or probe == {"listed": ["127.0.0.99"]}


@pytest.mark.parametrize("probe", [{"listed": ["127.0.0.99"]}, {"unlisted": ["127.0.0.10"]}])
def test_an_answer_that_is_not_expected_fails(probe: dict[str, Any]) -> None:
    made = health(probe)
    feed(made, {**GOOD, V4.format(1): A2})

    assert made.state == "suspended"


def test_a_list_of_any_answer_passes_with_one_outside() -> None:
    made = health(reading="any")
    feed(made, {V4.format(2): {"A": ["203.0.113.1"]}})

    assert made.state == "up"


@pytest.mark.parametrize("point", [V4.format(2), V4.format(1), RANDOM])
@pytest.mark.parametrize("word", ["SERVFAIL", "REFUSED", "DROP", "GARBAGE"])
def test_what_was_not_answered_proves_nothing(point: str, word: str) -> None:
    """A list that was up stays up; one that was never tested stays unasked, and says so once."""
    known, new = up(), health()

    assert feed(known, {**GOOD, point: word}) is None
    assert known.state == "up"
    change = feed(new, {**GOOD, point: word})
    assert change is not None
    assert change.after == "untested"
    assert feed(new, {**GOOD, point: word}) is None
    assert not asked(new, 0)


def test_a_list_for_ipv4_need_not_answer_for_ipv6() -> None:
    made = health()
    feed(made, {V4.format(2): A2, V6.format(2): "SERVFAIL", V6.format(1): "DROP"})

    assert made.state == "up"


def test_tests_are_due_every_half_an_hour_and_sooner_while_they_fail() -> None:
    made = health()
    assert made.is_due(0)
    assert not made.is_due(0)  # it is under way
    feed(made, GOOD, 1)
    assert [made.is_due(now) for now in (1799, 1800.9, 1801)] == [False, False, True]

    now, pauses = 1801.0, []
    for _ in range(9):
        feed(made, {}, now)
        pause = next(s for s in range(1, 2000) if made.is_due(now + s))
        pauses.append(pause)
        now += pause
    assert pauses == [10, 20, 40, 80, 160, 320, 600, 600, 600]


@pytest.mark.parametrize("outcome", TROUBLE)
def test_a_list_that_fails_three_times_in_a_row_is_paused(outcome: Outcome) -> None:
    made = up()
    for _ in range(2):
        made.heard(outcome, 0)
    made.heard("unlisted", 0)
    for _ in range(2):
        made.heard(outcome, 0)
    assert asked(made, 0)
    change = made.heard(outcome, 0)

    assert change == list_health.Change("up", "paused", f"3 failures in a row, the last: {outcome}")
    assert not asked(made, 9.9)


def test_a_paused_list_gets_one_question_and_then_a_longer_pause() -> None:
    made = up()
    for _ in range(3):
        made.heard("timeout", 0.0)
    now, asked_at = 0.0, []
    while now < 3000:
        now += 1
        granted = [asked(made, now) for _ in range(5)]
        assert granted in ([True, False, False, False, False], [False] * 5)
        if granted[0]:
            asked_at.append(now)
            assert made.heard("timeout", now) is None

    assert asked_at == [10, 30, 70, 150, 310, 630, 1230, 1830, 2430]
    assert asked(made, 3030)
    assert made.heard("unlisted", 3031) == list_health.Change("paused", "up", "answers correctly")
    assert [asked(made, 3031) for _ in range(3)] == [True] * 3
    for _ in range(3):
        made.heard("timeout", 4000)
    assert [asked(made, 4000 + s) for s in (9, 10)] == [False, True]


def test_the_first_pause_is_a_setting() -> None:
    made = list_health.ListHealth("bl.test", False, "safe", 3)
    for _ in range(3):
        made.heard("timeout", 0)

    assert [made.tries(now) for now in (2, 3, 4)] == [False, True, False]
    made.heard("timeout", 4)
    assert [made.tries(now) for now in (9, 10)] == [False, True]
    made.heard("unlisted", 10)
    for _ in range(3):
        made.heard("timeout", 20)
    assert [made.tries(now) for now in (22, 23)] == [False, True]


def test_late_failures_do_not_make_a_pause_longer() -> None:
    made = up()
    for _ in range(100):
        made.heard("timeout", 0)

    assert [asked(made, now) for now in (9, 10)] == [False, True]


def test_a_question_that_comes_to_nothing_does_not_keep_a_list_paused() -> None:
    """Its client went away before there was an answer: the next pause lets another one through."""
    made = up()
    for _ in range(3):
        made.heard("timeout", 0)

    assert [asked(made, now) for now in (10, 11, 20)] == [True, False, True]


def test_a_test_that_passes_ends_a_pause() -> None:
    made = up()
    for _ in range(3):
        made.heard("timeout", 0)
    feed(made, GOOD, 5)

    assert asked(made, 5)


def test_signs_of_trouble_are_told_once_until_a_test_has_passed() -> None:
    made = up()

    def told(outcome: Outcome) -> bool:
        change = made.heard(outcome, 0)
        made.heard("unlisted", 0)
        return change is not None

    assert [told(o) for o in ("error", "error", "outside", "outside", "servfail")] == [
        True, False, True, False, False,
    ]  # fmt: skip
    feed(made, GOOD, 1800)
    assert told("error")


def test_answers_are_counted_by_class() -> None:
    made = up()
    for outcome in (*TROUBLE, "listed", "unlisted", "unlisted"):
        made.heard(outcome, 0)

    assert made.counts == {**dict.fromkeys((*TROUBLE, "listed"), 1), "unlisted": 2}


@given(
    st.lists(
        st.tuples(st.sampled_from(["ask", "test", *TROUBLE, "unlisted"]), st.floats(0, 100)), max_size=60
    )
)
def test_a_list_always_comes_back(steps: list[tuple[Any, float]]) -> None:
    """After any history, a list that works again is asked within the longest pause and one test."""
    made, now = health(), 0.0
    for step, pause in steps:
        now += pause
        if step == "ask":
            asked(made, now)
        elif step == "test":
            feed(made, {} if pause < 50 else GOOD, now)
        else:
            made.heard(step, now)
    for _ in range(2):
        now += breaker.LONGEST
        if made.is_due(now):
            feed(made, GOOD, now)
        if asked(made, now):
            made.heard("unlisted", now)

    assert made.state == "up"
