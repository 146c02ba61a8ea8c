from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import links
from support.dns import dnsanswers

from tcpdconf.policy.dns import hostname, query

PTR = "5.0.0.127.in-addr.arpa"
PTR6 = "1" + ".0" * 31 + ".ip6.arpa"
NAMED = {PTR: {"PTR": ["client.test"]}}
NAMED6 = {PTR6: {"PTR": ["six.test"]}}


def looked_up(
    zone: Mapping[str, dnsanswers.Records], peer: str = "127.0.0.5"
) -> tuple[hostname.Verdict, list[query.Question]]:
    """The verdict, and every question that it took."""
    found: dict[query.Question, query.Answer] = {}
    for _ in range(4):
        verdict = hostname.judge(links.end(peer), found)
        if verdict.open is None:
            return verdict, list(found)
        found |= dnsanswers.answers(zone, [verdict.open])
    raise AssertionError(found)


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        ({}, None),
        ({PTR: {"MX": []}}, None),
        ({**NAMED, "client.test": {"A": ["127.0.0.5"]}}, "client.test"),
        ({**NAMED, "client.test": {"A": ["127.0.0.8", "127.0.0.5", "127.0.0.9"]}}, "client.test"),
        ({**NAMED, "client.test": {"A": ["127.0.0.5"], "AAAA": "SERVFAIL"}}, "client.test"),
        ({**NAMED, "client.test": {"A": ["127.0.0.77"]}}, None),
        ({**NAMED, "client.test": {"A": ["127.0.0.77"], "AAAA": "SERVFAIL"}}, None),
        ({**NAMED, "client.test": {"AAAA": "SERVFAIL"}}, "softdnserr"),
        ({**NAMED, "client.test": {"AAAA": ["::1"]}}, None),
        ({**NAMED, "client.test": {"AAAA": ["::ffff:127.0.0.5"]}}, "client.test"),
        ({**NAMED, "client.test": {"AAAA": ["::1", "::ffff:127.0.0.5"]}}, "client.test"),
        ({**NAMED, "client.test": {"A": ["127.0.0.77"], "AAAA": ["::ffff:127.0.0.5"]}}, "client.test"),
        ({**NAMED, "client.test": {"A": "SERVFAIL", "AAAA": ["::ffff:127.0.0.5"]}}, "softdnserr"),
        ({**NAMED, "client.test": {"AAAA": ["::ffff:127.0.0.6"]}}, None),
        ({**NAMED, "client.test": {"AAAA": ["::127.0.0.5"]}}, None),
        (NAMED, None),
        ({**NAMED, "client.test": "SERVFAIL"}, "softdnserr"),
        ({PTR: "SERVFAIL"}, "softdnserr"),
        ({PTR: "REFUSED"}, "softdnserr"),
        ({PTR: "DROP"}, "softdnserr"),
        ({PTR: "GARBAGE"}, "softdnserr"),
        ({PTR: {"PTR": ["one.test", "two.test"]}, "two.test": {"A": ["127.0.0.5"]}}, "two.test"),
        ({PTR: {"PTR": ["one.test", "two.test"]}, "one.test": {"A": ["127.0.0.5"]}}, None),
        ({PTR: {"PTR": ["my_client.test"]}, "my_client.test": {"A": ["127.0.0.5"]}}, "my_client.test"),
        ({PTR: {"PTR": ["Client.TEST"]}, "client.test": {"A": ["127.0.0.5"]}}, "Client.TEST"),
        ({PTR: {"PTR": ["client"]}, "client": {"A": ["127.0.0.5"]}}, "client"),
        ({PTR: {"PTR": ["xn--bcher-kva.test"]}, "xn--bcher-kva.test": {"A": ["127.0.0.5"]}}, "bücher.test"),
    ],
)
def test_the_name_of_an_ipv4_address_is_couriertcpds(
    zone: dict[str, dnsanswers.Records], expected: str | None
) -> None:
    assert expected == looked_up(zone)[0].value


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        ({}, None),
        ({PTR6: "SERVFAIL"}, "softdnserr"),
        ({**NAMED6, "six.test": {"AAAA": ["::1"]}}, "six.test"),
        ({**NAMED6, "six.test": {"A": "SERVFAIL", "AAAA": ["::1"]}}, "six.test"),  # better than couriertcpd
        ({**NAMED6, "six.test": {"A": "SERVFAIL", "AAAA": ["::2"]}}, "softdnserr"),
        ({**NAMED6, "six.test": {"A": ["127.0.0.5"], "AAAA": "SERVFAIL"}}, None),
        ({**NAMED6, "six.test": {"AAAA": "SERVFAIL"}}, "softdnserr"),
        ({**NAMED6, "six.test": {"A": ["127.0.0.5"]}}, None),
        ({**NAMED6, "six.test": {"AAAA": ["::2"]}}, None),
        (NAMED6, None),
    ],
)
def test_the_name_of_an_ipv6_address(zone: dict[str, dnsanswers.Records], expected: str | None) -> None:
    assert expected == looked_up(zone, "::1")[0].value


