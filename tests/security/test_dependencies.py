"""What a deployment installs is pinned, with hashes, and is what pyproject.toml asks for."""

import pathlib
import re
import tomllib
from importlib import metadata

from packaging import requirements, utils, version

TOP = pathlib.Path(__file__).parents[2]
ENTRY = re.compile(
    r"^([a-z0-9-]+)==([^ ;]+)(?: ; [^\\]+)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE
)


def locked() -> dict[str, str]:
    """The version of each package; there is nothing else in the file but comments."""
    text = (TOP / "deploy/requirements.lock").read_text()
    rest = ENTRY.sub("", text).splitlines()
    assert [line for line in rest if not line.startswith("#")] == []
    return {found[1]: found[2] for found in ENTRY.finditer(text)}


def wanted() -> list[requirements.Requirement]:
    """What pyproject.toml asks for, and what that needs in its turn."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    found: dict[str, requirements.Requirement] = {}
    left = [requirements.Requirement(text) for text in project["dependencies"]]
    while left:
        one = left.pop()
        if one.name not in found and (one.marker is None or one.marker.evaluate({"extra": ""})):
            found[one.name] = one
            left += [requirements.Requirement(text) for text in metadata.requires(one.name) or ()]
    return list(found.values())


def test_the_lock_file_is_what_the_project_asks_for() -> None:
    versions = locked()
    names = {str(utils.canonicalize_name(one.name)) for one in wanted()}

    assert names == set(versions)
    for one in wanted():
        pinned = version.Version(versions[utils.canonicalize_name(one.name)])
        assert one.specifier.contains(pinned), f"{one} is locked at {pinned}"
