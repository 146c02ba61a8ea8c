"""What tests of several tools share."""

import pathlib

import pytest
from support import packages


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """This project as a wheel."""
    return packages.build(tmp_path_factory.mktemp("built"))["wheel"]
