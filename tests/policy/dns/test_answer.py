import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpdconf.config.model import answerfilter
from tcpdconf.policy.dns import answer as dns_answer
from tcpdconf.policy.dns import query
from tcpdconf.policy.dns.answer import Reading


def passes(text: str, address: str) -> bool:
    return answerfilter.read(text).admits(answerfilter.octets(address))


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("127.0.0.2", ["127.0.0.2"], ["127.0.0.3", "127.0.2.2", "10.0.0.2"]),
        ("127.0.0.[2..11]", ["127.0.0.2", "127.0.0.7", "127.0.0.11"], ["127.0.0.1", "127.0.0.12"]),
        ("127.0.0.[2;4;10..12]", ["127.0.0.2", "127.0.0.4", "127.0.0.12"], ["127.0.0.3", "127.0.0.9"]),
        ("127.[0;2].[0..1].[5]", ["127.0.0.5", "127.2.1.5"], ["127.1.0.5", "127.0.2.5", "127.0.0.4"]),
        ("127.0.0.[0..255]", ["127.0.0.0", "127.0.0.255"], ["127.0.1.0"]),
        ("127.0.0.[7..7]", ["127.0.0.7"], ["127.0.0.8"]),
        ("127.0.0.0/28", ["127.0.0.0", "127.0.0.15"], ["127.0.0.16", "127.0.1.1"]),
        ("127.0.16.0/20", ["127.0.16.0", "127.0.31.255"], ["127.0.32.0", "127.0.15.255"]),
        ("127.0.0.0/8", ["127.255.255.255"], ["128.0.0.0"]),
        ("127.0.0.2/32", ["127.0.0.2"], ["127.0.0.3"]),
    ],
)
def test_filters(text: str, inside: list[str], outside: list[str]) -> None:
    assert [address for address in inside if not passes(text, address)] == []
    assert [address for address in outside if passes(text, address)] == []


@pytest.mark.parametrize(
    ("text", "said", "meant"),
    [
        ("127.0.0.[2..300]", "octet 4 of", None),
        ("127.0.[9..8].1", "octet 3 of", "127.0.[8..9].1"),
        ("127.0.0.[2-11]", "octet 4 of", "127.0.0.[2..11]"),
        ("127.0.0.[2:11]", "octet 4 of", "127.0.0.[2..11]"),
        ("127.0.0.[2,4]", "octet 4 of", "127.0.0.[2;4]"),
        ("127.0.0.[2; 4]", "octet 4 of", "127.0.0.[2;4]"),
        ("127.0.0.(2..4)", "must be four octets", "127.0.0.[2..4]"),
        ("127.0.0.2-11", "octet 4 of", "127.0.0.[2..11]"),
        ("127.0.0.2..11", "must be four octets", "127.0.0.[2..11]"),
        ("127.0.0.2;4", "octet 4 of", "127.0.0.[2;4]"),
        ("127.2", "must be four octets", "127.0.0.2"),
        ("127.0.0", "must be four octets", None),
        ("127.0.0.2.3", "must be four octets", None),
        ("127.0.0.2.", "must be four octets", None),
        ("127.0.0.[2..4", "must be four octets", None),
        ("127.0.0.[]", "a number is missing", None),
        ("127.0.0.[2;]", "a number is missing", None),
        ("127.0.0.[..4]", "a number is missing", None),
        ("127.0.0.02", '"02" is no number', None),
        ("127.0.0.\u0662", "is no number", None),
        ("127.0.0.x", '"x" is no number', None),
        ("127.0.0.2 ", "octet 4 of", "127.0.0.2"),
        ("", "must be four octets", None),
        ("127.0.0.1/24", "has bits set after its prefix", "127.0.0.0/24"),
        ("::1/128", "must be IPv4", None),
    ],
)
def test_what_is_no_filter_is_told_where(text: str, said: str, meant: str | None) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the text is what is tested)
        answerfilter.read(text)
    message, _, suggestion = str(error.value).partition("; did you mean ")

    assert said in message
    assert suggestion == (f'"{meant}"?' if meant else "")


@pytest.mark.parametrize("value", [5, True, None, ["127.0.0.2"]])
def test_a_filter_is_a_text(value: object) -> None:
    with pytest.raises(ValueError, match=r"^must be an address or a pattern"):
        answerfilter.read(value)


OCTETS = st.integers(0, 255)
PARTS = st.one_of(OCTETS.map(str), st.tuples(OCTETS, OCTETS).map(lambda pair: f"{min(pair)}..{max(pair)}"))


@given(st.lists(st.lists(PARTS, min_size=1, max_size=3), min_size=4, max_size=4), st.tuples(*[OCTETS] * 4))
def test_a_filter_is_its_octets(written: list[list[str]], address: tuple[int, ...]) -> None:
    found = answerfilter.read(".".join(f"[{';'.join(parts)}]" for parts in written))

    def holds(part: str, number: int) -> bool:
        low, _, high = part.partition("..")
        return int(low) <= number <= int(high or low)

    expected = all(any(holds(part, n) for part in parts) for parts, n in zip(written, address, strict=True))
    assert expected == found.admits(address)


@given(st.text(alphabet="0123456789.[];/- x", max_size=24))
def test_any_text_is_a_filter_or_an_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert all(answerfilter.read(text))


GOOD, LOOPBACK, CODE, OUTSIDE = "127.0.0.2", "127.0.0.1", "127.255.255.254", "203.0.113.1"


@pytest.mark.parametrize(
    ("addresses", "safe"),
    [
        ([], "unlisted"),
        ([GOOD], "listed"),
        (["127.255.254.1"], "listed"),
        ([LOOPBACK], "error"),
        ([GOOD, LOOPBACK], "listed"),
        ([CODE], "error"),
        (["127.255.255.0"], "error"),
        ([GOOD, CODE], "error"),
        ([OUTSIDE], "outside"),
        (["0.0.0.0"], "outside"),
        (["12.7.0.0"], "outside"),
        ([GOOD, OUTSIDE], "outside"),
    ],
)
def test_the_class_of_an_answer(addresses: list[str], safe: str) -> None:
    for order in itertools.permutations(addresses):
        answer = query.Answer("answer", addresses=order)

        assert dns_answer.outcome(answer, "safe") == safe
        assert dns_answer.outcome(answer, "any") == ("listed" if addresses else "unlisted")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("answer", "unlisted"), ("nxdomain", "unlisted"), ("servfail", "servfail"), ("refused", "refused"),
        ("timeout", "timeout"), ("malformed", "malformed"), ("suspended", "suspended"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("reading", ["safe", "any"])
def test_the_class_of_an_answer_without_records(
    status: query.Status, expected: str, reading: Reading
) -> None:
    assert dns_answer.outcome(query.Answer(status), reading) == expected
