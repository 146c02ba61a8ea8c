import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcpdconf.config import positions, problems, render
from tcpdconf.config.load import load
from tcpdconf.config.load.loaded import Loaded
from tcpdconf.config.model import notations, tables, values
from tcpdconf.config.model.service import Config

FULL = """\
[services."a.b"]
program = ["/bin/sh", "-c", "echo \\"1\\n2\\" # 3"]
user = "nobody"
group = 65534
umask = 0o027
rlimits = { as = "512MiB", nofile = "unlimited", core = 0 }
inherit_environment = ["PATH"]
environment = { A = "", B = "é\\u001b" }
environment_files = ["/dev/null", { path = "/dev/null", shell = true }]
deny_message = "550 go away"
stderr = { logger = ["/usr/bin/logger"], name = "x" }
drop = ["BLOCK"]
dns_lists = ["chain", { zone = "list.example", match = ["127.0.0.2"] }]

[[services."a.b".listeners]]
address = "::FFFF:127.0.0.1"
port = "smtp"
haproxy = { trusted = ["192.0.2.7", "2001:DB8::/32", "::ffff:192.0.2.0/120"], timeout = 5 }

[[services."a.b".listeners]]
address = "127.0.0.2"
port = 2525
haproxy = { trusted = "any" }

[services."a.b".limits]
max_per_ip = 4
rate = "30/min"
levels = [{ ipv4 = 16, rate = "1000/2h" }, { ipv6 = 32, max_connections = 9 }]

[[services."a.b".access]]
file = "/dev/null"
format = "cidr"
action = "deny"

[[services."a.b".access]]
rules = [
  { network = "*", action = "allow", environment = { RELAYCLIENT = "" }, max_per_ip = 100 },
  { local = "*:25", action = "deny" },
]

[services.off]
enabled = false
program = ["/bin/cat"]
listeners = [{ port = 1 }]

[dns]
servers = ["127.0.0.1:5353"]
timeout = 0.5

[dns_chains.chain]
lists = [{ zone = "other.example", action = "allow", variable = "OK" }]

[daemon]
log_level = "debug"
"""


def loaded(directory: Path | str, text: str) -> Loaded:
    Path(directory, "a.toml").write_text(text, encoding="utf-8")
    return load.load(directory)


def test_what_is_shown_loads_again_as_the_same(tmp_path: Path) -> None:
    first = loaded(tmp_path, FULL)
    text = render.toml(render.data(first.config))

    assert loaded(tmp_path, text).config == first.config
    assert loaded(tmp_path, render.toml(render.data(first.config), first.comment)).config == first.config
    assert render.toml(render.data(load.load(tmp_path).config)) == text


def test_json_holds_the_same_values(tmp_path: Path) -> None:
    data = render.data(loaded(tmp_path, FULL).config)

    assert json.loads(render.as_json(data)) == data
    assert data["services"]["a.b"]["umask"] == "027"
    assert data["services"]["a.b"]["rlimits"] == {"as": 512 * 2**20, "nofile": "unlimited", "core": 0}


@pytest.mark.parametrize(
    ("tables", "text"),
    [
        ({}, "\n"),
        ({"a": 1, "b": {"c": 2}, "d": 3}, "a = 1\nd = 3\n\n[b]\nc = 2\n"),
        ({"a": {"b": {"c": {}}}}, "[a.b]\nc = {}\n"),
        ({"a": [{"b": [{"c": 1}], "d": 1}, {}]}, "[[a]]\nd = 1\n\n[[a.b]]\nc = 1\n\n[[a]]\n"),
        ({"a": ["x", {"b c": [1.0, True]}]}, 'a = ["x", { "b c" = [1.0, true] }]\n'),
        ({"a b": {"é": '\n"'}}, '["a b"]\n"é" = "\\n\\""\n'),
    ],
)  # fmt: skip
def test_layout(tables: dict[str, Any], text: str) -> None:
    assert render.toml(tables) == text


