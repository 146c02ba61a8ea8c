"""Tests that a deployment installs pinned packages with hashes, which satisfy pyproject.toml.

Nothing here depends on what others have released since: of a package in another version than the locked one
nothing is asked. That all of the lock can be installed, and is enough, is tests/deploy/test_packages.py's.
"""

import pathlib
import re
import runpy
import tomllib
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import pytest
from packaging import requirements, utils, version

TOP = pathlib.Path(__file__).parents[2]
SCRIPT: dict[str, Callable[..., Any]] = runpy.run_path(str(TOP / "deploy/newer_releases.py"))


def asked_for() -> Iterator[requirements.Requirement]:
    """Return the dependencies of pyproject.toml, and the dependencies of their locked versions."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    yield from map(requirements.Requirement, project["dependencies"])
    pinned = SCRIPT["locked"]()
    for installed in metadata.distributions():
        if pinned.get(utils.canonicalize_name(installed.name)) == installed.version:
            needed = map(requirements.Requirement, installed.requires or ())
            yield from (one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""}))


def test_the_lock_file_is_what_the_project_asks_for() -> None:
    versions = SCRIPT["locked"]()

    for one in asked_for():
        pinned = versions.get(utils.canonicalize_name(one.name))
        assert pinned is not None, f"{one} is not locked"
        assert one.specifier.contains(version.Version(pinned)), f"{one} is locked at {pinned}"


def test_what_builds_it_is_locked_too() -> None:
    (asked,) = tomllib.loads((TOP / "pyproject.toml").read_text())["build-system"]["requires"]
    wanted = requirements.Requirement(asked)
    (found,) = re.findall(
        r"^(\S+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}\n",
        (TOP / "packaging/build.lock").read_text(),
        re.MULTILINE,
    )

    assert found[0] == wanted.name
    assert wanted.specifier.contains(version.Version(found[1]))


def test_what_has_no_hash_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy/requirements.lock").write_text("# head\nsdnotify==0.3.2\n")
    monkeypatch.setitem(SCRIPT["locked"].__globals__, "TOP", tmp_path)

    with pytest.raises(ValueError, match="no version with hashes: sdnotify"):
        SCRIPT["locked"]()


def test_newer_releases_are_a_report() -> None:
    pinned = {"kept": "1", "moved": "1", "gone": "1"}

    assert SCRIPT["differences"](pinned, {"kept": "1", "moved": "2", "new": "1", "tcpdconf": "1"}) == [
        "gone: locked 1, offered not",
        "moved: locked 1, offered 2",
        "new: locked not, offered 1",
    ]
