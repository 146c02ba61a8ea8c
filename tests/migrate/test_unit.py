"""Settings of a systemd unit become keys of the service, or are named; who runs it is never guessed."""

from pathlib import Path
from typing import Any

import pytest

from tcpdconf_migrate import discover

START = "ExecStart=/usr/sbin/couriertcpd -nodnslookup 127.0.0.1.1143 /usr/bin/id"


def found(folder: Path, *lines: str, **drop_ins: str) -> discover.Found:
    """Return the result for a unit with these lines in [Service], and with its drop-ins by name."""
    path = folder / "imap.service"
    path.write_text("[Service]\n" + "".join(f"{line}\n" for line in lines))
    for name, text in drop_ins.items():
        (folder / "imap.service.d").mkdir(exist_ok=True)
        (folder / f"imap.service.d/{name}.conf").write_text(f"[Service]\n{text}\n")
    return discover.in_script(str(path), {})


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["User=nobody", "Group=mail"], {"user": "nobody", "group": "mail"}),
        (["User=65534"], {"user": 65534}),
        (["User=mail", "User="], {}),
        (["DynamicUser=no"], {}),
        (["LimitNOFILE=1024:4096"], {"rlimits": {"nofile": 1024}}),
        (["LimitCORE=infinity", "LimitAS=1G:2G"], {"rlimits": {"core": "unlimited", "as": "1G"}}),
        (["LimitCPU=5", "LimitCPU="], {}),
        (["WorkingDirectory=-/srv"], {"directory": "/srv"}),
        (["User=root", "WorkingDirectory=~"], {"user": "root", "directory": "/root"}),
        (["StandardError=append:/var/log/x"], {"stderr": {"file": "/var/log/x"}}),
        (["StandardError=truncate:/var/log/x"], {"stderr": {"file": "/var/log/x"}}),
        (["StandardOutput=file:/var/log/x"], {"stderr": {"file": "/var/log/x"}}),
        (["StandardOutput=null", "StandardError=inherit"], {"stderr": {"file": "/dev/null"}}),
        (["StandardOutput=null", "StandardError=journal"], {}),
        (
            ["SupplementaryGroups=mail 40", "SupplementaryGroups=daemon"],
            {"supplementary_groups": ["mail", 40, "daemon"]},
        ),
        (
            ["NoNewPrivileges=yes", "OOMScoreAdjust=-100"],
            {"no_new_privileges": True, "oom_score_adjust": -100},
        ),
        (["NoNewPrivileges=no", "SupplementaryGroups=mail", "SupplementaryGroups="], {}),
        (["Environment=A=1 'B=2 3'", "UnsetEnvironment=A"], {"environment": {"B": "2 3"}}),
        (["Environment=A=1", "Environment=", "Environment=B=50%%"], {"environment": {"B": "50%"}}),
    ],
)
def test_settings_are_carried_over(tmp_path: Path, lines: list[str], expected: dict[str, Any]) -> None:
    (command,) = found(tmp_path, *lines, START).commands
    assert command.settings == expected


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["DynamicUser=yes"], "DynamicUser=yes makes systemd invent a user"),
        (["User=%i"], "User=%i is expanded by systemd only"),
        (["User=$MAILUSER"], "User=$MAILUSER is expanded by systemd only"),
        (["User=nobody", "Group=%i"], "Group=%i is expanded by systemd only"),
        (["RootDirectory=/srv"], "RootDirectory=/srv changes the root directory"),
        (["RootImage=/srv.raw"], "RootImage=/srv.raw changes the root directory"),
        (["NetworkNamespacePath=/run/netns/x"], "NetworkNamespacePath=/run/netns/x listens in a network"),
    ],
)  # fmt: skip
def test_an_identity_that_only_systemd_knows_is_not_read(tmp_path: Path, lines: list[str], why: str) -> None:
    commands, ((_, said),), _ = found(tmp_path, *lines, START)
    assert not commands
    assert said.startswith(why)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("PassEnvironment=LANG", "ignored"),
        ("IgnoreSIGPIPE=no", "ignored"),
        ("ExecStartPre=/bin/mkdir /run/x", "ignored"),
        ("LimitRTPRIO=3", "ignored"),
        ("Nice=5", "ignored"),
        ("SettingOfTheFuture=yes", "ignored"),
        ("StandardError=socket", "ignored"),
        ("StandardError=append:/var/log/%i", "ignored"),
        ("PAMName=login", "risk"),
        ("PrivateNetwork=yes", "risk"),
        ("OOMScoreAdjust=2000", "ignored"),
        ("SupplementaryGroups=%i", "risk"),
        ("CapabilityBoundingSet=", "risk"),
        ("UnsetEnvironment=LANG", "risk"),
        ("WorkingDirectory=%h", "risk"),
        ("Environment=A=%i", "risk"),
        ("Environment='A=1", "risk"),
        ("LimitCPU=1min", "risk"),
        ("LimitNOFILE=1024:4096", "changed"),
        ("WorkingDirectory=-/srv", "changed"),
        ("StandardError=truncate:/var/log/x", "changed"),
    ],
)
def test_what_is_not_carried_over_is_noted(tmp_path: Path, line: str, kind: str) -> None:
    (command,) = found(tmp_path, line, START).commands
    assert [(note.kind, note.what) for note in command.notes] == [(kind, f"line 2, {line}")]


