"""Courier's configuration in other places than Debian's, and configurations that no shell gets through."""

import re
from pathlib import Path

import pytest

from tcpdconf_migrate import commandline, courier, rcshell

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
        ("echo oh >&2; exit 3", "/bin/sh gets to no command line: oh"),
        ("X='", "/bin/sh gets to no command line: .*: Syntax error"),
    ],
)
def test_a_file_that_the_shell_does_not_get_through(tmp_path: Path, name: str, text: str, why: str) -> None:
    (tmp_path / name).write_text(text + "\n")
    found, (unread,) = courier.read(str(tmp_path))

    assert found == []
    assert unread.origin == f"{tmp_path}/{name}"
    assert re.search(why, unread.why)


def test_a_file_that_waits_is_left_after_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rcshell, "_SECONDS", 0.2)
    (tmp_path / "imapd").write_text("sleep 60\n")
    _, (unread,) = courier.read(str(tmp_path))

    assert unread.why == "/bin/sh has not finished reading it after 0.2 s"


def test_a_directory_that_the_scripts_cannot_use(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    with pytest.raises(OSError, match="cannot use a directory with such a name"):
        courier.read(f"{tmp_path}/a b")
