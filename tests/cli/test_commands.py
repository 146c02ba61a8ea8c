"""`tcpdconf check`, `show` and `schema` as commands: what they print where, and their exit status."""

import json
import os
import re
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tcpdconf
from tcpdconf.cli import main as cli
from tcpdconf.config import problems
from tcpdconf.config.model import jsonschema as config_schema

GOOD = """\
[defaults]
user = "nobody"

[services.a]
program = ["/bin/cat"]

[[services.a.listeners]]
address = "127.0.0.1"
port = 5000
"""
BAD = GOOD + "backlogg = 5\n\n[services.a.limits]\nmax_per_ip = 0\n"


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.toml").write_text(GOOD)
    return tmp_path / "conf.d"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tcpdconf", *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("options", [(), ("--origin",)], ids=["plain", "origin"])
def test_what_show_prints_of_a_hidden_zone_is_no_configuration(conf: Path, options: tuple[str, ...]) -> None:
    """Neither the zone, which may hold a key, nor a zone that would be asked in its place."""
    lists = (
        '{ zone = "key1234.dq.example", display_zone = "dq.example" }, { zone = "plain.example" },'
        ' { zone = "same.example", display_zone = "same.example" }'
    )
    (conf / "a.toml").write_text(GOOD.replace("program", f"dns_lists = [{lists}]\nprogram"))
    shown = run("show", "conf.d", *options).stdout
    as_json = json.loads(run("show", "conf.d", "--format", "json").stdout)

    zones = ["<hidden>", "plain.example", "same.example"]
    assert [each["zone"] for each in tomllib.loads(shown)["services"]["a"]["dns_lists"]] == zones
    assert [each["zone"] for each in as_json["services"]["a"]["dns_lists"]] == zones

    (conf / "a.toml").write_text(shown)
    checked = run("check", "conf.d")
    assert checked.returncode == 78
    assert 'must be a domain name, not "<hidden>"' in checked.stdout
    assert (
        "hint: write the zone itself: tcpdconf show prints <hidden> for a zone that has a display_zone"
        in checked.stdout
    )


