import pickle
from collections.abc import Mapping

import pytest
from support import links
from support.dns import chains, dnsanswers

from tcpdconf.config.model.dns import DnsChain
from tcpdconf.policy.dns import answer as dns_answer
from tcpdconf.policy.dns import chain as dns_chain
from tcpdconf.policy.dns import judge, query
from tcpdconf.policy.dns.chain import Chain

Table = chains.Table
CLIENT, FRONT, A2, TWO, ONLY = chains.CLIENT, chains.FRONT, chains.A2, chains.TWO, chains.ONLY
service, chain, weighed, block, allow = (
    chains.service, chains.chain, chains.weighed, chains.block, chains.allow,
)  # fmt: skip
NIBBLES = "1" + ".0" * 31 + "."  # ::1
BOTH = {"A": ["127.0.0.2"], "TXT": ["Listed, see http://bl.test/"]}


def judged(
    made: Chain,
    zones: Mapping[str, dnsanswers.Records],
    environment: Mapping[str, str] | None = None,
    peer: str = "127.0.0.5",
) -> judge.Judgement:
    """The judgement when everything that is asked has been answered; `zones` hold the client's records."""
    client, given_environment = links.end(peer), environment or {}
    front = query.labels(client) + "."
    asked = judge.questions(made, client, given_environment)
    found = dnsanswers.answers({front + zone: records for zone, records in zones.items()}, asked)
    return judge.judge(made, client, found, given_environment)


def listing(value: str, address: str = "127.0.0.2", zone: str = "bl.test", name: str = "BLOCK") -> Table:
    return {name: value, f"{name}_IP": address, f"{name}_ZONE": zone}


BLACKLISTED = listing("Blacklisted by bl.test")
ALLOWED = {**listing(""), "ALLOW_0": "BLOCK"}

