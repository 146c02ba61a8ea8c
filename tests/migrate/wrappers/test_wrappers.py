"""Tests that commands in front of couriertcpd, or of a shell that starts it, are kept or rejected."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcpdconf.config.load import load
from tcpdconf_migrate import __main__, commandline, discover
from tcpdconf_migrate.wrappers import kinds as wrapper_kinds
from tcpdconf_migrate.wrappers import wrappers

COMMAND = "couriertcpd -nodnslookup 127.0.0.1.2525 /bin/cat"


def found(folder: Path, text: str) -> discover.Found:
    path = folder / "start.sh"
    path.write_text(text)
    return discover.in_script(str(path), {})


def command(folder: Path, text: str) -> commandline.Command:
    """The one command line of a script."""
    commands, unread, _ = found(folder, text)
    assert not unread
    (only,) = commands
    return only


@pytest.mark.parametrize(
    ("front", "expected"),
    [
        ('su -s /bin/sh -c "{}" nobody', {"user": "nobody"}),
        ("su nobody -s /bin/bash --command='{}'", {"user": "nobody"}),
        ("su -m -g mail -c '{}' nobody", {"user": "nobody", "group": "mail"}),
        ("su -c '{}'", {"user": "root"}),
        ("su - nobody -c '{}'", {"user": "nobody", "inherit_environment": False}),
        ("runuser -u nobody -- {}", {"user": "nobody"}),
        ("runuser nobody -c '{}'", {"user": "nobody"}),
        ("sudo -u nobody sh -c '{}'", {"user": "nobody", "inherit_environment": False}),
        ("sudo --user=nobody -E {}", {"user": "nobody"}),
        ("sudo {}", {"user": "root", "inherit_environment": False}),
        ("doas -u nobody {}", {"user": "nobody", "inherit_environment": False}),
        ("setuidgid nobody sh -c 'exec {}'", {"user": "nobody"}),
        ("s6-setuidgid 65534:65534 {}", {"user": 65534, "group": 65534}),
        ("chpst -u :7:8 {}", {"user": 7, "group": 8}),
        ("setpriv --reuid=nobody --regid 7 --init-groups {}", {"user": "nobody", "group": 7}),
        ("start-stop-daemon -Sbqx couriertcpd -c nobody:mail -- 25 x", {"user": "nobody", "group": "mail"}),
        ("env -i A=b sh -c '{}'", {"inherit_environment": False, "environment": {"A": "b"}}),
        ("env - A=b {}", {"inherit_environment": False, "environment": {"A": "b"}}),
        ("env -iu B -C /srv A=b {}",
         {"directory": "/srv", "inherit_environment": False, "environment": {"A": "b"}}),
        ("B=1 env -i {}", {"inherit_environment": False}),
        ("export B=1; exec -c {}", {"inherit_environment": False}),
        ("export B=1; env -i sh -c '{}'", {"inherit_environment": False}),
        ("export B=1 C=2; D=3 env -u B sh -c '{}'", {"environment": {"C": "2", "D": "3"}}),
        ("softlimit -m 4096 sh -c 'ulimit -v 1; {}'",
         {"rlimits": {"as": 1024, "data": 4096, "memlock": 4096, "stack": 4096}}),
        ("prlimit --nofile=64:128 -c0 {}", {"rlimits": {"nofile": 64, "core": 0}}),
        ("cd /a; umask 027; (cd /b; env -C /c sh -c '{}')", {"directory": "/c", "umask": "027"}),
        ("su nobody -c \"softlimit -o 9 su daemon -c '{}'\"", {"user": "daemon", "rlimits": {"nofile": 9}}),
        ("nohup setsid -f busybox nice -n 5 {} &", {}),
    ],
)  # fmt: skip
def test_what_stands_in_front_is_carried_over(tmp_path: Path, front: str, expected: dict[str, Any]) -> None:
    settings = command(tmp_path, front.format(COMMAND)).settings
    assert {key: value for key, value in settings.items() if value not in ({}, [])} == expected


@pytest.mark.parametrize(
    ("front", "why"),
    [
        ("chroot /srv sh -c '{}'", "chroot changes the root directory"),
        ("chpst -/ /srv {}", "chpst -/ /srv changes the root directory"),
        ("unshare -n sh -c '{}'", "unshare is not supported in front of couriertcpd"),
        ("ip netns exec mail {}", "ip is not supported in front of couriertcpd"),
        ("systemd-run --uid=nobody sh -c '{}'", "systemd-run is not supported in front of couriertcpd"),
        ("exec envuidgid nobody {}", "envuidgid is not supported in front of couriertcpd"),
        ("nice envuidgid nobody sh -c '{}'", "envuidgid is not supported in front of couriertcpd"),
        ("su -c '{}' $WHO", "WHO is not set in this script"),
        ("su --pwn nobody -c '{}'", "the option --pwn of su is not supported"),
        ("sudo -R /srv {}", "the option -R of sudo is not supported"),
        ("setpriv --reuid=7 --keep-groups {}", "setpriv keeps some rights of its caller"),
        ("chpst -u nobody:mail:adm {}", "'nobody:mail:adm' is not one user and one group"),
        (
            "start-stop-daemon -S -u nobody -x couriertcpd -- 25 x",
            "--user of start-stop-daemon is the user of",
        ),
        ("env -i $(cat /env) {}", "$(cat /env) is known only at run time"),
        ("sh -s -c '{}'", "sh is not supported in front of couriertcpd"),
        ("sh <<END\n{}\nEND", "sh is given a text with couriertcpd"),
        ("su nobody <<END\n{}\nEND", "su is given a text with couriertcpd"),
        ("cat >run <<END\n{}\nEND", "cat is given a text with couriertcpd"),
        ("$(which couriertcpd) 25 /bin/cat", "$(which couriertcpd) is known only at run time"),
        ("P=`command -v couriertcpd`\n$P 25 /bin/cat", "`command -v couriertcpd` is known only at run time"),
        ("$DAEMON -nodnslookup -maxprocs=4 25 /bin/cat", "DAEMON is not set in this script"),
    ],
)
def test_what_cannot_be_carried_over_is_not_read(tmp_path: Path, front: str, why: str) -> None:
    commands, ((_, text),), _ = found(tmp_path, front.format(COMMAND))
    assert not commands
    assert text.startswith(why)


@pytest.mark.parametrize(
    ("front", "what"),
    [
        ("su -c '{}' nobody", "su"),
        ("sudo -u nobody {}", "sudo"),
        ("setuidgid nobody {}", "setuidgid nobody"),
        ("setpriv --reuid=7 --regid=7 --no-new-privs {}", "setpriv --no-new-privs"),
        ("envdir ./env {}", "envdir ./env"),
        ("env -u B {}", "env -u B"),
        ("softlimit -m = {}", "-m ="),
    ],
)
def test_what_is_lost_is_noted(tmp_path: Path, front: str, what: str) -> None:
    assert what in [note.what for note in command(tmp_path, front.format(COMMAND)).notes]


def test_a_command_in_a_substitution_is_one_too(tmp_path: Path) -> None:
    assert command(tmp_path, f"X=$({COMMAND})").words == tuple(COMMAND.split())


@pytest.mark.parametrize("text", ["X=$(pidof couriertcpd)", "test -x `which couriertcpd` || exit 5"])
def test_a_substitution_that_starts_nothing_is_nothing(tmp_path: Path, text: str) -> None:
    with pytest.raises(discover.DiscoverError):
        found(tmp_path, text)


def test_an_option_of_the_program_is_not_couriertcpds(tmp_path: Path) -> None:
    assert command(tmp_path, f"{COMMAND} -stop").words[-1] == "-stop"


def test_a_shell_in_argv_is_read_as_well(tmp_path: Path) -> None:
    conf = tmp_path / "conf.d"
    words = shlex.split(f'su -s /bin/sh -c "{COMMAND}" nobody')
    assert __main__.main(["argv", "-o", str(conf), "--", *words]) == 0
    (service,) = load.load(conf, to_serve=False).config.services.values()
    assert service.user == "nobody"


@pytest.mark.parametrize(
    ("words", "user"), [("sudo couriertcpd -user=nobody 25 x", "nobody"), ("sudo couriertcpd 25 x", "root")]
)
def test_root_in_front_still_becomes_the_user_of_the_option(tmp_path: Path, words: str, user: str) -> None:
    conf = tmp_path / "conf.d"
    assert __main__.main(["argv", "-o", str(conf), "--", *words.split()]) == 0
    (service,) = load.load(conf, to_serve=False).config.services.values()
    assert service.user == user


WORDS = st.sampled_from(
    [
        "-",
        "--",
        "-u",
        "-c",
        "-S",
        "'",
        "-i",
        "-n",
        "5",
        "mail",
        "A=b",
        "-x",
        "--exec",
        "sh",
        "couriertcpd",
        "25",
        ":",
    ]
)


@settings(max_examples=500)
@given(st.lists(st.one_of(st.sampled_from(sorted(wrapper_kinds.WRAPPERS)), WORDS), min_size=1, max_size=8))
def test_any_words_are_taken_apart_or_refused(words: list[str]) -> None:
    unwrapped = wrappers.unwrap(words)
    assert bool(unwrapped.words) != bool(unwrapped.why)


def test_every_wrapper_without_anything_behind_it_starts_nothing() -> None:
    for name in wrapper_kinds.WRAPPERS:
        assert not wrappers.unwrap([name]).words


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ('command="/usr/pkg/sbin/couriertcpd"\nctl_command="/usr/pkg/sbin/esmtpd-msa"\n${ctl_command} start',
         "/usr/pkg/sbin/esmtpd-msa"),
        ("/usr/lib/courier-imap/libexec/imapd.rc start", "/usr/lib/courier-imap/libexec/imapd.rc"),
        ("case $1 in start) /usr/sbin/esmtpd $1 ;; esac", "/usr/sbin/esmtpd"),
        ("su -c '/usr/sbin/imapd-ssl start' root", "/usr/sbin/imapd-ssl"),
        ("systemctl restart courier-imap.service", "courier-imap.service"),
        ("start-stop-daemon --start --exec /usr/lib/courier/pop3d.rc -- start", "/usr/lib/courier/pop3d.rc"),
        ('. /etc/rc.subr\ncommand="/usr/local/libexec/courier-imap/imapd.rc"\nrun_rc_command "$1"',
         "/usr/local/libexec/courier-imap/imapd.rc"),
    ],
)  # fmt: skip
def test_a_start_script_of_courier_names_the_next_step(
    tmp_path: Path, text: str, script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rc.sh"
    path.write_text(f"#!/bin/sh\n{text}\n")
    assert __main__.main(["script", str(path)]) == 1
    said = capsys.readouterr().err
    assert script in said
    assert "run tcpdconf-migrate courier DIR" in said


def test_a_script_that_only_names_couriertcpd_says_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rc.sh").write_text("#!/bin/sh\n\ncommand=/usr/sbin/couriertcpd\nrun_rc_command $1\n")
    assert __main__.main(["script", str(tmp_path / "rc.sh")]) == 1
    assert "rc.sh: line 3 names couriertcpd, but nothing in it starts it" in capsys.readouterr().err


def test_a_program_of_that_name_is_no_start_script(tmp_path: Path) -> None:
    words = command(tmp_path, "couriertcpd 143 /usr/sbin/imaplogin /usr/bin/imapd start").words
    assert words[-1] == "start"