def test_a_name_that_leads_back_takes_two_questions() -> None:
    _, asked = looked_up({**NAMED, "client.test": {"A": ["127.0.0.5"]}}, "::ffff:127.0.0.5")

    assert asked == [query.Question(PTR, "PTR"), query.Question("client.test", "A")]


@pytest.mark.parametrize(
    "name",
    [
        "a b.test",
        "a\nb.test",
        "a\x1b[2J.test",
        "a=b.test",
        "$(x).test",
        "../x",
        "a..test",
        "",
        ".test",
        "bücher.test",
        "a" * 64 + ".test",
        "a." * 126 + "aa",
        "a.test\n",
    ],
)
def test_what_is_no_host_name_is_no_name(name: str) -> None:
    verdict, asked = looked_up({PTR: {"PTR": [name]}, name.lower(): {"A": ["127.0.0.5"]}})

    assert (verdict.value, len(asked)) == (None, 1)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("xn--bcher-kva.test", "bücher.test"),
        ("XN--BCHER-KVA.Test", "bücher.Test"),
        ("xn--strae-oqa.test", "straße.test"),
        ("a.xn--e1afmkfd.xn--p1ai", "a.пример.рф"),
        # none of these is what it says it is: control characters, plain letters, broken, not normal, capitals
        ("xn--a-ecp.test", None),
        ("xn--abc-.test", None),
        ("xn--.test", None),
        ("xn--99999999999.test", None),
        ("xn--" + "a\u202eb".encode("punycode").decode() + ".test", None),
        ("xn--" + "a\u200db".encode("punycode").decode() + ".test", None),
        ("xn--" + "a\x85b".encode("punycode").decode() + ".test", None),
        ("xn--" + "a\u0308b".encode("punycode").decode() + ".test", None),
        ("xn--" + "BÜcher".encode("punycode").decode() + ".test", None),
        ("xn--" + "a\u2024b".encode("punycode").decode() + ".test", None),
        ("xn--bcher-kva.xn--99999999999", None),
    ],
)
def test_an_international_name_is_shown_as_it_is_written(name: str, shown: str | None) -> None:
    assert (shown or name) == hostname.displayed(name)


@given(st.text(max_size=20).map(lambda text: "xn--" + text.encode("punycode").decode("ascii", "replace")))
def test_no_control_character_gets_through(label: str) -> None:
    if hostname.is_valid(label):
        shown = hostname.displayed(label)

        assert shown.isprintable()
        assert " " not in shown
        assert shown.count(".") == label.count(".")


@given(st.sampled_from(["127.0.0.5", "::1"]), st.data())
def test_whatever_is_answered_it_ends_with_a_verdict(peer: str, data: st.DataObject) -> None:
    records: st.SearchStrategy[Any] = st.sampled_from(
        [None, "SERVFAIL", {"A": ["127.0.0.5"]}, {"AAAA": ["::1"]}, {"PTR": ["n.test"]}, {"A": "DROP"}]
    )
    zone = {name: found for name in (PTR, PTR6, "n.test") if (found := data.draw(records)) is not None}
    verdict, asked = looked_up(zone, peer)

    assert verdict.value in {None, "n.test", "softdnserr"}
    assert len(asked) <= 3


def test_an_alias_that_the_server_has_not_followed_is_asked_about() -> None:
    own, delegated = query.Question(PTR, "PTR"), query.Question("5.0-7.0.0.127.in-addr.arpa", "PTR")
    name = query.Question("client.test", "A")
    answers = {own: query.Answer("answer", alias=delegated.name)}

    assert hostname.judge(links.end("127.0.0.5"), answers).open == delegated
    answers[delegated] = query.Answer("answer", names=("client.test",))
    assert hostname.judge(links.end("127.0.0.5"), answers).open == name
    answers[name] = query.Answer("answer", alias="host.test")
    answers[query.Question("host.test", "A")] = query.Answer("answer", ("127.0.0.5",))
    assert hostname.judge(links.end("127.0.0.5"), answers).value == "client.test"


def test_aliases_of_each_other_end() -> None:
    own, other = query.Question(PTR, "PTR"), query.Question("x.test", "PTR")
    answers = {own: query.Answer("answer", alias="x.test"), other: query.Answer("answer", alias=PTR)}

    assert hostname.judge(links.end("127.0.0.5"), answers).value is None
