"""Tests the command line: misspelt words, directories, durations, colour."""

import os
import pathlib
import pty
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest

import tcpdconf
from tcpdconf.cli import main as cli
from tcpdconf_migrate import __main__ as migration

GOOD = """[services.a]
program = ["/bin/cat"]
user = "nobody"
listeners = [{ address = "127.0.0.1", port = 5000 }]
"""
BAD = GOOD + "max_per_ip = 4\n"


@pytest.fixture
def conf(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.toml").write_text(GOOD)
    return tmp_path / "conf.d"


def refused(words: Sequence[str], capsys: pytest.CaptureFixture[str], status: int = 2) -> str:
    """Return the message on standard error about a wrong command line."""
    command = migration.main if words[0] == "tcpdconf-migrate" else cli.main
    with pytest.raises(SystemExit) as ended:
        command(words[1:])
    assert ended.value.code == status
    usage, _, said = capsys.readouterr().err.partition("error: ")
    assert usage.startswith(f"usage: {words[0]} ")
    return said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("tcpdconf stauts", "argument COMMAND: there is no 'stauts'; did you mean 'status'? There are run, "),
        ("tcpdconf xyz", "argument COMMAND: there is no 'xyz'. There are run, check, "),
        ("tcpdconf check --fromat text", "unrecognized arguments: --fromat; did you mean --format?"),
        ("tcpdconf check --formta=json", "unrecognized arguments: --formta=json; did you mean --format?"),
        ("tcpdconf check --xyz", "unrecognized arguments: --xyz\n"),
        ("tcpdconf check a b", "unrecognized arguments: b\n"),
        (
            "tcpdconf check --format jsno",
            "there is no 'jsno'; did you mean 'json'? There are text, json, github",
        ),
        ("tcpdconf-migrate runing", "argument FORM: there is no 'runing'; did you mean 'running'?"),
        ("tcpdconf-migrate running --exat", "unrecognized arguments: --exat; did you mean --exact?"),
    ],
)
def test_a_wrong_word_is_answered_with_the_near_one(
    line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(line.split(), capsys)


def test_a_wrong_option_is_answered_with_the_usage_of_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["show", "--orgin"])
    assert capsys.readouterr().err.startswith("usage: tcpdconf show ")


@pytest.mark.parametrize("command", [cli.main, migration.main])
@pytest.mark.parametrize("option", ["-V", "--version"])
def test_both_options_print_the_version(
    option: str, command: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command([option])
    assert ended.value.code == 0
    assert capsys.readouterr().out.split()[1] == tcpdconf.__version__


@pytest.mark.parametrize("words", [["conf.d"], ["--conf", "conf.d"], ["conf.d", "--conf", "./conf.d/"]])
def test_a_directory_has_two_places(
    words: list[str], conf: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert conf.is_dir()
    assert cli.main(["check", *words]) == 0
    assert "1 service in 1 file" in capsys.readouterr().out
    assert cli.main(["show", *words]) == 0
    assert "[services.a]" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[""], ["--conf", ""]])
def test_an_empty_directory_is_not_the_default(
    words: list[str], conf: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `tcpdconf check "$UNSET"` has it."""
    assert conf.is_dir()
    assert cli.main(["check", *words]) == 78
    assert "/etc/tcpdconf" not in capsys.readouterr().out


@pytest.mark.parametrize("command", ["run", "check", "show"])
def test_two_directories_are_wrong_usage(
    command: str, conf: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert conf.is_dir()
    said = refused(["tcpdconf", command, "conf.d", "--conf", "other.d"], capsys)
    assert said == "DIR is conf.d and --conf is other.d; give one of them\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *(
            (text, f'"5min", not {text!r}\n')
            for text in ("-1", "x", "nan", "inf", "604801", "8d", "1m 2s", "")
        ),
        ("10 minutes", """not '10 minutes'; write "10min"\n"""),
    ],
)
@pytest.mark.parametrize("option", ["stop --drain", "status --wait"])
def test_a_wrong_duration(option: str, text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(f"tcpdconf {option}={text}".split(" ", 2), capsys)
    assert "must be seconds from 0 to 604800, or a duration such as" in told
    assert told.endswith(said)


def coloured(words: Sequence[str], **environment: str | None) -> tuple[bool, bool]:
    """Return whether a command writes escape sequences to a terminal; and to a pipe."""
    command = [sys.executable, "-m", "tcpdconf", *words]
    wanted = {"PATH": os.defpath, "TERM": "xterm", **environment}
    bare = {name: value for name, value in wanted.items() if value is not None}
    ours, theirs = pty.openpty()
    subprocess.run(command, env=bare, stdout=theirs, stderr=theirs, stdin=theirs, check=False)
    os.close(theirs)
    shown = b""
    try:
        while data := os.read(ours, 65536):
            shown += data
    except OSError:  # the end of a terminal (EIO)
        pass
    os.close(ours)
    piped = subprocess.run(command, env=bare, capture_output=True, check=False)
    return b"\x1b[" in shown, b"\x1b[" in piped.stdout + piped.stderr


@pytest.mark.parametrize(
    ("words", "environment", "wanted"),
    [
        ([], {}, (True, False)),
        ([], {"NO_COLOR": "1"}, (False, False)),
        ([], {"NO_COLOR": ""}, (True, False)),
        ([], {"TERM": "dumb"}, (False, False)),
        ([], {"TERM": None}, (False, False)),
        (["--color", "never"], {}, (False, False)),
        (["--color", "always"], {"NO_COLOR": "1", "TERM": "dumb"}, (True, True)),
        (["--color", "always", "--format", "json"], {}, (False, False)),
        (["--color", "always", "--format", "github"], {}, (False, False)),
    ],
)
def test_problems_have_colour_where_they_may(
    words: list[str], environment: dict[str, str | None], wanted: tuple[bool, bool], conf: pathlib.Path
) -> None:
    (conf / "a.toml").write_text(BAD)
    assert coloured(["check", "conf.d", *words], **environment) == wanted


@pytest.mark.parametrize("words", [["show", "conf.d"], ["explain", "a", "192.0.2.1", "--conf", "conf.d"]])
def test_problems_on_standard_error_have_colour(words: list[str], conf: pathlib.Path) -> None:
    (conf / "a.toml").write_text(BAD)
    assert coloured(words, RUNTIME_DIRECTORY=str(conf)) == (True, False)


def test_colour_changes_nothing_but_colour(conf: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (conf / "a.toml").write_text(BAD)
    assert cli.main(["check", "conf.d"]) == 78
    plain = capsys.readouterr().out
    assert cli.main(["check", "conf.d", "--color", "always"]) == 78
    shown = capsys.readouterr().out
    assert "\x1b[1;31merror\x1b[0m: services.a.max_per_ip" in shown
    pieces = shown.split("\x1b[")
    assert pieces[0] + "".join(piece.partition("m")[2] for piece in pieces[1:]) == plain
