from pathlib import Path
from typing import Any

import pydantic
import pytest

from tcpdconf.config import render
from tcpdconf.config.load import load
from tcpdconf.config.model import values
from tcpdconf.config.model.service import Config, ServiceSettings, Settings

FULL = """\
[defaults.dns]
deadline = 4
threshold = { BLOCK = 3 }

[services.smtp]
program = ["/bin/cat"]
listeners = [{ address = "127.0.0.1", port = 25 }]
dns_lists = [
  "mail",
  { zone = "a.example.", match = ["127.0.0.[2..11]", "127.1.0.0/24"], message = "no @", weight = 3 },
  { zone_file = "/etc/zone", display_zone = "shown", action = "allow", weight = -2, txt = true },
  { zone = "b.example", answers = "any", probe = false, variable = "B" },
  { zone = "c.example", probe = { listed = ["127.0.0.99"], unlisted = false } },
]
dns = { exempt = ["192.0.2.0/24", "2001:db8::1", "*"] }

[dns_chains.mail]
lists = [{ zone = "d.example", weight = 2 }]
threshold = { BLOCK = 2 }

[dns]
servers = ["192.0.2.1", "[2001:db8::1]:5353", "::1"]
rotate = true
cache_entries = 1000
max_ttl = 600
"""


def loaded(directory: Path, text: str) -> Config:
    (directory / "a.toml").write_text(text, encoding="utf-8")
    return load.load(directory).config


def test_everything_that_can_be_said_about_dns_loads_again_as_shown(tmp_path: Path) -> None:
    first = loaded(tmp_path, FULL)

    assert loaded(tmp_path, render.toml(render.data(first))) == first


def test_a_service_takes_what_it_leaves_out_of_its_dns_from_the_defaults(tmp_path: Path) -> None:
    dns = loaded(tmp_path, FULL).services["smtp"].dns

    assert (dns.deadline, dns.threshold, len(dns.exempt)) == (4, {"BLOCK": 3}, 3)


def test_name_servers_have_ports(tmp_path: Path) -> None:
    servers = loaded(tmp_path, FULL).dns.servers

    assert servers == (("192.0.2.1", 53), ("2001:db8::1", 5353), ("::1", 53))
    assert [str(server) for server in servers] == ["192.0.2.1:53", "[2001:db8::1]:5353", "[::1]:53"]


@pytest.mark.parametrize(
    "text",
    [
        "", "localhost", "192.0.2.1:", "192.0.2.1:0", "192.0.2.1:65536", "192.0.2.1:+53", "[::1]", "[::1",
        "[::1]:x", "::1:53:", "192.0.2.1:053000", "192.0.2.1 ", "192.0.2.1:\u0665",
    ],
)  # fmt: skip
def test_what_is_no_name_server(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be a name server"):
        values.server(text)


@pytest.mark.parametrize(
    ("zone", "said"),
    [
        ("a b", 'the label "a b"'),
        (".", "an empty label"),
        ("a..b", "an empty label"),
        ("a.test..", "an empty label"),
        ("x" * 64 + ".test", "the label"),
        ("-a.test", "the label"),
        ("b\u00fccher.test", "the label"),
        (".".join(["a" * 60] * 4), "at most 189 characters"),
        (5, "must be a domain name"),
    ],
)
def test_what_is_no_zone(zone: Any, said: str) -> None:  # noqa: ANN401 (TOML gives any type)
    with pytest.raises(ValueError, match=said):
        values.zone(zone)


@pytest.mark.parametrize("zone", ["a", "a.test", "a.test.", "A-b_c.x1", "_a.test", ".".join(["a" * 62] * 3)])
def test_a_zone_is_kept_as_written(zone: str) -> None:
    assert values.zone(zone) == zone


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"match": ["127.0.0.1"]}, "never counts"),
        ({"match": ["127.0.0.2", "127.255.255.[252..255]"]}, "never counts"),
        ({"match": ["10.0.0.0/8"]}, "never counts"),
        ({"weight": 0}, "must be above 0"),
        ({"weight": 0, "action": "allow"}, "must be below 0"),
        ({"message": "x" * 401}, "at most 400 characters, not 401"),
        ({"message": "a\u202eb"}, "must be one line"),
        ({"display_zone": "a\x1b[0m"}, "must be one line"),
    ],
)
def test_what_cannot_be_meant(keys: dict[str, Any], said: str) -> None:
    data = {"dns_lists": [{"zone": "a.test", **keys}]}
    with pytest.raises(pydantic.ValidationError, match=said):
        ServiceSettings.model_validate(data)


def test_a_conflict_of_ttls_is_told() -> None:
    with pytest.raises(pydantic.ValidationError, match=r"must be at most max_ttl \(30\), not 60"):
        Settings.model_validate({"dns": {"min_ttl": 60, "max_ttl": 30}})
