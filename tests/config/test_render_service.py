"""One service as somebody would write it by hand, with the notes on its translation."""

import tomllib
from typing import Any

import pytest

from tcpdconf.config import render
from tcpdconf.config.couriertcpd import grammar
from tcpdconf.config.model.service import Service

Note = grammar.Note

TABLE: dict[str, Any] = {
    "program": ["/usr/bin/imapd", "Maildir"],
    "dns_lists": ["chain", {"zone": "bl.test"}],
    "access": [
        {"file": "/a.dat", "local": True},
        {"rules": [{"network": "192.0.2.0/24", "action": "allow"}, {"network": "*", "action": "deny"}]},
    ],
    "limits": {"max_per_ip": 4, "network": {"ipv6": 120}},
    "listeners": [
        {"port": 143},
        {"port": 993, "address": "127.0.0.1", "haproxy": {"trusted": "any", "timeout": 5}},
    ],
    "environment": {"A": ""},
    "environment_files": ["/etc/default/x", {"path": "/etc/courier/imapd", "shell": True}],
    "rlimits": {"as": "128MiB", "data": 1000, "core": 0, "stack": "unlimited", "nofile": 1024},
    "umask": "022",
    "directory": "/",
    "enabled": False,
}
WRITTEN = """\
[services.imap]
enabled = false
program = ["/usr/bin/imapd", "Maildir"]
umask = "022"
rlimits = { as = "128MiB", core = 0, data = 1000, nofile = 1024, stack = "unlimited" }
environment_files = ["/etc/default/x", { path = "/etc/courier/imapd", shell = true }]
environment = { A = "" }
dns_lists = ["chain", { zone = "bl.test" }]

[[services.imap.listeners]]
port = 143

[[services.imap.listeners]]
address = "127.0.0.1"
port = 993
haproxy = { trusted = "any", timeout = 5 }

[services.imap.limits]
max_connections = 40
max_per_ip = 4
network = { ipv6 = 120 }

[[services.imap.access]]
file = "/a.dat"
local = true

[[services.imap.access]]
rules = [
  { network = "192.0.2.0/24", action = "allow" },
  { network = "*", action = "deny" },
]
"""


def service(**keys: object) -> Service:
    return Service.model_validate({"program": ["/bin/cat"], "listeners": [{"port": 25}], **keys})


def read(text: str) -> Service:
    ((_, table),) = tomllib.loads(text)["services"].items()
    return Service.model_validate(table, by_alias=True, by_name=False)


def test_the_layout_is_the_one_of_the_shipped_files() -> None:
    made = service(**TABLE)

    assert render.service("imap", made) == WRITTEN
    assert read(WRITTEN) == made


@pytest.mark.parametrize(
    ("key", "value", "lines"),
    [
        ("environment", {"A": "a" * 90, "B": "b"}, ["[services.x.environment]", f'A = "{"a" * 90}"']),
        ("program", ["/bin/" + "x" * 90, "y"], ["program = [", f'  "/bin/{"x" * 90}",', '  "y",', "]"]),
        ("dns_lists", [{"zone": "a.test"}], ["[[services.x.dns_lists]]", 'zone = "a.test"']),
        ("dns", {"deadline": 2.5}, ["[services.x.dns]", "deadline = 2.5"]),
        ("stderr", {"logger": ["/bin/l"]}, ['stderr = { logger = ["/bin/l"] }']),
        ("deny_message", 'a\n"b"', ['deny_message = "a\\n\\"b\\""']),
    ],
)  # fmt: skip
def test_what_is_long_has_lines_of_its_own(key: str, value: object, lines: list[str]) -> None:
    made = service(**{key: value})
    text = render.service("x", made)

    assert "\n".join(lines) in text
    assert read(text) == made


def test_a_name_is_quoted_where_it_has_to_be() -> None:
    assert '[[services."a.b".listeners]]' in render.service("a.b", service())


def test_notes_stand_at_their_keys() -> None:
    notes = [
        Note("risk", "-haproxy", "everybody is believed", ("listeners", 0, "haproxy", "trusted")),
        Note("limit", "-maxperip=4", "few", ("limits", "max_per_ip")),
        Note("changed", "-maxperc=4", "a key that is not written", ("limits", "max_per_network")),
        Note("changed", "-drop=a-b", "nothing is left of it", ("drop",)),
        Note("changed", "-block=a.test", "safe", ("dns_lists", 0)),
        Note("changed", "-block=b.test", "safe", ("dns_lists", 1)),
        Note("ignored", "-pid=/p", "no key", ()),
        Note("changed", f"-block=a\nb{'c' * 80}", "word " * 20, ("program",)),
    ]
    made = service(
        listeners=[{"port": 25, "haproxy": {"trusted": "any"}}],
        limits={"max_per_ip": 4},
        dns_lists=[{"zone": "a.test"}, {"zone": "b.test"}],
    )
    text = render.service("x", made, notes)

    assert read(text) == made
    assert (
        text
        == f"""\
# -drop=a-b: nothing is left of it
[services.x]
# -block=a b{"c" * 40}...: word word word word word word word word
# word word word word word word word word word word word word
program = ["/bin/cat"]

[[services.x.listeners]]
port = 25
# Risk: -haproxy: everybody is believed
haproxy = {{ trusted = "any" }}

# -maxperc=4: a key that is not written
[services.x.limits]
max_connections = 40
# -maxperip=4: few
max_per_ip = 4

# -block=a.test: safe
[[services.x.dns_lists]]
zone = "a.test"

[[services.x.dns_lists]]
zone = "b.test"
"""
    )
