"""The same access text through Courier's programs and through ours, answer by answer."""

import ipaddress
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import links
from support.courier import gdbmfiles, realtcpd

from tcpdconf.config.courier import records as courier_records
from tcpdconf.config.model import tables
from tcpdconf.policy import connection
from tcpdconf.policy.access import file as access_file
from tcpdconf.policy.access.file import AccessFileError
from tcpdconf.policy.access.table import AccessTable

pytestmark = [pytest.mark.peer, pytest.mark.usefixtures("_courier")]

LOCAL4, LOCAL6 = "198.51.100.1", "2001:db8::1"
PIECES = [
    "allow",
    "deny",
    "A",
    "B",
    "MAXCPERIP",
    "=",
    "=",
    ",",
    ",",
    ",",
    '"',
    "'",
    " ",
    "x y",
    "\\",
    "#",
    "é",
    "1",
]


@pytest.fixture
def _courier() -> None:
    realtcpd.need()


def tables_of(text: bytes, database: Path, *, local: bool = False) -> Iterator[AccessTable]:
    """From the database, and from the text itself."""
    source = tables.AccessSource(file=str(database), local=local)
    courier = tables.AccessSource(file=str(database), local=local, format="courier")
    yield access_file.read([(str(database), database.read_bytes())], source)
    yield access_file.read([("text", text)], courier)


def decide(table: AccessTable, link: realtcpd.Link) -> realtcpd.Variables | None:
    """The variables for a connection, None where it is refused: as the daemon decides it."""
    peer, local, port = link
    ends = connection.Link(links.end(peer), links.end(local, port))
    variables: realtcpd.Variables = {}
    for rule in (table.find_local(ends), table.find(ends)):
        if rule is not None and rule.action == "deny":
            return None
        variables |= dict(rule.environment) if rule else {}
    return variables


def assert_same_answers(
    text: bytes, folder: Path, connections: list[realtcpd.Link], *, local: bool = False, forms: int = 2
) -> list[realtcpd.Variables | None]:
    """Compare the database and the text, or the database alone; return what couriertcpd answered."""
    database = realtcpd.makedat(text, folder)
    wanted = realtcpd.answers(database, connections, *(["-accesslocal"] if local else []))
    for table in itertools.islice(tables_of(text, database, local=local), forms):
        found = [decide(table, link) for link in connections]

        assert list(zip(connections, wanted, strict=True)) == list(zip(connections, found, strict=True))
    return wanted


@pytest.mark.parametrize("value", [b"", b"1", b" ", b"allow", b",", b"allow,1"])
def test_a_record_without_a_value_admits(tmp_path: Path, value: bytes) -> None:
    """Makedat writes `1` where there is none; other programs may write nothing."""
    database = tmp_path / "access.dat"
    database.write_bytes(gdbmfiles.write({b"10": b"deny", b"10.1": value, b"*": b"allow,V=1"}))
    table = access_file.read(
        [(str(database), database.read_bytes())], tables.AccessSource(file=str(database))
    )
    connections = [from_client(peer) for peer in ("10.1.0.1", "10.2.0.1", "11.0.0.1")]
    wanted = realtcpd.answers(database, connections)

    assert wanted == [decide(table, link) for link in connections]
    assert wanted[0] is not None


def test_a_line_without_a_tab_is_a_record_of_its_database_only(tmp_path: Path) -> None:
    database = realtcpd.makedat(b"10\n", tmp_path)
    source = tables.AccessSource(file=str(database))
    table = access_file.read([(str(database), database.read_bytes())], source)
    link = from_client("10.1.0.1")

    assert realtcpd.answers(database, [link]) == [{"1": ""}] == [decide(table, link)]
    with pytest.raises(AccessFileError, match="there must be a TAB"):
        access_file.read([("text", b"10\n")], source.model_copy(update={"format": "courier"}))


def from_client(peer: str) -> realtcpd.Link:
    return peer, LOCAL6 if ":" in peer else LOCAL4, 25


