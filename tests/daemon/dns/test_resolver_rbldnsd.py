"""The resolver against a real rbldnsd."""

from collections.abc import Iterator

import pytest
from support.dns import dnsservers, resolvers

from tcpdconf.config.model import values
from tcpdconf.policy.dns import query

pytestmark = pytest.mark.peer

SOA = "$SOA 300 ns.example. host.example. 1 3600 600 86400 120\n"
FOUR = SOA + "$TTL 900\n:127.0.0.2:Listed: $\n127.0.0.2\n10.0.0.0/16 :127.0.0.9:Dynamic\n!10.0.5.0/24\n"
SIX = SOA + ":127.0.0.2:Listed: $\n2001:db8::/32\n"
NIBBLES = ".".join(reversed("20010db8" + "0" * 23 + "1"))


@pytest.fixture(scope="module")
def address() -> Iterator[values.ServerAddress]:
    with dnsservers.Rbldnsd({"four.example": ("ip4set", FOUR), "six.example": ("ip6trie", SIX)}) as server:
        yield server.address


@pytest.mark.parametrize(
    ("name", "kind", "answer"),
    [
        ("2.0.0.127.four.example", "A", query.Answer("answer", ("127.0.0.2",), ttl=900)),
        ("2.0.0.127.four.example", "TXT", query.Answer("answer", texts=((b"Listed: 127.0.0.2",),), ttl=900)),
        ("2.0.0.127.four.example", "AAAA", query.Answer("answer", ttl=120)),
        ("1.2.0.10.four.example", "A", query.Answer("answer", ("127.0.0.9",), ttl=900)),
        ("1.5.0.10.four.example", "A", query.Answer("nxdomain", ttl=120)),
        ("1.0.0.127.four.example", "A", query.Answer("nxdomain", ttl=120)),
        (f"{NIBBLES}.six.example", "A", query.Answer("answer", ("127.0.0.2",), ttl=2100)),
        (f"{NIBBLES.replace('8', '9', 1)}.six.example", "A", query.Answer("nxdomain", ttl=120)),
        ("2.0.0.127.other.example", "A", query.Answer("refused")),
    ],
)
def test_what_it_says(
    address: values.ServerAddress, name: str, kind: query.Type, answer: query.Answer
) -> None:
    assert resolvers.Client(address).ask(query.Question(name, kind)) == [answer]


def test_many_at_once(address: values.ServerAddress) -> None:
    questions = [query.Question(f"{n % 50}.{n // 50}.0.10.four.example", "A") for n in range(500)]
    listed = query.Answer("answer", ("127.0.0.9",), ttl=900)

    answers = resolvers.Client(address).ask(*questions)

    exempt = query.Answer("nxdomain", ttl=120)
    assert answers == [exempt if n // 50 == 5 else listed for n in range(500)]
