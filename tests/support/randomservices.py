"""Random services and random clients for them; what becomes of one client does not hang on the others.

Every client of a service has a /16 (IPv6: /32) of its own, so that limits and rates see it alone, beside the
clients that are held open on purpose.
"""

import pathlib
import random
from typing import Any, NamedTuple

import tomli_w
from support.courier import gdbmfiles
from support.running import daemons

ZONES = ("a.example", "b.example", "c.example")
_VARIABLES = ("A", "B", "BLOCK", "RELAYCLIENT", "TCPREMOTEHOST", "X_1")
_FORMATS = ("rules", "toml", "courier", "cidr", "gdbm")


class Client(NamedTuple):
    """One connection to make: from where, to which listener, and what a PROXY header says before it.

    `held` are kept open from the same address, or from one beside it, before this one comes.
    """

    source: str
    address: str
    port: int
    header: tuple[str, str] | None  # client and local end, addresses of one family
    proxied: bool  # sends a header, UNKNOWN where there is none above
    held: tuple[str, ...]


class Service(NamedTuple):
    """A service's table, and its clients."""

    name: str
    settings: dict[str, Any]
    clients: list[Client]


class Maker:
    """Makes services from one seed; files go into `folder`."""

    def __init__(self, seed: int, folder: pathlib.Path) -> None:
        self._random = random.Random(seed)  # noqa: S311 (the same services in every run)
        self._observing = random.Random(seed)  # noqa: S311 (as above)
        self._folder = folder
        self._files = 0

    def service(self, name: str, clients: int) -> Service:
        """One service."""
        chosen = self._random
        plain, proxied = daemons.free_port("::"), daemons.free_port("::")
        listeners: list[dict[str, Any]] = [
            {"port": plain, **chosen.choice([{}, {"address": "127.0.0.1"}])},
            {"port": proxied, "haproxy": self._haproxy()},
        ]
        made = [self._client(number, listeners) for number in range(clients)]
        settings: dict[str, Any] = {
            "program": ["/bin/cat", "/proc/self/environ", "-"],
            "listeners": listeners,
            "environment": self._environment(),
            "inherit_environment": chosen.choice([False, True, ["GIVEN"]]),
            "address_format": chosen.choice(["mapped", "plain"]),
            "drop": chosen.sample(_VARIABLES, chosen.randrange(3)),
            "limits": self._limits(),
            "messages": self._some({"per_ip": "421 later", "per_network": "421 all of you", "access": "no"}),
            "lookup_names": chosen.random() < 0.4,
            "access": [self._source(made, plain, proxied) for _ in range(chosen.randrange(4))],
            "dns_lists": [self._list() for _ in range(chosen.choice([0, 0, 1, 3]))],
            "dns": self._some({"threshold": {"A": 1}, "exempt": [self._network(made)]}),
        }
        for each in (settings["limits"], *settings["access"]):
            if self._observing.random() < 0.2:
                each["enforce"] = False
        if chosen.random() < 0.7:
            settings["deny_message"] = chosen.choice(["550 go away", "* BYE\n", "ä"])
        if chosen.random() < 0.3:
            settings["environment_files"] = [self._write("env", b"A=from a file\nX_1=\n")]
        if (penalties := self._penalties(name)) is not None:
            settings["penalties"] = penalties
        return Service(name, settings, made)

    def _penalties(self, name: str) -> dict[str, Any] | None:
        """Penalties that last as long as the test, for some services."""
        chosen = random.Random(name)  # noqa: S311 (the same services in every run)
        if chosen.random() < 0.5:
            return None
        return {
            **{kind: 300 for kind in ("refused", "proxy") if chosen.random() < 0.8},
            "min": chosen.choice([0, 400]),
            "network": {"ipv4": chosen.choice([8, 24, 32])},
            "exempt": chosen.choice([[], ["::1"], ["127.0.0.0/8"]]),
        }

    def _some(self, of: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in of.items() if self._random.random() < 0.5}

    def _write(self, suffix: str, content: bytes) -> str:
        self._files += 1
        path = self._folder / f"{self._files}.{suffix}"
        path.write_bytes(content)
        return str(path)

    def _environment(self) -> dict[str, str]:
        names = self._random.sample(_VARIABLES, self._random.choice([0, 0, 1, 2]))
        return {name: self._random.choice(["", "yes", "two words", "ü"]) for name in names}

    def _haproxy(self) -> dict[str, Any]:
        chosen = self._random
        return {
            "trusted": chosen.choice([["127.0.0.1"], ["127.0.0.0/24", "::1"], ["127.0.0.9"]]),
            "exempt": chosen.choice([[], [], ["127.0.0.1"], ["::1"]]),
            "local": chosen.choice(["serve", "close"]),
            **self._some({"local_addresses": chosen.choice([["127.0.0.1"], ["127.0.0.1", "::1"]])}),
        }

    def _client(self, number: int, listeners: list[dict[str, Any]]) -> Client:
        """Clients 0 come from ::1 where they can; of the others every second one by way of a proxy."""
        chosen = self._random
        if number % 2:
            six = chosen.random() < 0.3
            source = "::1" if six else chosen.choice(["127.0.0.1", "127.0.0.9", "127.0.0.200"])
            ends = (
                (f"2001:{number:x}::{chosen.randrange(1, 9)}", "2001:db8::25")
                if chosen.random() < 0.4
                else (f"10.{number}.{chosen.randrange(256)}.{chosen.randrange(1, 255)}", "192.0.2.25")
            )
            header = ends if chosen.random() < 0.85 else None
            where = "::1" if six else "127.0.0.1"
            return Client(source, where, listeners[1]["port"], header, True, ())
        if number == 0 and "address" not in listeners[0]:
            return Client("::1", "::1", listeners[0]["port"], None, False, ())
        network = f"127.{number + 20}.{chosen.randrange(256)}"
        source = f"{network}.{chosen.randrange(1, 250)}"
        held = [chosen.choice([source, f"{network}.251"]) for _ in range(chosen.choice([0, 0, 1, 2, 3]))]
        return Client(source, "127.0.0.1", listeners[0]["port"], None, False, tuple(held))

    def _limits(self) -> dict[str, Any]:
        chosen = self._random
        return self._some(
            {
                "max_per_ip": chosen.choice([1, 2, 3]),
                "max_per_network": chosen.choice([2, 3]),
                "rate": "4/h",
                "levels": [{"ipv4": 20, "ipv6": 48, "max_connections": 3}],
            }
        )

    def _network(self, clients: list[Client]) -> str:
        """A network around one of the clients, as some length of its address."""
        chosen = self._random
        client = chosen.choice(clients)
        address = client.header[0] if client.header and chosen.random() < 0.8 else client.source
        if ":" in address:
            return chosen.choice([address, "2001::/16" if address != "::1" else "::/120", "::/0"])
        octets = address.split(".")
        length = chosen.choice([8, 16, 24, 32, 32])
        return ".".join(octets[: length // 8] + ["0"] * (4 - length // 8)) + f"/{length}"

    def _source(self, clients: list[Client], plain: int, proxied: int) -> dict[str, Any]:
        chosen = self._random
        form = chosen.choice(_FORMATS)
        networks = list(dict.fromkeys(self._network(clients) for _ in range(chosen.randrange(1, 6))))
        if form == "cidr":
            lines = [b"# networks", *(network.encode() for network in networks)]
            action = chosen.choice(["allow", "deny"])
            return {"file": self._write("cidr", b"\n".join(lines)), "format": "cidr", "action": action}
        if form in {"rules", "toml"}:
            rules = [self._rule(network) for network in networks] + self._local_rules(plain, proxied)
            if form == "rules":
                return {"rules": rules}
            return {"file": self._write("toml", tomli_w.dumps({"rules": rules}).encode())}
        records = {_key(network): self._value(form) for network in networks}
        if chosen.random() < 0.3:
            records[b"*"] = self._value(form)
        if form == "gdbm":
            data = bytes(gdbmfiles.write(records))
        else:
            data = b"".join(b"%b\t%b\n" % record for record in records.items())
        return {"file": self._write(form, data), "local": chosen.random() < 0.2}

    def _rule(self, network: str) -> dict[str, Any]:
        chosen = self._random
        rule: dict[str, Any] = {"network": network, "action": chosen.choice(["allow", "allow", "deny"])}
        return rule | self._some({"environment": self._environment(), "max_per_ip": chosen.choice([1, 2, 9])})

    def _local_rules(self, plain: int, proxied: int) -> list[dict[str, Any]]:
        chosen = self._random
        rules: list[dict[str, Any]] = [
            {"local": f"127.0.0.1:{plain}", "action": "allow", "environment": self._environment()},
            {"local": chosen.choice([f"*:{proxied}", "::1"]), "action": "allow", "environment": {"L": "1"}},
            {"proxied_local": "192.0.2.0/24", "action": chosen.choice(["allow", "deny"])},
            {"network": "10.0.0.0/9", "proxied_local": "*:25", "action": "allow", "environment": {"P": ""}},
        ]
        return [rule for rule in rules if chosen.random() < 0.3]

    def _value(self, form: str) -> bytes:
        """A record's value; text refuses one that is neither allow nor deny."""
        foo = b"FOO" if form == "gdbm" else b"allow,FOO"
        values = [b"allow", b"allow,RELAYCLIENT,B='x, y'", b"deny", b"allow,MAXCPERIP=1", foo, b"allow,A="]
        return self._random.choice(values)

    def _list(self) -> dict[str, Any]:
        chosen = self._random
        found: dict[str, Any] = {"zone": chosen.choice(ZONES), "variable": chosen.choice(["BLOCK", "A", "W"])}
        found["action"] = chosen.choice(["block", "block", "allow"])
        found["txt"] = chosen.random() < 0.4
        found |= self._some({"match": ["127.0.0.[2..3]"]})
        if found["action"] == "block":
            found |= self._some({"message": "see @"})
        return found


def _key(network: str) -> bytes:
    """A network as a record's key."""
    if network == "::/0":
        return b":2001"
    if ":" in network:
        return b":2001" if network.startswith("2001::/") else b":0000"
    address, _, length = network.partition("/")
    return ".".join(address.split(".")[: int(length) // 8]).encode()
