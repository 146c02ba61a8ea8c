"""The cache of the resolver, with a clock that the tests turn."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpdconf.daemon.dns.cache import Cache
from tcpdconf.policy.dns import query

YES = query.Answer("answer", addresses=("127.0.0.2",), ttl=100)
NO = query.Answer("nxdomain", ttl=100)


def key(number: int) -> bytes:
    return b"%d" % number


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (YES, 100),
        (YES._replace(ttl=86400), 3600),
        (YES._replace(ttl=1), 1),
        (YES._replace(ttl=0), 0),
        (NO, 100),
        (NO._replace(ttl=86400), 900),
        (NO._replace(ttl=0), 0),
        (query.Answer("answer", ttl=86400), 900),
        (query.Answer("servfail"), 2),
        (query.Answer("refused"), 2),
        (query.Answer("timeout"), 2),
        (query.Answer("malformed"), 2),
    ],
)
def test_answers_are_kept_for_their_time(answer: query.Answer, seconds: int) -> None:
    cache = Cache(10)
    cache.put(b"question", answer, 1000)

    assert cache.get(b"question", 1000 + seconds - 0.1) == (answer if seconds else None)
    assert cache.get(b"question", 1000 + seconds) is None


@pytest.mark.parametrize(
    ("shortest", "longest", "answer", "seconds"),
    [
        (60, 3600, YES._replace(ttl=0), 60),
        (60, 3600, NO._replace(ttl=0), 60),
        (1200, 3600, NO, 1200),
        (0, 50, YES, 50),
        (0, 50, NO, 50),
        (0, 0, YES, 0),
        (0, 0, query.Answer("servfail"), 0),
        (60, 3600, query.Answer("servfail"), 2),
    ],
)
def test_bounds_of_that_time(shortest: float, longest: float, answer: query.Answer, seconds: int) -> None:
    cache = Cache(10, shortest, longest)
    cache.put(b"question", answer, 1000)

    assert cache.get(b"question", 1000 + seconds - 0.1) == (answer if seconds else None)
    assert cache.get(b"question", 1000 + seconds) is None


@given(st.floats(0, 1e9), st.floats(1, 3600))
def test_nothing_is_kept_too_long(now: float, ttl: float) -> None:
    cache = Cache(10)
    cache.put(b"question", YES._replace(ttl=ttl), now)

    assert cache.get(b"question", now + ttl) is None


def test_a_new_answer_takes_the_place_of_the_old() -> None:
    cache = Cache(4)
    for number in range(4):
        cache.put(key(number), NO, 0)
    cache.put(key(0), YES, 0)

    assert cache.get(key(0), 0) == YES
    assert len(cache) <= 4


@pytest.mark.parametrize("entries", [1, 2, 3, 10, 1000])
def test_the_number_of_answers_is_bounded(entries: int) -> None:
    cache = Cache(entries)
    for number in range(5 * entries):
        cache.put(key(number), NO, 0)
        assert len(cache) <= entries


def test_what_is_used_stays() -> None:
    cache = Cache(100)
    cache.put(b"used", YES, 0)
    for number in range(1000):
        cache.put(key(number), NO, 0)
        if number % 40 == 0:
            assert cache.get(b"used", 0) == YES
    assert cache.get(key(0), 0) is None
    assert cache.get(key(999), 0) == NO


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=200))
def test_the_last_used_half_stays(steps: list[tuple[int, bool]]) -> None:
    """However it is used: as many as are half of the bound, the last ones, are there."""
    cache = Cache(10)
    recent: list[int] = []
    for number, put in steps:
        if put:
            cache.put(key(number), YES, 0)
        elif cache.get(key(number), 0) is None:
            assert number not in recent[:5]
            continue
        recent = [number, *(other for other in recent if other != number)]


def test_large_answers_count_for_more() -> None:
    """Half a megabyte in a cache of a thousand answers, however many of them come."""
    cache = Cache(1000)
    text = query.Answer("answer", texts=tuple((b"x" * 255,) * 4 for _ in range(64)), ttl=100)
    names = query.Answer("answer", names=("x" * 255,) * 64, ttl=100)
    for number in range(1000):
        cache.put(key(number), (text, names)[number % 2], 0)

    assert 0 < len(cache) < 30


def test_an_answer_too_large_for_the_cache_is_not_kept() -> None:
    cache = Cache(100)
    cache.put(b"small", YES, 0)
    cache.put(b"large", query.Answer("answer", texts=((b"x" * 255,) * 200,), ttl=100), 0)

    assert [cache.get(b"small", 0), cache.get(b"large", 0)] == [YES, None]
