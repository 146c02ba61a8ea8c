import copy
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tcpdconf.config import render
from tcpdconf.config.model import jsonschema as config_schema

ROOT = Path(__file__).parents[3]
SCHEMA = config_schema.schema()
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)


def objects(node: object) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from objects(value)
    elif isinstance(node, list):
        for value in node:
            yield from objects(value)


def test_the_file_is_what_the_command_prints() -> None:
    file = ROOT / "schemas" / "tcpdconf.schema.json"

    assert file.read_text(encoding="utf-8") == render.as_json(SCHEMA)


def test_it_is_a_draft_7_schema() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)

    assert SCHEMA["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert "$defs" not in json.dumps(SCHEMA)
    assert "null" not in json.dumps(SCHEMA)


def test_no_table_takes_a_key_that_it_does_not_know() -> None:
    found = [node for node in objects(SCHEMA) if node.get("type") == "object"]

    assert len(found) > 15
    assert [node for node in found if node.get("additionalProperties") is not False] == []


def keys() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every key of every table, with its schema."""
    for name, table in {"": SCHEMA, **SCHEMA["definitions"]}.items():
        for key, node in table["properties"].items():
            yield f"{name}.{key}", node


def test_every_key_is_described() -> None:
    assert [name for name, node in keys() if not node.get("description")] == []


def test_every_key_has_examples_that_are_right() -> None:
    wrong = []
    for name, node in keys():
        validator = jsonschema.Draft7Validator({**node, "definitions": SCHEMA["definitions"]})
        if not node["examples"] or not all(map(validator.is_valid, node["examples"])):
            wrong.append(name)

    assert wrong == []


def test_nothing_stands_beside_a_reference() -> None:
    """Draft-07 ignores it."""
    assert [node for node in objects(SCHEMA) if "$ref" in node and len(node) > 1] == []


def test_asking_twice_gives_the_same() -> None:
    before = copy.deepcopy(SCHEMA)

    assert config_schema.schema() == before


@pytest.mark.parametrize("file", sorted((ROOT / "conf.d").glob("*.toml")), ids=lambda file: file.stem)
def test_the_shipped_files_are_valid(file: Path) -> None:
    assert list(VALIDATOR.iter_errors(tomllib.loads(file.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    "text",
    [
        "x = 1",
        "services = []",
        'services."a b" = {}',
        "services.a.x = 1",
        "services.a.enabled = 1",
        'services.a.program = "/bin/cat"',
        "services.a.program = []",
        'services.a.directory = "srv"',
        "services.a.limits.max_per_ip = 0",
        "services.a.limits.max_per_ipp = 4",
        "services.a.listeners = [{}]",
        "services.a.listeners = [{ port = 0 }]",
        "services.a.listeners = [{ port = 25, haproxy = {} }]",
        'services.a.listeners = [{ port = 25, haproxy = { trusted = "all" } }]',
        'services.a.environment = { "A-B" = "" }',
        "services.a.environment = { A = 1 }",
        'services.a.stderr = "file"',
        "services.a.stderr = { file = 1 }",
        'services.a.umask = "9"',
        'services.a.access = [{ rules = [{ network = "*", action = "maybe" }] }]',
        "services.a.dns_lists = [1]",
        "services.a.environment_files = [1]",
        'dns_chains.a.lists = ["b"]',
        'daemon.log_level = "loud"',
    ],
)
def test_what_is_wrong_is_refused(text: str) -> None:
    assert not VALIDATOR.is_valid(tomllib.loads(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[defaults]",
        'services.a.environment_files = ["/a", { path = "/b", shell = true }]',
        'services.a.stderr = { logger = ["/bin/x"] }',
        'services.a.rlimits = { as = "1GiB", nofile = 5 }',
        'services.a.listeners = [{ port = "smtp", haproxy = { trusted = "any" } }]',
        'services.a.dns_lists = ["chain", { zone = "x" }]',
        "services.a.umask = 0o22",
        "services.a.inherit_environment = true",
        'services.a.inherit_environment = ["PATH"]',
    ],
)
def test_what_is_right_is_accepted(text: str) -> None:
    assert list(VALIDATOR.iter_errors(tomllib.loads(text))) == []