# Observed of couriertcpd with -block and -allow: lists, the client's records by zone, variables.
COURIER = [
    ([block()], {"bl.test": A2}, BLACKLISTED),
    ([block()], {"bl.test": BOTH}, BLACKLISTED),
    ([block()], {}, {}),
    ([block()], {"bl.test": {"MX": []}}, {}),
    ([block()], {"bl.test": ONLY}, {}),
    ([block()], {"bl.test": TWO}, BLACKLISTED),
    ([block(variable="V", message="")], {"bl.test": BOTH}, listing("Blacklisted by bl.test", name="V")),
    ([block(match=["127.0.0.2"])], {"bl.test": A2}, BLACKLISTED),
    ([block(match=["127.0.0.3"])], {"bl.test": A2}, {}),
    ([block(match=["127.0.0.2"], message="MYVAR")], {"bl.test": A2}, listing("MYVAR")),
    ([block(message="Go away")], {"bl.test": BOTH}, listing("Go away")),
    (
        [block(message="Go away, see http://x.test/?ip=@")],
        {"bl.test": A2},
        listing("Go away, see http://x.test/?ip=::ffff:127.0.0.5"),
    ),
    ([block(message="@ and @")], {"bl.test": A2}, listing("::ffff:127.0.0.5 and @")),
    ([block(message="x")], {"bl.test": TWO}, listing("x", "127.0.0.3")),
    (
        [block(txt=True, message="*")],
        {"bl.test": ONLY},
        {"BLOCK": "only text", "BLOCK_TXT": "only text", "BLOCK_ZONE": "bl.test"},
    ),
    ([block(txt=True, message="*")], {"bl.test": A2}, listing("*")),
    ([block(txt=True, message="*")], {"bl.test": {**A2, "TXT": [""]}}, listing("*")),
    *(
        ([block(txt=True)], {"bl.test": {**A2, "TXT": [text]}}, {**listing(text), "BLOCK_TXT": text})
        for text in ("see http://x/ ", "  see", "   ")  # as couriertcpd passes it on
    ),
    ([block(txt=True, message="*")], {"bl.test": {**A2, "TXT": "SERVFAIL"}}, listing("*")),
    ([block(txt=True, message="*")], {}, {}),
    ([block(txt=True, message="*")], {"bl.test": {"MX": []}}, {}),
    (
        [block(txt=True, message="*")],
        {"bl.test": {**A2, "TXT": ["see @"]}},
        {**listing("see @"), "BLOCK_TXT": "see @"},
    ),
    ([block(match=["127.0.0.2"], message="*")], {"bl.test": BOTH}, listing("*")),
    ([block()], {"bl.test": "GARBAGE"}, {}),
    ([block()], {"bl.test": "SERVFAIL"}, {}),
    ([block()], {"bl.test": "REFUSED"}, {}),
    ([block()], {"bl.test": "DROP"}, {}),
    ([block()], {"bl.test": {"A": ["203.0.113.1"]}}, listing("Blacklisted by bl.test", "203.0.113.1")),
    ([block("bl.test.")], {"bl.test": A2}, listing("Blacklisted by bl.test.", zone="bl.test.")),
    ([allow()], {"bl.test": BOTH}, ALLOWED),
    ([allow(display_zone="shown.example")], {"bl.test": A2}, {**ALLOWED, "BLOCK_ZONE": "shown.example"}),
    ([allow(txt=True)], {"bl.test": BOTH}, {**ALLOWED, "BLOCK_TXT": "Listed, see http://bl.test/"}),
    (
        [allow(txt=True)],
        {"bl.test": ONLY},
        {"BLOCK": "", "BLOCK_TXT": "only text", "BLOCK_ZONE": "bl.test"},
    ),
    ([allow(match=["127.0.0.9"])], {"bl.test": TWO}, {}),
    (
        [allow(variable="V", match=["127.0.0.3"], txt=True)],
        {"bl.test": TWO},
        {**listing("", "127.0.0.3", name="V"), "V_TXT": "t1", "ALLOW_0": "V"},
    ),
    ([allow(variable="V", match=["127.0.0.3"], txt=True)], {"bl.test": ONLY}, {}),
    ([block(), allow("wl.test")], {"bl.test": BOTH, "wl.test": A2}, BLACKLISTED),
    ([allow("wl.test"), block()], {"bl.test": A2, "wl.test": A2}, {**ALLOWED, "BLOCK_ZONE": "wl.test"}),
    ([block(), block("b2.test")], {"bl.test": BOTH, "b2.test": {"A": ["127.0.0.9"]}}, BLACKLISTED),
    (
        [allow("wl.test"), allow(variable="OTHER")],
        {"bl.test": BOTH, "wl.test": {"A": ["127.0.0.9"]}},
        {
            **listing("", "127.0.0.9", "wl.test"),
            **listing("", name="OTHER"),
            "ALLOW_0": "BLOCK",
            "ALLOW_1": "OTHER",
        },
    ),
    (
        [block(variable=f"V{n}", match=[f"127.0.0.{n}"], message=f"m{n}") for n in (2, 3, 4)],
        {"bl.test": TWO},
        {**listing("m2", name="V2"), **listing("m3", "127.0.0.3", name="V3")},
    ),
    (
        [block(f"b{n}.test") for n in range(12)],
        {"b9.test": A2},
        listing("Blacklisted by b9.test", zone="b9.test"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("lists", "zones", "expected"), COURIER)
def test_variables_are_couriertcpds(lists: list[Table], zones: Table, expected: Table) -> None:
    judgement = judged(chain(*({**one, "answers": "any"} for one in lists)), zones)

    assert expected == judgement.variables
    assert judgement.open == frozenset()


@pytest.mark.parametrize(
    ("zones", "expected"),
    [
        ({"bl.test": A2}, {**listing("no ::1")}),
        ({}, {}),
    ],
)
def test_an_ipv6_client_is_asked_for_by_its_nibbles(zones: Table, expected: Table) -> None:
    made = chain(block(message="no @"))

    assert list(judge.questions(made, links.end("::1"), {})) == [query.Question(NIBBLES + "bl.test", "A")]
    assert expected == judged(made, zones, peer="::1").variables


def test_a_mapped_address_is_asked_for_as_ipv4_only() -> None:
    asked = judge.questions(chain(block()), links.end("::ffff:127.0.0.5"), {})

    assert list(asked) == [query.Question(FRONT + "bl.test", "A")]


def test_the_address_in_a_message_follows_the_address_format() -> None:
    made = chain(block(message="@"), address_format="plain")

    assert judged(made, {"bl.test": A2}).variables["BLOCK"] == "127.0.0.5"


@pytest.mark.parametrize("value", ["", "x"])
def test_nothing_is_asked_when_the_variable_is_set_beforehand(value: str) -> None:
    made = chain(block(), block(variable="OTHER"))
    environment = {"BLOCK": value, "OTHER_IP": "stale"}

    assert [e.variable for e in judge.questions(made, CLIENT, environment).values()] == ["OTHER"]
    judgement = judged(made, {"bl.test": A2}, environment)
    assert judgement.variables == listing("Blacklisted by bl.test", name="OTHER")
    assert [step.effect for step in judgement.steps] == ["skipped", "set"]


def test_what_was_in_the_environment_stays_when_nothing_is_listed() -> None:
    stale = {"BLOCK_ZONE": "stale", "BLOCK_IP": "stale", "ALLOW_0": "stale"}

    assert judged(chain(block()), {}, stale).variables == {}


SPOILT = ["127.255.255.254"], ["127.255.255.252", "127.0.0.2"], ["203.0.113.1"], ["127.0.0.2", "203.0.113.1"]


@pytest.mark.parametrize("addresses", [["127.0.0.1"], *SPOILT])
@pytest.mark.parametrize("keys", [{}, {"txt": True}])
def test_an_answer_that_is_no_listing_refuses_nobody(addresses: list[str], keys: Table) -> None:
    """With its text, too: an error code has one, and it says that the list was not asked."""
    judgement = judged(chain(block(**keys)), {"bl.test": {"A": addresses, "TXT": ["Error: open resolver"]}})

    assert judgement.variables == {}
    assert judgement.steps[0].outcome in {"error", "outside"}
    assert judgement.open == frozenset()


def test_loopback_beside_a_listing_is_passed_over() -> None:
    judgement = judged(chain(block(message="x")), {"bl.test": {"A": ["127.0.0.4", "127.0.0.1"]}})

    assert judgement.variables["BLOCK_IP"] == "127.0.0.4"


@pytest.mark.parametrize("status", ["servfail", "refused", "timeout", "malformed", "suspended", "nxdomain"])
def test_a_text_does_not_stand_for_an_address_that_is_not_known(status: query.Status) -> None:
    made = chain(block(txt=True))
    a, txt = judge.questions(made, CLIENT, {})
    found = {a: query.Answer(status), txt: query.Answer("answer", texts=((b"listed",),))}

    assert judge.judge(made, CLIENT, found, {}).variables == {}


def test_a_suspended_list_cannot_match() -> None:
    made = chain(block(txt=True, answers="any"))
    a, txt = judge.questions(made, CLIENT, {})
    found = {a: query.SUSPENDED, txt: query.Answer("answer", texts=((b"listed",),))}
    judgement = judge.judge(made, CLIENT, found, {})

    assert (judgement.variables, judgement.open) == ({}, frozenset())
    assert judgement.steps[0].why == "suspended"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"see\r\nBLOCK=x\x00\x1b[31m", "see  BLOCK=x  [31m"),
        ("\u202eevil\u2028".encode(), " evil "),
        (b"b\xfccher", "b\ufffdcher"),
        (b" " * 5, " " * 5),
        (b"", ""),
        (b"x" * 500, "x" * 400),
    ],
)
def test_a_text_is_one_line_of_bounded_length(text: bytes, shown: str) -> None:
    assert shown == dns_answer.text(query.Answer("answer", texts=((text, b"second"), (b"other",))))