@pytest.mark.parametrize(
    "line",
    ["Type=simple", "Restart=always", "TimeoutStopSec=5", "PIDFile=/run/x", "KillMode=process",
     "PrivateTmp=no", "ExecStop=/usr/sbin/couriertcpd -pid=/run/x -stop", "StandardInput=null",
     "SyslogIdentifier=imap"],
)  # fmt: skip
def test_what_makes_no_difference_is_not_mentioned(tmp_path: Path, line: str) -> None:
    (command,) = found(tmp_path, line, START).commands
    assert command.notes == ()


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ("-/usr/sbin/couriertcpd 25 x", ["25", "x"]),
        ("@/usr/sbin/couriertcpd tcpd 25 x", ["25", "x"]),
        ("-@/usr/sbin/couriertcpd tcpd 25 x", ["25", "x"]),
        (":/usr/sbin/couriertcpd 25 $X", ["25", "$X"]),
        ("+/usr/sbin/couriertcpd 25 x", ["25", "x"]),
        ("/bin/sh -c 'exec couriertcpd 25 x'", ["25", "x"]),
        ("/usr/bin/env -i couriertcpd 25 x", ["25", "x"]),
    ],
)
def test_prefixes_and_wrappers_of_a_command(tmp_path: Path, start: str, words: list[str]) -> None:
    (command,) = found(tmp_path, f"ExecStart={start}").commands
    assert list(command.words[1:]) == words


@pytest.mark.parametrize(
    ("start", "why"),
    [
        ("+/usr/sbin/couriertcpd 25 x", "ExecStart=+ makes it root despite User="),
        ("-!!/usr/sbin/couriertcpd 25 x", "ExecStart=! makes it root despite User="),
        ("|couriertcpd 25 x", "ExecStart=| runs the login shell"),
        (":/usr/sbin/couriertcpd %i x", "the specifier %i is expanded by systemd only"),
        ("/bin/unknown -c 'couriertcpd 25 x'", "unknown is not supported in front of couriertcpd"),
        ("/usr/lib/courier/imapd.rc start", "/usr/lib/courier/imapd.rc is a start script of Courier"),
        ("/usr/local/bin/start-imap now", "/usr/local/bin/start-imap is not couriertcpd: if it is a script,"),
    ],
)
def test_what_is_not_known_of_a_command_is_said(tmp_path: Path, start: str, why: str) -> None:
    commands, ((_, said),), _ = found(tmp_path, "User=nobody", f"ExecStart={start}")
    assert not commands
    assert said.startswith(why)


def test_a_shell_in_a_unit_adds_to_its_settings(tmp_path: Path) -> None:
    start = "ExecStart=/bin/sh -c 'ulimit -n 5; exec couriertcpd 25 x 2>>/log'"
    (command,) = found(tmp_path, "User=nobody", "LimitCORE=0", start).commands
    assert command.settings == {
        "user": "nobody", "rlimits": {"core": 0, "nofile": 5}, "stderr": {"file": "/log"},
    }  # fmt: skip


def test_drop_ins_change_the_unit_in_the_order_of_their_names(tmp_path: Path) -> None:
    drop_ins = {
        "20": "User=mail\nUnknown=x",
        "10": "User=nobody\nExecStart=\nExecStart=/usr/sbin/couriertcpd -nodnslookup 26 /bin/cat",
    }
    (command,) = found(tmp_path, "User=daemon", START, **drop_ins).commands

    assert command.origin == f"{tmp_path}/imap.service.d/10.conf:4"
    assert command.words[-2:] == ("26", "/bin/cat")
    assert command.settings == {"user": "mail"}
    assert [note.what for note in command.notes] == ["20.conf line 3, Unknown=x"]


def test_a_drop_in_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "imap.service.d/10.conf").mkdir(parents=True)
    with pytest.raises(discover.DiscoverError, match=r"cannot read .*/10\.conf: Is a directory"):
        found(tmp_path, START)


def test_a_file_of_variables_has_the_last_word(tmp_path: Path) -> None:
    (tmp_path / "rc").write_text("A=2\n")
    (command,) = found(tmp_path, f"EnvironmentFile={tmp_path}/rc", "Environment=A=1 B=1", START).commands
    assert command.settings == {"environment": {"B": "1"}, "environment_files": [{"path": f"{tmp_path}/rc"}]}