def test_a_good_set_is_said_to_be_good(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (conf / "b.toml").write_text(
        '[services.b]\nenabled = false\nprogram = ["/x"]\nlisteners = [{ port = 1 }]\n'
    )

    assert cli.main(["check", "conf.d"]) == 0
    assert capsys.readouterr() == ("conf.d: 2 services in 2 files, 1 enabled: no problems\n", "")


def test_warnings_are_shown_and_do_not_fail(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (conf / "a.toml").write_text(GOOD.replace("/bin/cat", "/bin/none"))

    assert cli.main(["check", "conf.d"]) == 0
    assert capsys.readouterr().out == (
        "conf.d/a.toml:5:12: warning: services.a.program[0]: there is no program /bin/none\n"
        '   |\n 5 | program = ["/bin/none"]\n   |            ^^^^^^^^^^^\n'
        "\nconf.d: 1 service in 1 file, 1 enabled: no problems, 1 warning\n"
    )


def test_problems_are_shown_as_text(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (conf / "a.toml").write_text(BAD)

    assert cli.main(["check", "conf.d"]) == 78
    assert capsys.readouterr().out == (
        "conf.d/a.toml:10:1: error: services.a.listeners[0].backlogg: unknown key\n"
        "    |\n 10 | backlogg = 5\n    | ^^^^^^^^\nhint: did you mean backlog?\n\n"
        "conf.d/a.toml:13:14: error: services.a.limits.max_per_ip: must be at least 1, not 0\n"
        "    |\n 13 | max_per_ip = 0\n    |              ^\n\n"
        "conf.d: 2 problems\n"
    )


def test_problems_are_shown_as_json(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (conf / "a.toml").write_text(BAD)

    assert cli.main(["check", "conf.d", "--format", "json"]) == 78
    first, second = json.loads(capsys.readouterr().out)
    assert first == {
        "severity": "error", "code": "unknown-key", "file": "conf.d/a.toml", "line": 10, "column": 1,
        "key": "services.a.listeners[0].backlogg", "message": "unknown key", "hint": "did you mean backlog?",
        "edits": [{"line": 10, "column": 1, "end_line": 10, "end_column": 9, "text": "backlog"}],
    }  # fmt: skip
    assert (second["line"], second["column"], second["hint"]) == (13, 14, None)


def test_problems_are_shown_to_github(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (conf / "a.toml").write_text(BAD)

    assert cli.main(["check", "conf.d", "--format", "github"]) == 78
    assert capsys.readouterr().out == (
        "::error file=conf.d/a.toml,line=10,col=1,title=unknown-key::"
        "services.a.listeners[0].backlogg: unknown key%0Ahint: did you mean backlog?\n"
        "::error file=conf.d/a.toml,line=13,col=14,title=wrong-value::"
        "services.a.limits.max_per_ip: must be at least 1, not 0\n"
    )


def test_github_gets_nothing_that_it_would_misread() -> None:
    problem = problems.Problem("a,b:c%.toml", 0, 0, "", "100 %\r\n::error::x", "syntax", "warning")

    assert problems.render([problem], "github") == (
        "::warning file=a%2Cb%3Ac%25.toml,title=syntax::100 %25%0D%0A::error::x\n"
    )


@pytest.mark.parametrize(("form", "text"), [("json", "[]\n"), ("github", "")])
def test_a_good_set_is_nothing_to_a_program(
    conf: Path, capsys: pytest.CaptureFixture[str], form: str, text: str
) -> None:
    assert cli.main(["check", str(conf), "--format", form]) == 0
    assert capsys.readouterr().out == text


def test_check_names_what_only_observes(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is written on purpose, and therefore no warning."""
    (conf / "30-c.toml").write_text(
        """
        [services.c]
        program = ["/bin/cat"]
        user = "nobody"
        listeners = [{ address = "127.0.0.1", port = 5003 }]
        limits = { rate = "1/s", enforce = false }
        """
    )
    assert cli.main(["check", "conf.d", "--strict"]) == 0
    assert capsys.readouterr().out.endswith("no problems\nc only observes: limits.rate\n")
    assert cli.main(["check", "conf.d", "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_a_candidate_is_checked_in_its_place(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (conf.parent / "new=1.tmp").write_text(BAD.replace("services.a", "services.b").replace("5000", "5001"))
    (conf.parent / "gone").write_text("")

    assert cli.main(["check", "conf.d", "--replace", "conf.d/20-b.toml=new=1.tmp"]) == 78
    assert capsys.readouterr().out.startswith(
        "new=1.tmp:10:1: error: services.b.listeners[0].backlogg: unknown key\n"
    )
    both = ["--replace", "conf.d/20-b.toml=gone", "--replace", f"{conf}/a.toml=new=1.tmp"]
    assert cli.main(["check", "conf.d", *both]) == 78
    assert capsys.readouterr().out.endswith("\nconf.d: 2 problems\n")


@pytest.mark.parametrize(
    "arguments",
    [[], ["chek"], ["check", "a", "b"], ["check", "--replace", "x"], ["check", "--format", "xml"]],
)
def test_wrong_usage_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        cli.main(arguments)

    assert error.value.code == 2
    assert capsys.readouterr().err.startswith("usage: tcpdconf ")


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (None, "starts programs: (native|portable)"),
        ("portable", "starts programs: portable"),
        ("quick", 'TCPDCONF_SPAWN must be "native" or "portable", not \'quick\''),
    ],
)
def test_the_version_is_the_packages(
    wish: str | None, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TCPDCONF_SPAWN", raising=False)
    if wish is not None:
        monkeypatch.setenv("TCPDCONF_SPAWN", wish)
    with pytest.raises(SystemExit) as error:
        cli.main(["--version"])

    assert error.value.code == 0
    assert re.fullmatch(rf"tcpdconf {tcpdconf.__version__} \({said}\)\n", capsys.readouterr().out)


def test_show_prints_values_with_their_origin(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", "conf.d", "--origin"]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()

    assert 'user = "nobody"  # conf.d/a.toml:2' in lines
    assert 'program = ["/bin/cat"]  # conf.d/a.toml:5' in lines
    assert "port = 5000  # conf.d/a.toml:9" in lines
    assert "max_connections = 40  # default" in lines
    assert cli.main(["show", "conf.d"]) == 0
    assert tomllib.loads(capsys.readouterr().out) == tomllib.loads(text)
    assert cli.main(["show", str(conf), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == tomllib.loads(text)


def test_show_tells_programs_the_origin_by_key(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", "conf.d", "--origin", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)

    assert conf.is_dir()
    assert found["config"]["services"]["a"]["user"] == "nobody"
    assert found["origin"]["services.a.user"] == "conf.d/a.toml:2"
    assert found["origin"]["services.a.listeners[0].port"] == "conf.d/a.toml:9"
    assert found["origin"]["services.a.limits.max_connections"] == "default"


def test_show_puts_problems_on_standard_error(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (conf / "a.toml").write_text(BAD)

    assert cli.main(["show", "conf.d"]) == 78
    out, err = capsys.readouterr()
    assert (out, err.count("conf.d/a.toml:")) == ("", 2)


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == config_schema.schema()


def test_a_reader_that_leaves_is_no_error(conf: Path) -> None:
    command = f"'{sys.executable}' -m tcpdconf"
    shell = f"{command} show '{conf}' --origin | true; {command} schema | head -1"
    result = subprocess.run(["/bin/sh", "-c", shell], capture_output=True, text=True, check=False)

    assert (result.stdout, result.stderr) == ("{\n", "")


def test_a_terminal_without_unicode_sees_the_problem(conf: Path) -> None:
    (conf / "a.toml").write_text(GOOD + 'adress = "é"\n', encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "tcpdconf", "check", "conf.d"], capture_output=True, check=False,
        env={**os.environ, "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict"},
    )  # fmt: skip

    assert result.returncode == 78
    assert b'10 | adress = "\\xe9"' in result.stdout


def test_checking_imports_no_daemon() -> None:
    code = (
        "import sys; from tcpdconf.cli import main; main.main(['schema']); "
        "sys.exit(any(name.startswith(('tcpdconf.daemon', 'asyncio', 'dns')) for name in sys.modules))"
    )

    assert (
        subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0
    )


def test_a_good_configuration_needs_no_positions(conf: Path) -> None:
    code = (
        f"import sys; from tcpdconf.config.load import load; load.load({str(conf)!r}); "
        "sys.exit('tree_sitter' in sys.modules or 'tcpdconf.config.load.validation_errors' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_two_hundred_services_are_checked_at_once(tmp_path: Path) -> None:
    """The limit is processor time, which a busy machine makes little longer."""
    for number in range(200):
        text = GOOD.replace("services.a", f"services.s{number}").replace("5000", str(5000 + number))
        if number:
            text = text.replace('[defaults]\nuser = "nobody"\n', "")
        (tmp_path / f"{number:03}.toml").write_text(text)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = run("check", str(tmp_path))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)

    assert result.stdout == f"{tmp_path}: 200 services in 200 files, 200 enabled: no problems\n"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3
