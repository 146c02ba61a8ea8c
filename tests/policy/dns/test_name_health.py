from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpdconf.policy.dns import breaker, name_health, query
from tcpdconf.policy.dns import health as list_health

SPOKEN: list[query.Status] = ["answer", "nxdomain", "servfail", "refused", "malformed"]
SILENT: list[query.Status] = ["timeout", "unreachable"]
BACK = list_health.Change("paused", "up", "a name server answers")


def feed(made: name_health.NameHealth, status: query.Status, times: int = 1, now: float = 0) -> None:
    """Return the results of so many questions about clients; none of them may change the state."""
    for _ in range(times):
        assert made.heard(status, now, client=True) is None


def paused() -> name_health.NameHealth:
    """One whose first pause has begun at 0."""
    made = name_health.NameHealth(10)
    feed(made, "timeout", 2)
    assert made.proved("timeout", 0) is not None
    return made


def test_the_own_question_is_about_an_address_that_nobody_has() -> None:
    assert name_health.own_question(0x0123456) == query.Question("86.52.18.240.in-addr.arpa", "PTR")
    assert name_health.own_question(0xFFFFFFF).name == "255.255.255.255.in-addr.arpa"


@pytest.mark.parametrize("status", SILENT)
def test_silence_about_clients_and_about_the_own_question_is_a_pause(status: query.Status) -> None:
    made = name_health.NameHealth(10)
    feed(made, status, 2)
    assert made.doubtful

    why = f"no name server answers: 3 failures in a row, the last: {status}"
    assert made.proved(status, 0) == list_health.Change("up", "paused", why)
    assert (made.state, made.why, made.doubtful) == ("paused", why, False)


def test_after_an_own_question_without_an_answer_clients_tell() -> None:
    made = name_health.NameHealth(10)
    feed(made, "timeout")
    assert made.proved("timeout", 0) is None
    assert not made.doubtful

    assert made.heard("timeout", 0, client=True) is not None


@pytest.mark.parametrize("status", SPOKEN)
def test_silence_about_clients_alone_is_none(status: query.Status) -> None:
    """The owner of a reverse zone can leave every query about its addresses without an answer."""
    made = name_health.NameHealth(10)
    feed(made, "timeout", 50)

    assert made.proved(status, 0) is None
    assert (made.state, made.doubtful) == ("up", False)
    feed(made, "timeout", 50)
    assert made.doubtful


@pytest.mark.parametrize("status", SPOKEN)
def test_whatever_a_server_says_about_a_client_shows_that_it_answers(status: query.Status) -> None:
    made = name_health.NameHealth(10)
    for _ in range(9):
        feed(made, "timeout", 2)
        feed(made, status)
        assert not made.doubtful

    assert made.state == "up"


def test_an_answer_after_an_own_failure_begins_the_row_anew() -> None:
    made = name_health.NameHealth(10)
    feed(made, "timeout")
    made.proved("timeout", 0)
    feed(made, "servfail")
    feed(made, "timeout", 50)

    assert made.doubtful


def test_an_own_question_that_an_answer_has_overtaken_proves_nothing() -> None:
    made = name_health.NameHealth(10)
    feed(made, "timeout")
    feed(made, "nxdomain")
    assert made.proved("timeout", 0) is None
    feed(made, "timeout", 50)

    assert made.doubtful


def test_the_own_end_of_a_connection_is_counted_and_proves_nothing() -> None:
    made = name_health.NameHealth(10)
    for status in (*SILENT * 9, *SPOKEN):
        assert made.heard(status, 0, client=False) is None
    assert not made.doubtful

    feed(made, "timeout", 2)
    made.heard("answer", 0, client=False)
    assert made.proved("timeout", 0) is not None
    assert made.counts == {"timeout": 11, "unreachable": 9, **dict.fromkeys(SPOKEN, 1), "answer": 2}


def test_only_own_questions_make_a_pause_longer() -> None:
    made = paused()
    feed(made, "timeout", 50, now=9)
    assert [made.tries(now) for now in (9, 10)] == [False, True]
    feed(made, "timeout", 50, now=11)
    assert made.proved("timeout", 15) is None

    assert [made.tries(now) for now in (34, 35)] == [False, True]


@pytest.mark.parametrize("status", SPOKEN)
def test_an_answer_ends_a_pause(status: query.Status) -> None:
    tried, late = paused(), paused()
    assert tried.tries(10)

    assert tried.proved(status, 10) == late.heard(status, 5, client=True) == BACK
    assert (tried.state, tried.why) == ("up", "a name server answers")
    feed(tried, "timeout", 50)
    assert tried.doubtful


@given(
    st.lists(
        st.tuples(st.sampled_from(["try", "own", "client"]), st.sampled_from([*SILENT, *SPOKEN])), max_size=60
    )
)
def test_names_always_come_back(steps: list[tuple[str, Any]]) -> None:
    """After any history, name servers that answer again are asked within the longest pause."""
    made, now = name_health.NameHealth(10), 0.0
    for step, status in steps:
        now += 7
        if step == "try":
            made.tries(now)
        elif step == "own":
            made.proved(status, now)
        else:
            made.heard(status, now, client=True)
    if made.state == "paused":
        now += breaker.LONGEST
        assert made.tries(now)
        made.proved("nxdomain", now)

    assert made.state == "up"
