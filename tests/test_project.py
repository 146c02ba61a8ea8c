"""The project as a whole: its houses, its shipped files, and that they say the same."""

import ast
import functools
import os
import pathlib
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Iterator

import pytest

import structure
from tcpdconf.config import render
from tcpdconf.config.load import load
from tcpdconf.config.model import jsonschema as config_schema

TOP = pathlib.Path(__file__).parent.parent
PACKAGES = structure.PACKAGES
MODULES = structure.modules()
SYSTEM = frozenset({"os", "socket", "asyncio", "time", "logging", "dns", "subprocess"})
IN_A_FOLDER = 14

# The doors: what the modules of a room may import beside those of the same room. A name is a module, or a
# package with all that is in it; `tcpdconf.config.*` are the modules of a package without its sub-packages.
CONFIG, POLICY, DAEMON = "tcpdconf.config", "tcpdconf.policy", "tcpdconf.daemon"
DOORS = {
    f"{CONFIG}.model": [f"{CONFIG}.*"],
    f"{CONFIG}.courier": [f"{CONFIG}.*", f"{CONFIG}.model"],
    # in its words a value is refused that a command line has
    f"{CONFIG}.couriertcpd": [f"{CONFIG}.*", f"{CONFIG}.model", f"{CONFIG}.load.validation_errors"],
    CONFIG: [f"{CONFIG}.model", f"{CONFIG}.couriertcpd.grammar"],
    f"{CONFIG}.load": [f"{CONFIG}.*", f"{CONFIG}.model"],
    f"{POLICY}.access": [CONFIG, f"{POLICY}.connection"],
    f"{POLICY}.proxy": [CONFIG, f"{POLICY}.connection", f"{POLICY}.access"],
    f"{POLICY}.dns": [CONFIG, f"{POLICY}.connection", f"{POLICY}.access"],
    POLICY: [CONFIG, f"{POLICY}.access"],
    f"{DAEMON}.process": [f"{CONFIG}.*", f"{CONFIG}.model"],
    f"{DAEMON}.dns": [CONFIG, POLICY, f"{DAEMON}.process", f"{DAEMON}.messages"],
    f"{DAEMON}.control": [CONFIG, f"{DAEMON}.process"],
    f"{DAEMON}.watch": [CONFIG, POLICY, f"{DAEMON}.process", f"{DAEMON}.messages"],
    f"{DAEMON}.guard": [CONFIG, POLICY, f"{DAEMON}.process", f"{DAEMON}.messages"],
    f"{DAEMON}.http": [CONFIG, f"{DAEMON}.process"],
    # of the guard: where the state directory is
    f"{DAEMON}.cluster": [
        CONFIG,
        POLICY,
        *(f"{DAEMON}.{room}" for room in ("process", "messages", "guard.state_directory")),
    ],
    f"{DAEMON}.shared": [CONFIG, POLICY, f"{DAEMON}.process"],
    f"{DAEMON}.broker": [
        CONFIG,
        POLICY,
        *(f"{DAEMON}.{room}" for room in ("process", "messages", "cluster")),
    ],
    f"{DAEMON}.worker": [
        CONFIG,
        POLICY,
        *(f"{DAEMON}.{room}" for room in ("process", "dns", "guard", "shared", "cluster")),
        f"{DAEMON}.messages",
    ],
    f"{DAEMON}.supervisor": [
        CONFIG,
        POLICY,
        *(
            f"{DAEMON}.{room}"
            for room in (
                "process",
                "control",
                "watch",
                "guard",
                "http",
                "cluster",
                "broker",
                "shared",
                "worker",
            )
        ),
        *(f"{DAEMON}.{module}" for module in ("messages", "descriptors")),
    ],
    DAEMON: [CONFIG, POLICY, *(f"{DAEMON}.{room}" for room in ("process", "control", "supervisor"))],
    "tcpdconf.explain": [
        CONFIG,
        POLICY,
        *(f"{DAEMON}.{room}" for room in ("process", "dns", "control", "guard", "cluster", "worker")),
        *(f"{DAEMON}.{module}" for module in ("messages", "descriptors")),
    ],
    "tcpdconf.cli": ["tcpdconf"],
    "tcpdconf": ["tcpdconf.cli", CONFIG, DAEMON],
    "tcpdconf_migrate": [
        "tcpdconf_migrate",
        CONFIG,
        "tcpdconf.usage",
        f"{DAEMON}.worker.environment_files",  # a shell file must give what it will give to the worker
    ],
}


def room(module: str) -> str:
    """The innermost package with doors that a module is in."""
    return max((name for name in DOORS if begins(module, name)), key=len)


@functools.cache
def imports_of_all() -> dict[str, set[str]]:
    """The imports of each module."""
    return structure.graph(MODULES)


def begins(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def is_open(door: str, module: str) -> bool:
    if door.endswith(".*"):
        return module.rpartition(".")[0] == door.removesuffix(".*")
    return begins(module, door)


@pytest.mark.parametrize("name", DOORS)
def test_doors_between_rooms(name: str) -> None:
    inside = {module: imports for module, imports in imports_of_all().items() if room(module) == name}
    assert inside
    for module, imports in inside.items():
        others = {other for other in imports if room(other) != name}
        assert {
            other for other in others if not any(is_open(door, other) for door in DOORS[name])
        } == set(), module


def test_no_imports_in_a_circle() -> None:
    assert structure.circle(imports_of_all()) == []


def test_a_circle_would_be_found() -> None:
    assert structure.circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) != []


def test_no_folder_has_too_many_modules() -> None:
    found = structure.folders(MODULES)
    assert {folder: count for folder, count in found.items() if count > IN_A_FOLDER} == {}


def test_policy_does_not_touch_the_system() -> None:
    for module, path in MODULES.items():
        if begins(module, POLICY):
            assert [name for name in structure.imported(path) if begins(name, *SYSTEM)] == [], path


def defined(path: pathlib.Path) -> Iterator[str]:
    """The functions and classes of a module, and the methods as `Class.method`."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        if isinstance(node, ast.ClassDef):
            yield from (f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef))


def test_pages_name_functions_that_exist() -> None:
    """Functions are written as `module:function` there, and methods also as `Class.method`."""
    known = {(name.rpartition(".")[2], each) for name, path in MODULES.items() for each in defined(path)}
    written = "".join(page.read_text() for page in (TOP / "docs/explanation").glob("*.md"))
    named = set(re.findall(r"`(?:[\w.]+\.)?(\w+):([\w.]+)`", written))
    assert len(named) > 20
    assert named - known == set()
    assert set(re.findall(r"`([A-Z]\w+\.\w+)`", written)) - {each for _, each in known} == set()


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
    for folder in (
        "conf.d",
        "deploy",
        "docs",
        "migrate",
        "packaging",
        "schemas",
        "share",
        "tcpdconf",
        "tests",
    ):
        for path in (TOP / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so":
                yield path


# written so that they do not find themselves
FOREIGN = re.compile(
    # pkg: begins a package URL, whose kind of package it then names
    r"/wor[k]/|/roo[t]/|/hom[e]/|(?<!pkg:)\bpyp[i]\b|pythonhoste[d]|find-link[s]|extra-inde[x]"
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
