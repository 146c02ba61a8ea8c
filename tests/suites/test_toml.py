"""toml-test, the public suite for readers of TOML: what is not TOML is refused, and what is TOML is read.

Its files come in the source distribution of tomlkit. None describes a service, so `check` objects to most of
them, but only to a file that is not TOML for being none.
"""

import pathlib
import subprocess
import sys

import pytest

from tcpdconf.config.load import load

NOT_TOML = {"syntax", "duplicate-key", "encoding"}  # codes of problems


@pytest.mark.network
def test_files_of_toml_test_are_read_as_it_says(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    options = ["--no-binary", "tomlkit", "--dest", str(tmp_path), "tomlkit==0.15.2"]
    subprocess.run([*command, *options], check=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    subprocess.run(["tar", "--extract", "--file", archive, "--directory", tmp_path], check=True)
    (suite,) = tmp_path.glob("tomlkit-*/tests/toml-test/tests")
    names = [name for name in (suite / "files-toml-1.0.0").read_text().split() if name.endswith(".toml")]
    wrong = [name for name in names if is_toml(tmp_path, suite / name) != name.startswith("valid/")]
    assert wrong == []
    assert sum(name.startswith("valid/") for name in names) > 180
    assert sum(name.startswith("invalid/") for name in names) > 370


def is_toml(folder: pathlib.Path, file: pathlib.Path) -> bool:
    """Return whether `load` takes the file for TOML; every problem names its place."""
    conf = folder / "conf.d"
    conf.mkdir(exist_ok=True)
    (conf / "file.toml").write_bytes(file.read_bytes())
    with pytest.raises(load.LoadError) as raised:
        load.load(conf)
    found = raised.value.problems
    assert all(each.file == str(conf / "file.toml") for each in found if each.code != "no-service"), file
    return not NOT_TOML.intersection(each.code for each in found)