class Lines:
    """Random lines that makedat takes: it stops where two expand to the same key."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 (the same ones each time)
        self.text: list[str] = []
        self.clients: list[str] = []
        self._keys: set[str] = set()

    def add(self) -> None:
        """One more line, unless it collides; and clients inside it, at its ends and beside them."""
        network = self._network()
        step = 8 if network.version == 4 else 16
        length = -(-network.prefixlen // step) * step
        keys = {str(part) for part in network.subnets(new_prefix=length)}
        if keys & self._keys:
            return
        self._keys |= keys
        self.text.append(f"{self._written(network)}\t{self._value()}")
        first, last = int(network[0]), int(network[-1])
        for number in (first, last, self.random.randint(first, last), first - 1, last + 1):
            self.clients.append(str(type(network[0])(number)))

    def _network(self) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        """Networks that nest: the first octets and words are few."""
        if self.random.random() < 0.6:
            octets = bytes(
                [self.random.choice([1, 10, 192, 223]), self.random.randrange(4), *self.random.randbytes(2)]
            )
            length = self.random.choice([8, 15, 16, 16, 20, 22, 23, 24, 24, 24, 27, 28, 30, 31, 32, 32, 32])
            return ipaddress.IPv4Network((octets, length), strict=False)
        words = [
            0x2001,
            self.random.choice([0, 0xDB8]),
            *(self.random.choice([0, 1, 0xFFFF]) for _ in range(6)),
        ]
        length = self.random.choice(
            [16, 32, 32, 44, 48, 48, 60, 64, 64, 80, 96, 112, 124, 126, 127, 128, 128]
        )
        return ipaddress.IPv6Network((b"".join(w.to_bytes(2) for w in words), length), strict=False)

    def _written(self, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> str:
        """In one of the ways that makedat understands."""
        address, length = network.network_address, network.prefixlen
        ways = [str(network), f"{network[0]}-{network[-1]}"]
        if network.version == 4:
            ways.append(f"{network[self.random.randrange(network.num_addresses)]}/{length}")
            if length % 8 == 0:
                ways += [".".join(str(address).split(".")[: length // 8])] * 3
        elif length % 16 == 0:
            ways += [":" + ":".join(address.exploded.split(":")[: length // 16])] * 3
        return self.random.choice(ways)

    def _value(self) -> str:
        return self.random.choice(
            ["deny", "allow", f"allow,V={len(self.text)}", f"allow,V,W={len(self.text)}"]
        )


def test_random_networks(tmp_path: Path) -> None:
    """Some thousand IPv4 and IPv6 lines, with CIDR notation and ranges."""
    lines = Lines(2)
    for _ in range(5000):
        lines.add()
    clients = [client for client in lines.clients if not client.startswith(("0.", "127."))]
    chosen = lines.random.sample(clients, 600)
    answers = assert_same_answers(
        "\n".join([*lines.text, ""]).encode(), tmp_path, [from_client(c) for c in chosen]
    )

    assert len(lines.text) > 2000
    assert sum(answer is None for answer in answers) > 100
    assert sum(bool(answer) for answer in answers) > 100
    assert sum(answer == {} for answer in answers) > 100


def test_random_networks_under_a_default(tmp_path: Path) -> None:
    lines = Lines(3)
    for _ in range(300):
        lines.add()
    clients = [*lines.random.sample(lines.clients, 100), "127.255.255.255", "128.0.0.0", "191.255.255.255"]
    text = "\n".join(["*\tdeny", "128.0.0.0/2\tallow,V=quarter", *lines.text, ""]).encode()
    answers = assert_same_answers(text, tmp_path, [from_client(client) for client in clients])

    assert answers[-3:] == [None, {"V": "quarter"}, {"V": "quarter"}]


def test_a_whole_family_is_more_specific_than_the_default(tmp_path: Path) -> None:
    text = b"*\tdeny\n0.0.0.0/0\tallow,V=all\n"
    answers = assert_same_answers(text, tmp_path, [from_client("10.0.0.1"), from_client("2001:db8::9")])

    assert answers == [{"V": "all"}, None]


def test_random_values(tmp_path: Path) -> None:
    numbers = random.Random(5)  # noqa: S311
    values = ["".join(numbers.choices(PIECES, k=numbers.randrange(1, 12))) for _ in range(200)]
    values = [value.lstrip("\t") or "1" for value in values]  # a second TAB is an error in text
    values += ["allow," + "".join(numbers.choices(PIECES, k=numbers.randrange(1, 12))) for _ in range(800)]
    doubtful = [value for value in values if courier_records.doubt(value.encode())]
    clear = [value for value in values if not courier_records.doubt(value.encode())]
    for forms, some in ((1, doubtful), (2, clear)):  # text refuses what is doubtful
        text = "".join(f"10.0.{n >> 8}.{n & 255}\t{value}\n" for n, value in enumerate(some))
        connections = [from_client(f"10.0.{n >> 8}.{n & 255}") for n in range(len(some))]
        (tmp_path / str(forms)).mkdir()
        assert_same_answers(text.encode(), tmp_path / str(forms), connections, forms=forms)
    assert len(clear) > 50


def test_local_ends(tmp_path: Path) -> None:
    """-accesslocal: the same records for the local address, its networks, and ports."""
    numbers = random.Random(6)  # noqa: S311
    words = [":2001:0db8:0000:0000:0000:0000:0000:000", "2001:db8::"]
    ips = [f"10.{a}.{b}.{c}" for a in (1, 2) for b in (1, 2) for c in (1, 2)]
    keys = [*ips, *[f"{ip}.25" for ip in ips], "10", "10.1", "10.2", "10.1.1", "10.2.2", "*.25", "*.26", "*"]
    keys += [f"{words[0]}{n}{port}" for n in (1, 2) for port in ("", ".25", ".26")] + [":2001", ":2001:0db8"]
    ends = [*ips, "11.0.0.1"], [*(f"{words[1]}{n}" for n in (1, 2, 3)), "2002::1"]
    for round_ in range(4):
        text = "".join(
            f"{key}\t{numbers.choice(['allow', 'deny', f'allow,V={key}', f'allow,W={key}'])}\n"
            for key in numbers.sample(keys, 12)
        )
        connections = [
            (numbers.choice(family), numbers.choice(family), numbers.choice([25, 26]))
            for family in ends
            for _ in range(30)
        ]
        folder = tmp_path / str(round_)
        folder.mkdir()
        assert_same_answers(text.encode(), folder, connections, local=True)


def test_records_for_mapped_addresses_match_nobody(tmp_path: Path) -> None:
    text = b":0000:0000:0000:0000:0000:ffff:0a00:0001\tdeny\n::ffff:10.0.0.0/112\tdeny\n:0000\tallow,V=word\n"
    answers = assert_same_answers(text, tmp_path, [from_client("10.0.0.1"), from_client("::2")])

    assert answers == [{}, {"V": "word"}]