def test_each_value_has_its_origin(tmp_path: Path) -> None:
    found = loaded(tmp_path, FULL)
    data = render.data(found.config)
    origins = {problems.dotted(key): found.comment(key) for key in render.leaves(data)}

    assert origins['services."a.b".limits.levels[1].max_connections'] == f"{tmp_path}/a.toml:28"
    assert origins['services."a.b".access[1].rules[0].environment.RELAYCLIENT'] == f"{tmp_path}/a.toml:37"
    assert origins['services."a.b".limits.max_connections'] == "default"
    lines = render.toml(data, found.comment).splitlines()
    values_shown = [line for line in lines if " = " in line]
    assert sorted(line.rpartition("  # ")[2] for line in values_shown) == sorted(origins.values())


counts = st.integers(1, 10**7)
rates = st.builds(
    "{}/{}{}".format,
    st.integers(1, 999999999),
    st.integers(1, 999999),
    st.sampled_from(["s", "min", "h", "d"]),
)
limits = st.fixed_dictionaries(
    {"max_connections": counts},
    optional={
        "max_per_ip": counts,
        "network": st.fixed_dictionaries({"ipv4": st.integers(0, 32), "ipv6": st.integers(0, 128)}),
        "rate": rates,
    },
)
texts = st.text(alphabet="aé\"'\\\n\t #=\x1b", max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    limits,
    st.dictionaries(st.sampled_from("ABC"), texts),
    texts,
    st.integers(0, 0o777).map(lambda mask: f"{mask:03o}"),
    st.integers(-1, 2**63),
)
def test_any_service_is_shown_so_that_it_loads_again(
    table: dict[str, Any], environment: dict[str, str], message: str, umask: str, size: int
) -> None:
    service = {
        "program": ["/bin/cat"], "user": "nobody", "listeners": [{"port": 1, "address": "::1"}],
        "limits": table, "environment": environment, "deny_message": message, "umask": umask,
        "rlimits": {"as": "unlimited" if size < 0 else size},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        first = loaded(directory, render.toml({"services": {"a": service}}))

        assert loaded(directory, render.toml(render.data(first.config))).config == first.config


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("30/min", "30/min"),
        ("30/60s", "30/min"),
        ("5/s", "5/s"),
        ("1/90s", "1/90s"),
        ("9/2h", "9/2h"),
        ("1/48h", "1/2d"),
        ("1/999999d", "1/999999d"),
    ],
)
def test_rates_are_shown_in_the_largest_unit(written: str, shown: str) -> None:
    limits = tables.Limits.model_validate({"rate": written})

    assert limits.model_dump(mode="json")["rate"] == shown
    assert values.rate(shown) == limits.rate


def test_an_empty_configuration_has_its_defaults() -> None:
    assert render.data(Config())["daemon"] == {
        "log_level": "info",
        "log_format": "text",
        "stop_timeout": 10.0,
        "drain_timeout": 300.0,
        "watch": True,
        "settle": 0.3,
        "never_ban": [],
        "allow_empty": False,
    }


def test_a_zone_that_is_shown_as_another_one_is_never_shown(tmp_path: Path) -> None:
    hidden = '{ zone = "key1234.dq.example", display_zone = "dq.example" }'
    (tmp_path / "a.toml").write_text(
        f"""[services.a]
program = ["/bin/true"]
listeners = [{{ address = "127.0.0.1", port = 4999 }}]
dns_lists = [{hidden}]
[dns_chains.c]
lists = [{hidden}]
"""
    )
    data = render.data(load.load(tmp_path).config)

    assert "key1234" not in render.toml(data) + render.as_json(data)
    assert data["services"]["a"]["dns_lists"][0]["zone"] == notations.HIDDEN


def at(data: Any, key: positions.Key) -> Any:  # noqa: ANN401 (TOML holds any type)
    for step in key:
        data = data[step]
    return data


VALUES = st.recursive(
    st.integers(0, 1),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner),
)


@given(*[st.dictionaries(st.sampled_from("abc"), VALUES)] * 2)
def test_leaves_that_differ_are_those_that_the_other_does_not_have(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    there = {key: at(other, key) for key in render.leaves(other) if key}
    expected = {
        key: at(one, key)
        for key in render.leaves(one)
        if key and (key not in there or there[key] != at(one, key))
    }

    assert {key: value for key, value in render.differing(one, other) if key} == expected
