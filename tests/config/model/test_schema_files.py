"""Files under tests/schema, in the form that SchemaStore wants, and who accepts or refuses them.

`good` is right for everybody. `bad` has a file for each rule that the schema knows: editors' tools refuse it,
and `check` does for that one reason. `beyond` has a file for each rule that no JSON Schema of one file can
say: `check` alone refuses it. The comment on top of a file is the rule.
"""

import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
from typing import Any

import jsonschema
import pytest
from support import peers

from tcpdconf.cli import main as cli
from tcpdconf.config.model import jsonschema as config_schema

FOLDER = pathlib.Path(__file__).parents[2] / "schema"
VALIDATOR = jsonschema.Draft7Validator(config_schema.schema())
KINDS = ("good", "bad", "beyond")


def files(*kinds: str) -> list[pathlib.Path]:
    return [path for kind in kinds for path in sorted((FOLDER / kind).glob("*.toml"))]


def name(path: pathlib.Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def errors(path: pathlib.Path, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the problems of a conf.d with only this file, without warnings."""
    shutil.copy(path, folder)
    status = cli.main(["check", "--fast", str(folder), "--format", "json"])
    found = json.loads(capsys.readouterr().out)
    texts = [problem["message"] for problem in found if problem["severity"] == "error"]
    assert status == (78 if texts else 0)
    return texts


def content(path: pathlib.Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", files("good"), ids=name)
def test_a_good_file_is_accepted(
    path: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(VALIDATOR.iter_errors(content(path))) == []
    assert errors(path, tmp_path, capsys) == []


@pytest.mark.parametrize("path", files("bad"), ids=name)
def test_a_bad_file_is_refused_by_the_schema_and_by_check(
    path: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not VALIDATOR.is_valid(content(path))
    assert len(errors(path, tmp_path, capsys)) == 1


@pytest.mark.parametrize("path", files("beyond"), ids=name)
def test_what_the_schema_cannot_say_check_refuses(
    path: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert VALIDATOR.is_valid(content(path))
    assert len(errors(path, tmp_path, capsys)) == 1


def test_every_key_is_in_a_good_file() -> None:
    words = set(re.findall(r"\w+", " ".join(path.read_text() for path in files("good"))))
    keys = {
        key
        for table in [config_schema.schema(), *config_schema.schema()["definitions"].values()]
        for key in table["properties"]
    }

    assert len(keys) > 80
    assert keys - words == set()


def command(program: str) -> list[str]:
    """Return the command of a linter, from this environment or from PATH."""
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    found = shutil.which(program, path=path)
    peers.need(found or program)
    options = {"taplo": ["--no-auto-config", "--colors=never"], "tombi": ["--offline", "--no-cache"]}
    return [str(found), "lint", *options[program]]


@functools.cache
def refused_by(program: str) -> set[str]:
    """The files that a linter refuses when it is shown all of them."""
    paths = files(*KINDS)
    result = subprocess.run(
        [*command(program), *map(str, paths)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    output = re.sub(r"\x1b\[[0-9;]*m", "", result.stdout)
    assert result.returncode == 1, output
    return {name(path) for path in paths if re.search(rf"(path=\"|at ){re.escape(str(path))}\b", output)}


@pytest.mark.peer
@pytest.mark.parametrize("program", ["taplo", "tombi"])
def test_editors_tools_refuse_the_bad_files_and_no_other(program: str) -> None:
    assert refused_by(program) == {name(path) for path in files("bad")}


@pytest.mark.peer
@pytest.mark.parametrize("program", ["taplo", "tombi"])
def test_editors_tools_accept_the_shipped_files(program: str) -> None:
    shipped = sorted((FOLDER.parents[1] / "conf.d").glob("*.toml"))
    for path in shipped:
        assert path.read_text().startswith("#:schema ../schemas/tcpdconf.schema.json\n\n")

    result = subprocess.run(
        [*command(program), *map(str, shipped)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, json.dumps([result.stdout, result.stderr])
