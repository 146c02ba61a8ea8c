import pytest

from tcpdconf.policy.dns import breaker


def broken(pause: float = 10) -> breaker.Breaker:
    """One whose first pause has begun at 0."""
    made = breaker.Breaker(pause)
    assert [made.failed(0) for _ in range(breaker.FAILURES)] == [False, False, True]
    return made


def test_failures_in_a_row_begin_a_pause() -> None:
    made = breaker.Breaker(10)
    told = [made.failed(0), made.failed(0), made.passed(), made.failed(0), made.failed(0)]

    assert told == [False] * 5
    assert not made.paused
    assert made.failed(0)
    assert made.paused


def test_a_pause_lets_one_try_through_and_then_is_twice_as_long() -> None:
    made, now, tried = broken(), 0.0, []
    while now < 3000:
        now += 1
        if made.tries(now):
            assert not made.tries(now)
            tried.append(now)
            assert not made.failed(now)

    assert tried == [10, 30, 70, 150, 310, 630, 1230, 1830, 2430]


@pytest.mark.parametrize("first", [3, 1000])
def test_the_first_pause_is_the_shortest(first: float) -> None:
    made = broken(first)
    made.tries(first)
    made.failed(first)

    assert [made.tries(first + then) for then in (first - 1, min(2 * first, max(600, first)))] == [
        False,
        True,
    ]


def test_what_fails_late_does_not_make_a_pause_longer() -> None:
    made = broken()
    for _ in range(50):
        assert not made.failed(5)

    assert [made.tries(now) for now in (9, 10)] == [False, True]


def test_a_try_of_which_nothing_is_heard_is_made_again_a_pause_later() -> None:
    made = broken()

    assert [made.tries(now) for now in (10, 19, 20)] == [True, False, True]


def test_a_success_ends_the_pause_and_is_told_once() -> None:
    made = broken()
    made.tries(10)
    made.failed(10)

    assert [made.passed(), made.passed()] == [True, False]
    assert not made.tries(1000)
    assert [made.failed(1000) for _ in range(3)] == [False, False, True]
    assert [made.tries(now) for now in (1009, 1010)] == [False, True]


def test_a_failure_that_may_not_begin_a_pause_counts_all_the_same() -> None:
    made = breaker.Breaker(10)

    assert [made.failed(0, pauses=False) for _ in range(9)] == [False] * 9
    assert made.failed(0)
