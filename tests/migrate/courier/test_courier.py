"""Courier's configuration in other places than Debian's, and configurations that no shell gets through."""

import re
from pathlib import Path

import pytest

from tcpdconf_migrate import commandline, plan
from tcpdconf_migrate.courier import courier
from tcpdconf_migrate.courier import shell as courier_shell

IMAPD = "ADDRESS=0\nPORT=143\nMAXDAEMONS=40\nMAXPERIP=4\nTCPDOPTS=-nodnslookup\nMAILDIRPATH=M\n"
IMAPD_SSL = (
    "SSLADDRESS=0\nSSLPORT=993\nSSLLOGGEROPTS=-name=imapd-ssl\nCOURIERTLS=/tls\nMAXPERIP=7\nBOTH=ssl\n"
)


def installed(prefix: Path, login: str) -> Path:
    """PREFIX/etc of an installation with this login program."""
    program, etc = prefix / login, prefix / "etc"
    program.parent.mkdir(parents=True)
    program.touch()
    etc.mkdir()
    (etc / "imapd").write_text(IMAPD + "BOTH=imapd\n")
    (etc / "imapd-ssl").write_text(IMAPD_SSL)
    return etc


def read(etc: Path) -> dict[str, commandline.Command]:
    found, unread = courier.read(str(etc))
    assert unread == []
    return {Path(command.origin).name: command for command in found}


def files_of(command: commandline.Command) -> list[str]:
    return [Path(file["path"]).name for file in command.settings["environment_files"]]


def test_upstream_courier(tmp_path: Path) -> None:
    etc = installed(tmp_path, "libexec/courier/imaplogin")
    imapd = read(etc)["imapd"]

    assert imapd.words[0] == f"{tmp_path}/sbin/couriertcpd"
    assert imapd.words[-3:] == (f"{tmp_path}/libexec/courier/imaplogin", f"{tmp_path}/bin/imapd", "M")
    assert files_of(imapd) == ["imapd", "imapd-ssl"]
    assert imapd.stop == f"{tmp_path}/sbin/imapd stop"


def test_upstream_courier_imap(tmp_path: Path) -> None:
    """Its programs lie elsewhere, and imapd's own file has the last word in the environment, too."""
    etc = installed(tmp_path, "sbin/imaplogin")
    found = read(etc)

    assert found["imapd"].words[0] == f"{tmp_path}/libexec/couriertcpd"
    assert found["imapd"].words[-3:] == (f"{tmp_path}/sbin/imaplogin", f"{tmp_path}/bin/imapd", "M")
    assert "-maxperip=4" in found["imapd"].words
    assert files_of(found["imapd"]) == ["imapd-ssl", "imapd"]
    over_tls = found["imapd-ssl"]
    assert "-maxperip=7" in over_tls.words
    assert over_tls.words[-7:-4] == ("/tls", "-server", "-tcpd")
    assert files_of(over_tls) == ["imapd", "imapd-ssl"]


@pytest.mark.parametrize("name", ["imapd", "esmtpd"])
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("echo oh >&2; exit 3", "/bin/sh reaches no command line: oh"),
        ("X='", "/bin/sh reaches no command line: .*: Syntax error"),
    ],
)
def test_a_file_that_the_shell_does_not_get_through(tmp_path: Path, name: str, text: str, why: str) -> None:
    (tmp_path / name).write_text(text + "\n")
    found, (unread,) = courier.read(str(tmp_path))

    assert found == []
    assert unread.origin == f"{tmp_path}/{name}"
    assert re.search(why, unread.why)


def test_a_file_that_waits_is_left_after_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier_shell, "_SECONDS", 0.2)
    (tmp_path / "imapd").write_text("sleep 60\n")
    _, (unread,) = courier.read(str(tmp_path))

    assert unread.why == "/bin/sh has not finished reading it after 0.2 s"


ESMTPD = {
    "PORT": "25", "MAXDAEMONS": "40", "MAXPERC": "5", "MAXPERIP": "5", "PIDFILE": "/run/x",
    "MAILUSER": "daemon", "MAILGROUP": "daemon", "SSLPORT": "465", "SSLADDRESS": "0", "SSLPIDFILE": "/run/y",
    "COURIERTLS": "/tls",
}  # fmt: skip


def esmtpd(
    folder: Path, changed: dict[str, str | None], *, name: str = "esmtpd", line_end: str = "\n"
) -> str:
    """Why esmtpd's script is not read with these variables changed; None takes one out."""
    variables = {**ESMTPD, **changed}
    text = "".join(f"{key}={value}{line_end}" for key, value in variables.items() if value is not None)
    (folder / "esmtpd").write_text(text, newline="")
    (folder / name).write_text(text, newline="")
    _, unread = courier.read(str(folder))
    return next((each.why for each in unread if each.origin == f"{folder}/{name}"), "")


@pytest.mark.parametrize("name", ["PORT", "MAXDAEMONS", "MAXPERC", "MAXPERIP", "PIDFILE"])
def test_a_variable_that_is_missing_is_named(tmp_path: Path, name: str) -> None:
    assert esmtpd(tmp_path, {name: None}) == f"{name} is not set in {tmp_path}/esmtpd"
    assert esmtpd(tmp_path, {name: ""}) == f"{name} is empty in {tmp_path}/esmtpd"
    assert esmtpd(tmp_path, {}) == ""


@pytest.mark.parametrize("name", ["SSLPORT", "SSLPIDFILE", "SSLADDRESS", "COURIERTLS"])
def test_a_variable_of_two_files_is_named_with_both(tmp_path: Path, name: str) -> None:
    files = f"{tmp_path}/esmtpd or {tmp_path}/esmtpd-ssl"
    assert esmtpd(tmp_path, {name: None}, name="esmtpd-ssl") == f"{name} is not set in {files}"


def test_all_missing_variables_are_named(tmp_path: Path) -> None:
    (tmp_path / "imapd").write_text("MAXPERIP=20\nIMAPDSTART=YES\n")
    _, (unread,) = courier.read(str(tmp_path))
    assert unread.why == "; ".join(
        f"{name} is not set in {tmp_path}/imapd" for name in ("PORT", "ADDRESS", "MAXDAEMONS")
    )


@pytest.mark.parametrize(
    ("words", "user"),
    [
        ("143 /usr/lib/courier/courier/imaplogin /usr/bin/imapd Maildir", "root"),
        ("993 /usr/bin/couriertls -server -tcpd -user=courier /opt/imaplogin /usr/bin/imapd Maildir", "root"),
        ("110 /usr/lib/courier/courier/courierpop3login /usr/lib/courier/courier/courierpop3d M", "root"),
        ("-user=daemon 143 /usr/sbin/imaplogin /usr/bin/imapd Maildir", "daemon"),
        ("-user=daemon 25 /usr/sbin/courieresmtpd", "daemon"),
        ("2525 /bin/cat", None),
    ],
)
def test_a_login_program_runs_as_root_by_name(words: str, user: str | None) -> None:
    command = commandline.Command(("couriertcpd", *words.split()), "here")
    (planned,) = plan.plan([command], exact=False).services

    assert planned.service.user == user
    assert any(note.key == ("user",) for note in planned.notes) == (user == "root")


def test_carriage_returns_are_named(tmp_path: Path) -> None:
    assert esmtpd(tmp_path, {}, line_end="\r\n").startswith(f"{tmp_path}/esmtpd has CRLF line ends")


def test_a_directory_that_the_scripts_cannot_use(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    with pytest.raises(OSError, match="cannot use a directory with such a name"):
        courier.read(f"{tmp_path}/a b")
