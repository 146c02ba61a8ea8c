"""The shipped configuration: it runs as it is, and everything in it can be enabled."""

import os
import subprocess
from pathlib import Path

import pytest

from tcpdconf.config import problems
from tcpdconf.config.load import load

DIRECTORY = Path(__file__).parents[3] / "conf.d"
FILES = sorted(DIRECTORY.glob("*.toml"))


def test_one_service_is_enabled_on_loopback() -> None:
    loaded = load.load(DIRECTORY)

    assert list(loaded.config.services) == ["hello", "smtp", "submission", "imap", "pop3"]
    (hello,) = loaded.config.enabled().values()
    assert [(listener.address, listener.port) for listener in hello.listeners] == [("127.0.0.1", 4025)]
    assert {problem.code for problem in loaded.warnings} <= {"runs-as-root"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_file_begins_with_its_schema(file: Path) -> None:
    assert file.read_text(encoding="utf-8").startswith("#:schema ../schemas/tcpdconf.schema.json\n\n")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_file_loads_when_it_is_enabled(file: Path, tmp_path: Path) -> None:
    """Only Courier itself may be missing."""
    text = file.read_text(encoding="utf-8").replace("enabled = false", "enabled = true")
    (tmp_path / file.name).write_text(text, encoding="utf-8")
    try:
        found = load.load(tmp_path).warnings
    except problems.ConfigError as error:
        found = error.problems

    host = {"unknown-user", "unknown-group", "missing-file", "missing-program", "runs-as-root"}
    assert {problem.code for problem in found} <= host


def test_the_first_service_answers_without_being_asked() -> None:
    (hello,) = load.load(DIRECTORY).config.enabled().values()
    connection = {"TCPREMOTEIP": "::ffff:127.0.0.1", "TCPREMOTEPORT": "5", "PROTO": "TCP", "OTHER": "x"}
    result = subprocess.run(
        hello.program, env={**hello.environment, **connection, "GREETING": "Hello"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=10, cwd=os.sep,
    )  # fmt: skip

    assert result.stdout.splitlines() == [
        "Hello from tcpdconf. Of this connection the program is told:",
        "PROTO=TCP",
        "TCPREMOTEIP=::ffff:127.0.0.1",
        "TCPREMOTEPORT=5",
    ]
