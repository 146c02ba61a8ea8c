"""What tests of several tools share."""

import pathlib
import subprocess
import sys

import pytest

TOP = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """This project as a wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        str(TOP),
    ]
    subprocess.run(command, check=True)
    (made,) = folder.glob("*.whl")
    return made
