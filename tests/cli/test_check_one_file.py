"""`tcpdconf check FILE`: one file by itself."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tcpdconf.cli import main as cli

SERVICE = """[services.a]
program = ["/bin/cat"]
user = "nobody"
listeners = [{ address = "127.0.0.1", port = 5000 }]
"""
PARTIAL = """[services.b]
dns_lists = ["spam"]
listeners = [{ address = "127.0.0.1", port = 5001 }]
"""
SHARED = """[defaults]
program = ["/bin/cat"]
user = "nobody"

[[dns_chains.spam.lists]]
zone = "bl.example"
"""


@pytest.fixture
def conf(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.chdir(tmp_path)
    conf = tmp_path / "conf.d"
    conf.mkdir()
    (conf / "00-shared.toml").write_text(SHARED)
    (conf / "20-a.toml").write_text(SERVICE)
    (conf / "30-b.toml").write_text(PARTIAL)
    return conf


@pytest.mark.parametrize("words", [["conf.d/20-a.toml"], ["--conf", "conf.d/20-a.toml"]])
def test_a_file_is_checked_and_told_how_to_check_its_set(
    words: list[str], conf: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert conf.is_dir()
    assert cli.main(["check", *words]) == 0
    assert capsys.readouterr().out == (
        "conf.d/20-a.toml: 1 service in 1 file, 1 enabled: no problems\n"
        "The file was checked alone: [defaults] of other files did not apply."
        " To check it with the other files of its directory:\n"
        "  tcpdconf check conf.d\n"
        "To check it as a draft for another directory DIR:\n"
        "  tcpdconf check DIR --replace DIR/20-a.toml=conf.d/20-a.toml\n"
    )


def test_what_the_set_is_told_works(conf: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A part of a set lacks what stands in other files; as its note says it is judged with them."""
    assert cli.main(["check", "conf.d/30-b.toml"]) == 78
    told = capsys.readouterr().out
    assert "error: services.b.program: " in told
    assert 'there is no chain "spam"' in told
    (conf / "30-b.toml").rename(conf.parent / "my draft.toml")
    assert cli.main(["check", "my draft.toml"]) == 78
    *_, command = capsys.readouterr().out.splitlines()
    assert command == "  tcpdconf check DIR --replace 'DIR/my draft.toml=my draft.toml'"
    shell = command.replace("tcpdconf", f"{sys.executable} -m tcpdconf", 1).replace("DIR", "conf.d")
    done = subprocess.run(["/bin/sh", "-c", shell], capture_output=True, text=True, check=False)
    assert done.stdout == "conf.d: 2 services in 3 files, 2 enabled: no problems\n"


def test_a_file_of_shared_tables_is_no_problem(
    conf: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert conf.is_dir()
    assert cli.main(["check", "conf.d/00-shared.toml"]) == 0
    assert "0 services in 1 file, 0 enabled: no problems" in capsys.readouterr().out


def test_its_own_defaults_count(conf: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (conf / "30-b.toml").write_text(SHARED + PARTIAL)
    assert cli.main(["check", "conf.d/30-b.toml"]) == 0
    assert "1 service in 1 file, 1 enabled" in capsys.readouterr().out


def test_a_draft_may_come_through_a_pipe(conf: pathlib.Path) -> None:
    command = [sys.executable, "-m", "tcpdconf", "check", "/dev/stdin"]
    done = subprocess.run(command, input=SERVICE, capture_output=True, text=True, cwd=conf, check=False)
    assert done.returncode == 0
    assert done.stdout == (
        "/dev/stdin: 1 service in 1 file, 1 enabled: no problems\n"
        "The file was checked alone: [defaults] of other files did not apply."
        " To check it as a draft for a directory DIR:\n"
        "  tcpdconf check DIR --replace DIR/NAME.toml=/dev/stdin\n"
    )


@pytest.mark.parametrize("words", [["--quiet"], ["--format", "json"], ["--format", "github"]])
def test_programs_are_told_problems_only(
    words: list[str], conf: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (conf / "20-a.toml").write_text(SERVICE + "max_per_ip = 4\n")
    assert cli.main(["check", "conf.d/20-a.toml", *words]) == 78
    assert "checked alone" not in capsys.readouterr().out


def test_the_place_is_that_of_the_file(conf: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (conf / "20-a.toml").write_text("\n[services.a]\nuser = 7\n")
    assert cli.main(["check", "conf.d/20-a.toml", "--format", "json"]) == 78
    for each in json.loads(capsys.readouterr().out):
        assert (each["file"], each["line"] > 0) == ("conf.d/20-a.toml", True)


def test_a_name_that_would_be_ignored_is_told(conf: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (conf / "20-a.toml").rename(conf / "a.conf")
    assert cli.main(["check", "conf.d/a.conf"]) == 0
    assert "conf.d/a.conf: warning: is ignored: its name does not end in .toml" in capsys.readouterr().out


def test_candidates_go_with_a_directory(conf: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert conf.is_dir()
    with pytest.raises(SystemExit) as ended:
        cli.main(["check", "conf.d/20-a.toml", "--replace", "conf.d/20-a.toml=conf.d/30-b.toml"])
    assert ended.value.code == 2
    assert "--replace goes with a directory, and conf.d/20-a.toml is a file" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["show", "run"])
def test_other_commands_want_a_directory(command: str, conf: pathlib.Path, tmp_path: pathlib.Path) -> None:
    words = [sys.executable, "-m", "tcpdconf", command, "conf.d/20-a.toml"]
    environment = {**os.environ, "RUNTIME_DIRECTORY": str(tmp_path / "run")}
    done = subprocess.run(
        words, cwd=conf.parent, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 78
    assert "conf.d/20-a.toml: error: cannot read: Not a directory" in done.stderr
