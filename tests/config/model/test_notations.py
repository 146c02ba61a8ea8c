"""Keys that may be written in two ways: as octal digits or a number, as seconds or with a unit."""

import contextlib
import io
import pathlib
from typing import NamedTuple

import pytest

from tcpdconf.cli import main as cli

SERVICE = """[services.a]
program = ["/bin/cat"]
user = "root"
listeners = [{ address = "127.0.0.1", port = 4999 }]
"""


class Result(NamedTuple):
    """Holds the output of a command and its exit status."""

    returncode: int
    stdout: str
    stderr: str


def run(folder: pathlib.Path, command: str, text: str) -> Result:
    folder.joinpath("a.toml").write_text(text, encoding="utf-8")
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        status = cli.main([command, str(folder)])
    return Result(status, stdout.getvalue(), stderr.getvalue())


@pytest.mark.parametrize(
    ("written", "shown"),
    [("0o22", "022"), ("0o022", "022"), ("0o7_7", "077"), ('"22"', "022"), ('"0022"', "022"), ('"0"', "000")],
)
def test_a_mask_is_octal_and_shown_as_a_string(tmp_path: pathlib.Path, written: str, shown: str) -> None:
    result = run(tmp_path, "show", f"{SERVICE}umask = {written}\n")

    assert f'\numask = "{shown}"\n' in result.stdout, result.stderr


@pytest.mark.parametrize(
    ("table", "written", "hint"),
    [
        ("services.a", "22", 'write "022"'),
        ("services.a", "77", 'write "077"'),
        ("services.a", "0x12", None),
        ("services.a", "0b10010", None),
        ("services.a", "18", None),
        ("services.a", "0o1777", None),
        ("services.a", "-1", None),
        ("services.a", "true", None),
        ("services.a", '"0o22"', 'write "022"'),
        ("defaults", "22", 'write "022"'),
    ],
)
def test_no_other_number_is_a_mask(
    tmp_path: pathlib.Path, table: str, written: str, hint: str | None
) -> None:
    """0x12 and 18 are 0o22 to a TOML parser; who wrote them meant something else, or nothing like it."""
    header = "" if table == "services.a" else f"[{table}]\n"
    result = run(tmp_path, "check", f"{SERVICE}{header}umask = {written}\n")

    assert result.returncode == 78
    assert f"{table}.umask: must be octal digits" in result.stdout
    assert (f"hint: {hint}\n" in result.stdout) if hint else ("hint" not in result.stdout)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("10", "10"), ("0.5", "0.5"), ('"10s"', "10"), ('"5min"', "300"), ('"24h"', "86400"),
        ('"1d"', "86400"), ('"500ms"', "0.5"), ('"700ms"', "0.7"), ('"1.5h"', "5400"), ('"10 s"', "10"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("table", "key"), [("daemon", "stop_timeout"), ("services.a.dns", "deadline")])
def test_a_duration_has_a_unit_or_is_in_seconds(
    tmp_path: pathlib.Path, table: str, key: str, written: str, shown: str
) -> None:
    result = run(tmp_path, "show", f"{SERVICE}[{table}]\n{key} = {written}\n")

    assert f"\n{key} = {shown}\n" in result.stdout, result.stderr


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ('"10"', 'write "10s"'),
        ('"10m"', 'write "10min"'),
        ('"10 seconds"', 'write "10s"'),
        ('"2 Hours"', 'write "2h"'),
        ('"ten"', None),
        ('"-1s"', None),
        ("true", None),
        ("inf", None),
    ],
)
def test_other_units_are_refused(tmp_path: pathlib.Path, written: str, hint: str | None) -> None:
    result = run(tmp_path, "check", f"{SERVICE}[daemon]\nstop_timeout = {written}\n")

    assert result.returncode == 78
    assert 'must be a number of seconds or a duration such as "10s"' in result.stdout
    assert (f"hint: {hint}\n" in result.stdout) if hint else ("hint" not in result.stdout)
