"""Its own files or none, read back before, and nothing of somebody else's is replaced."""

import os
import stat
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

from tcpdconf.config import render
from tcpdconf.config.couriertcpd import parse
from tcpdconf.config.model.service import Service
from tcpdconf_migrate import __main__, write

BEFORE = '[services.other]\nprogram = ["/bin/true"]\nlisteners = [{ port = 1 }]\n'


def service(port: int) -> Service:
    found = parse.parse([str(port), "/bin/cat"], exact=False).service
    assert found is not None
    return found


def put(folder: Path, *ports: int, forced: Sequence[str] = (), private: bool = False) -> write.Written:
    services = {f"s{port}": service(port) for port in ports}
    texts = {f"{name}.toml": render.service(name, each) for name, each in services.items()}
    return write.write(str(folder), texts, services, forced=forced, private=private)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_files_are_written_into_a_directory_that_is_made(tmp_path: Path) -> None:
    put(tmp_path / "a/conf.d", 25, 143)

    assert sorted(contents(tmp_path / "a/conf.d")) == ["s143.toml", "s25.toml"]
    assert stat.S_IMODE((tmp_path / "a/conf.d/s25.toml").stat().st_mode) == 0o644


def test_what_other_users_may_not_see_they_cannot_read(tmp_path: Path) -> None:
    put(tmp_path, 25, private=True)
    assert stat.S_IMODE((tmp_path / "s25.toml").stat().st_mode) == 0o600


def test_its_own_files_are_replaced(tmp_path: Path) -> None:
    put(tmp_path, 25, 143)
    before = contents(tmp_path)
    (tmp_path / "s25.toml").write_text(write.marked(BEFORE))
    put(tmp_path, 25, 143)

    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda _: BEFORE, "was not written by tcpdconf-migrate"),
        (lambda text: text.replace("40", "41"), "was changed since"),
    ],
)
def test_a_file_of_somebody_else_stops_only_itself(tmp_path: Path, change: object, said: str) -> None:
    assert callable(change)
    put(tmp_path, 25)
    theirs = tmp_path / "s25.toml"
    theirs.write_text(change(theirs.read_text()))
    before = contents(tmp_path)
    written, (kept,) = put(tmp_path, 143, 25)

    assert written == ["s143.toml"]
    assert kept.startswith(f"{theirs}: {said}")
    assert contents(tmp_path) == before | {"s143.toml": (tmp_path / "s143.toml").read_text()}
    assert put(tmp_path, 143, 25, forced=["s25.toml"]) == (["s143.toml", "s25.toml"], [])
    assert theirs.read_text() != before["s25.toml"]


@pytest.fixture
def edited(tmp_path: Path) -> Path:
    """A conf.d with smtp.toml and pop3.toml, both of them edited, and a script that starts them and imap."""
    conf = tmp_path / "conf.d"
    text = "".join(f"couriertcpd -nodnslookup {port} /bin/cat\n" for port in (25, 110))
    (tmp_path / "start.sh").write_text(text)
    assert __main__.main(["script", "-o", str(conf), str(tmp_path / "start.sh")]) == 0
    for name in ("smtp", "pop3"):
        file = conf / f"{name}.toml"
        file.write_text(file.read_text().replace("max_connections = 40", "max_connections = 41"))
    (tmp_path / "start.sh").write_text(text + "couriertcpd -nodnslookup 143 /bin/cat\n")
    return conf


def replaced(conf: Path, *options: str) -> list[str]:
    """The edited files that the tool replaces with these options in front of its source."""
    __main__.main(["script", "-o", str(conf), *options, str(conf.parent / "start.sh")])
    return [path.name for path in sorted(conf.iterdir()) if "max_connections = 41" not in path.read_text()]


def test_an_edited_file_is_named_and_the_others_are_written(
    edited: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replaced(edited) == ["imap.toml"]
    said = capsys.readouterr().err
    assert f"kept: {edited}/smtp.toml: was changed since tcpdconf-migrate wrote it; --diff shows" in said
    assert f"written: {edited}/imap.toml\n" in said
    assert f"written: {edited}/smtp.toml\n" not in said.split("kept: ", 1)[1]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--force", "smtp.toml"], ["imap.toml", "smtp.toml"]),
        (["--force", "@/smtp.toml"], ["imap.toml", "smtp.toml"]),
        (["--force", "smtp.toml", "--force=pop3.toml"], ["imap.toml", "pop3.toml", "smtp.toml"]),
        (["--force"], ["imap.toml", "pop3.toml", "smtp.toml"]),
    ],
)
def test_force_replaces_what_it_names(edited: Path, options: list[str], names: list[str]) -> None:
    assert replaced(edited, *(option.replace("@", str(edited)) for option in options)) == names


def test_force_of_a_file_that_is_not_written_is_a_mistake(
    edited: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replaced(edited, "--force", "smpt.toml") == []
    assert "--force smpt.toml: is not one of smtp.toml, pop3.toml, imap.toml" in capsys.readouterr().err


def test_diff_shows_what_would_change_and_writes_nothing(
    edited: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(edited)
    capsys.readouterr()
    assert __main__.main(["script", "-o", str(edited), "--diff", str(edited.parent / "start.sh")]) == 0
    said = capsys.readouterr().out

    assert contents(edited) == before
    assert "\n-max_connections = 41\n+max_connections = 40\n" in said
    assert f"--- {edited}/imap.toml\n" in said
    assert "digest" not in said


def test_a_service_that_is_there_already_is_a_problem_with_both_places(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(BEFORE.replace("other", "s25"))
    with pytest.raises(write.WriteError, match=r"services\.s25: is defined twice"):
        put(tmp_path, 25)

    assert list(contents(tmp_path)) == ["mine.toml"]


def test_a_text_that_reads_back_as_another_service_is_not_written(tmp_path: Path) -> None:
    text = render.service("s", service(26))
    with pytest.raises(write.WriteError, match="would be read back differently: s"):
        write.write(str(tmp_path / "new"), {"s.toml": text}, {"s": service(25)}, forced=(), private=False)
    with pytest.raises(write.WriteError, match="would be read back differently: s"):
        write.check({"s.toml": text}, {"s": service(25)})

    assert list(tmp_path.iterdir()) == []


def test_defaults_of_another_file_are_not_overlooked(tmp_path: Path) -> None:
    (tmp_path / "defaults.toml").write_text("[defaults]\nlookup_names = false\numask = '077'\n")
    with pytest.raises(write.WriteError, match="would be read back differently: s25"):
        put(tmp_path, 25)

    assert list(contents(tmp_path)) == ["defaults.toml"]


def test_a_word_cannot_become_toml(capsys: pytest.CaptureFixture[str]) -> None:
    evil = '\n[services.evil]\nprogram = ["/bin/sh"]\nlisteners = [{ port = 1 }]\n#'
    status = __main__.main(["argv", "--", "couriertcpd", "25", "/bin/cat", evil])
    said = capsys.readouterr()

    assert status == 0
    assert list(tomllib.loads(said.out)["services"]) == ["smtp"]


def test_when_one_file_cannot_be_put_in_its_place_none_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, 25)
    before = contents(tmp_path)
    real = os.replace

    def failing(source: str, target: str) -> None:
        if target.endswith("s587.toml"):
            raise OSError(28, "No space left on device", target)
        real(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(write.WriteError, match=r"cannot write .*s587\.toml: No space left on device"):
        put(tmp_path, 25, 143, 587)

    assert contents(tmp_path) == before


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(write.WriteError, match=r"cannot write .*: Not a directory"):
        put(tmp_path / "file/conf.d", 25)
