"""The project as a whole: its houses, its shipped files, and that they say the same."""

import ast
import os
import pathlib
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Iterator

import pytest

from tcpdconf.config import render
from tcpdconf.config.load import load
from tcpdconf.config.model import jsonschema as config_schema

TOP = pathlib.Path(__file__).parent.parent
PACKAGES = {"tcpdconf": TOP / "tcpdconf", "tcpdconf_migrate": TOP / "migrate/tcpdconf_migrate"}
MODULES = sorted(path for package in PACKAGES.values() for path in package.rglob("*.py"))
SYSTEM = frozenset({"os", "socket", "asyncio", "time", "logging", "dns", "subprocess"})


def house(path: pathlib.Path) -> str:
    """`config` for tcpdconf/config/load/load.py; outside of houses the name of the package."""
    package = next(name for name, folder in PACKAGES.items() if path.is_relative_to(folder))
    inside = path.relative_to(PACKAGES[package]).parts
    return inside[0] if len(inside) > 1 else package


def imported(path: pathlib.Path) -> Iterator[str]:
    """Every module that a module imports, wherever it does so, as `package.module`."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def begins(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


@pytest.mark.parametrize(
    ("room", "doors"),
    [
        ("config", ["tcpdconf.config"]),
        ("policy", ["tcpdconf.config", "tcpdconf.policy"]),
        ("daemon", ["tcpdconf.config", "tcpdconf.policy", "tcpdconf.daemon"]),
        ("tcpdconf_migrate", ["tcpdconf_migrate", "tcpdconf.config", "tcpdconf.usage"]),
    ],
)
def test_doors_between_houses(room: str, doors: list[str]) -> None:
    modules = [path for path in MODULES if house(path) == room]
    assert modules
    for path in modules:
        # the package itself holds nothing but its version
        ours = [name for name in imported(path) if begins(name, *PACKAGES) and name not in PACKAGES]
        assert [name for name in ours if not begins(name, *doors)] == [], path


def test_policy_does_not_touch_the_system() -> None:
    for path in MODULES:
        if house(path) == "policy":
            assert [name for name in imported(path) if begins(name, *SYSTEM)] == [], path


def test_no_module_is_over_400_lines() -> None:
    long = {str(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {path: lines for path, lines in long.items() if lines > 400} == {}


def test_every_package_is_installed() -> None:
    settings = tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        ".".join([name, *path.parent.relative_to(folder).parts])
        for name, folder in PACKAGES.items()
        for path in folder.rglob("__init__.py")
    }
    assert found == set(settings["packages"])
    assert {name: TOP / path for name, path in settings["package-dir"].items()} == PACKAGES


def test_the_shipped_configuration_has_one_enabled_service() -> None:
    loaded = load.load(TOP / "conf.d")
    assert list(loaded.config.enabled()) == ["hello"]
    assert len(loaded.files) == len(list((TOP / "conf.d").iterdir()))


def test_the_schema_is_current() -> None:
    assert (TOP / "schemas/tcpdconf.schema.json").read_text() == render.as_json(config_schema.schema())


def test_what_is_generated_is_what_the_program_says() -> None:
    """`python docs/generate.py` writes it."""
    written = runpy.run_path(str(TOP / "docs/generate.py"))["pages"]()
    assert len(written) > 10
    assert [path for path, text in written.items() if (TOP / path).read_text() != text] == []


def test_the_ansible_role_has_the_variables_of_the_schema() -> None:
    """`python deploy/ansible/argument_specs.py` writes them; each has a default."""
    script = runpy.run_path(str(TOP / "deploy/ansible/argument_specs.py"))
    role = TOP / "deploy/ansible/roles/tcpdconf"
    assert (role / "meta/argument_specs.yml").read_text() == script["text"]()
    defaults = re.findall(r"^(\w+):", (role / "defaults/main.yml").read_text(), re.MULTILINE)
    assert sorted(defaults) == sorted(script["specification"]()["argument_specs"]["main"]["options"])


def test_ci_runs_the_commands_of_the_readme() -> None:
    commands = re.findall(
        r"^```sh\n(python3 -m venv .*)\n```$", (TOP / "README.md").read_text(), re.MULTILINE
    )
    assert len(commands) == 2
    script = (TOP / ".ci/run").read_text()
    assert [command for command in commands if command not in script] == []


@pytest.mark.parametrize("command", ["run", "status", "reload", "stop"])
def test_no_test_meets_the_daemon_of_the_host(command: str) -> None:
    """tests/conftest.py stops what would look for it; with the variable that it sets nobody finds it."""
    words = [sys.executable, "-m", "tcpdconf", command]
    with pytest.raises(AssertionError, match="without --runtime-dir"):
        subprocess.run(words, env={"PATH": os.defpath}, check=False)
    assert not os.path.exists(os.environ["RUNTIME_DIRECTORY"])
    assert {"NOTIFY_SOCKET", "LISTEN_FDS", "XDG_RUNTIME_DIR"}.isdisjoint(os.environ)


def tracked() -> Iterator[pathlib.Path]:
    """The files of the project, without what tools leave in the tree."""
    yield from (path for path in TOP.iterdir() if path.is_file() and path.name != ".git")
    yield TOP / ".ci/run"
    for folder in ("conf.d", "deploy", "docs", "migrate", "schemas", "share", "tcpdconf", "tests"):
        for path in (TOP / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


# written so that they do not find themselves
FOREIGN = re.compile(
    r"/wor[k]/|/roo[t]/|/hom[e]/|\bpyp[i]\b|pythonhoste[d]|find-link[s]|extra-inde[x]"
    r"|\bclaud[e]\b|\banthropi[c]\b|\bopena[i]\b|\bchatgp[t]\b|\bLL[M]s?\b|language mode[l]|\bsub-?agen[t]",
    re.IGNORECASE,
)


def test_no_word_about_where_it_was_written() -> None:
    found = [
        f"{path.relative_to(TOP)}: {hit[0]}"
        for path in tracked()
        for hit in FOREIGN.finditer(path.read_bytes().decode(errors="replace"))
    ]
    assert found == []