SECRET = {"zone": "key.bl.test", "display_zone": "bl.test"}


def test_a_secret_zone_is_asked_and_never_shown() -> None:
    made = chain({**SECRET, "message": None}, {**SECRET, "action": "allow", "variable": "OK"})
    judgement = judged(made, {"key.bl.test": A2})

    assert judgement.variables == {**BLACKLISTED, **listing("", name="OK"), "ALLOW_0": "OK"}
    assert "key" not in repr(judgement) + repr(made)


def test_a_zone_may_come_from_a_file() -> None:
    settings = service({"zone_file": "/etc/zone", "display_zone": "bl.test"}, "mail", block(), "mail")
    mail = DnsChain.model_validate(
        {"lists": [{"zone_file": path, "display_zone": "b"} for path in ("/etc/zone", "/etc/other")]}
    )
    zones = {"/etc/zone": dns_chain.zone(b"Key.BL.test.\n"), "/etc/other": "other.test"}
    made = dns_chain.build(settings, {"mail": mail}, zones)

    assert dns_chain.zone_files(settings, {"mail": mail}) == ["/etc/zone", "/etc/other"]
    names = ["key.bl.test", "other.test", "bl.test"]
    assert [asked.name for asked in judge.questions(made, CLIENT, {})] == [FRONT + name for name in names]


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"a.test\nb.test", b"\xff.test", b"a" * 300])
def test_a_file_without_a_zone_is_not_repeated(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"^holds no domain name$"):
        dns_chain.zone(content)


def test_exempt_clients_are_not_asked_about_by_that_chain() -> None:
    mail = DnsChain.model_validate(
        {"lists": [block("chain.test")], "exempt": ["127.0.0.0/8", "2001:db8::/32"], "deadline": 3}
    )
    settings = service("mail", block("own.test"), dns={"exempt": ["192.0.2.1"]})
    made = dns_chain.build(settings, {"mail": mail}, {})

    def asked(peer: str) -> list[tuple[str, float]]:
        found = judge.questions(made, links.end(peer), {})
        return [(entry.zone, entry.deadline) for entry in found.values()]

    assert asked("127.0.0.5") == [("own.test", 10)]
    assert asked("192.0.2.1") == [("chain.test", 3)]
    assert asked("2001:db8::1") == [("own.test", 10)]
    assert asked("192.0.2.2") == [("chain.test", 3), ("own.test", 10)]
    assert [s.effect for s in judged(made, {"own.test": A2}).steps] == ["exempt", "set"]


def test_a_question_of_two_lists_is_asked_once_and_may_take_the_longer_deadline() -> None:
    mail = DnsChain.model_validate({"lists": [block("BL.test", txt=True)], "deadline": 30})
    made = dns_chain.build(service(block(txt=True), "mail", dns={"deadline": 2}), {"mail": mail}, {})
    asked = judge.questions(made, CLIENT, {})

    assert list(asked) == [query.Question(FRONT + "bl.test", kind) for kind in ("A", "TXT")]
    assert [entry.deadline for entry in asked.values()] == [30, 30]


@pytest.mark.parametrize(
    ("listing_zones", "expected"),
    [
        ("a", None),
        ("b", None),
        ("ab", "a"),
        ("bc", "b"),
        ("abc", "a"),
        ("abw", None),
        ("abcw", None),
        ("abcdw", "a"),
        ("d", "d"),
    ],
)
def test_weights_add_up_to_the_threshold(listing_zones: str, expected: str | None) -> None:
    """The first block list that is listed gives the text and the other variables."""
    made = weighed(block("a"), allow("w", weight=-2), block("b", weight=2), block("c"), block("d", weight=3))
    judgement = judged(made, dict.fromkeys(listing_zones, A2))

    wanted = {} if expected is None else listing(f"Blacklisted by {expected}", zone=expected)
    assert wanted == judgement.variables


def test_an_allow_list_without_weight_decides_at_once() -> None:
    made = weighed(block("a", weight=5), allow("w"), block("b"))

    assert judged(made, {"a": A2, "w": A2}).variables == {**ALLOWED, "BLOCK_ZONE": "w"}
    assert judged(made, {"a": A2}).variables["BLOCK_ZONE"] == "a"


def test_only_the_variable_with_a_threshold_is_scored() -> None:
    made = weighed(block("a"), block("b", variable="OTHER"))

    assert set(judged(made, {"a": A2, "b": A2}).variables) == {
        "OTHER",
        "OTHER_IP",
        "OTHER_ZONE",
    }


def test_steps_say_what_happened_to_each_list() -> None:
    made = chain(
        allow("w"), block("a", match=["127.0.0.9"]), block("b"), block("c"), block("d", variable="X")
    )
    judgement = judged(made, {"w": "SERVFAIL", "a": A2, "b": A2, "d": {"A": ["127.255.255.254"]}})

    assert [(s.entry.shown, s.outcome, s.effect, s.why) for s in judgement.steps] == [
        ("w", "servfail", "none", "the name server failed"),
        ("a", "listed", "none", "listed, but no answer matches"),
        ("b", "listed", "set", "listed as 127.0.0.2"),
        ("c", None, "skipped", "BLOCK is already set"),
        ("d", "error", "none", "answers with an error code"),
    ]


def test_a_chain_travels() -> None:
    made = weighed(block(match=["127.0.0.[2..11]"]), allow("w", probe={"listed": ["127.0.0.9"]}))

    assert pickle.loads(pickle.dumps(made)) == made  # noqa: S301 (made here)
