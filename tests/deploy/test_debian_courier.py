"""The package of the drop-in under Debian's Courier, whose units and start scripts are not changed."""

import pathlib
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from support.running import daemons, debian, dialogues, processes

pytestmark = [pytest.mark.peer, pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(900)]

PACKAGES = ["courier-imap", "courier-mta", "courier-authlib-userdb", "gamin", "netbase"]
SERVICES = {"courier-imap": ("imap", 143), "courier-pop": ("pop3", 110), "courier-mta": ("smtp", 25)}
SETTINGS = [
    "courier-base courier-base/webadmin-configmode boolean false",
    "courier-mta courier-mta/defaultdomain string host.example",
]
REAL = "/usr/sbin/couriertcpd.courier"
OURS = "/opt/tcpdconf/bin/couriertcpd"
# by the name of the executable: that of a running program changes with its diversion
WHOSE = {"couriertcpd": "Courier's", "couriertcpd.courier": "Courier's", "python3.11": "ours"}
USER, PASSWORD = "alice", "secret"
POPULATE = f"""
useradd --create-home {USER} || exit
su {USER} -c 'maildirmake ~/Maildir' || exit
: >/etc/courier/userdb
chmod 700 /etc/courier/userdb
sed -i 's/^authmodulelist=.*/authmodulelist="authuserdb"/' /etc/courier/authdaemonrc
userdb {USER} set uid=$(id -u {USER}) gid=$(id -g {USER}) home=$(getent passwd {USER} | cut -d: -f6) \\
  systempw="$(echo {PASSWORD} | userdbpw -md5)"
makeuserdb
systemctl restart courier-authdaemon
"""


class Prepared(NamedTuple):
    """A Debian with all packages in its cache, and the seconds that their download has taken."""

    root: pathlib.Path
    seconds: float


@pytest.fixture(scope="module")
def prepared(
    fresh_debian: pathlib.Path, built_debs: dict[str, pathlib.Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prepared]:
    root = tmp_path_factory.mktemp("debian") / "root"
    subprocess.run(["cp", "--archive", fresh_debian, root], check=True)
    for name, package in built_debs.items():
        shutil.copy(package, root / f"srv/{name}.deb")
    (root / "srv/settings").write_text("".join(f"{line}\n" for line in SETTINGS))
    try:
        start = time.monotonic()
        debian.chrooted(root, "apt-get", "--quiet", "update")
        install = ["apt-get", "--yes", "--quiet", "--no-install-recommends", "install"]
        debian.chrooted(root, *install, "--download-only", *PACKAGES, "courier-pop", "/srv/tcpdconf.deb")
        yield Prepared(root, time.monotonic() - start)
    finally:
        shutil.rmtree(root)


@pytest.fixture(scope="module")
def host(prepared: Prepared) -> Iterator[debian.Host]:
    """Nothing is installed yet: the first test does it, and the others go on from there."""
    with debian.Host(prepared.root) as made:
        said(made, "debconf-set-selections", "/srv/settings")
        yield made


def said(host: debian.Host, *command: str) -> str:
    done = host.run(*command)
    assert done.returncode == 0, done.stdout
    return done.stdout


def restart(host: debian.Host) -> None:
    host.do("restart", *SERVICES)


def serves(host: debian.Host) -> dict[str, set[str]]:
    """Whose couriertcpd is among the processes of each unit."""
    found: dict[str, set[str]] = {}
    for service in SERVICES:
        pids = said(host, "cat", f"/sys/fs/cgroup/system.slice/{service}.service/cgroup.procs").split()
        exes = host.run("readlink", *(f"/proc/{pid}/exe" for pid in pids)).stdout.split()
        names = {exe.rpartition("/")[2] for exe in exes}
        found[service] = {WHOSE[name] for name in names & WHOSE.keys()}
    return found


def await_served(host: debian.Host, wanted: dict[str, set[str]]) -> None:
    """Wait until the units have these programs: a start script may return before its child has become one."""
    daemons.until(lambda: serves(host) == wanted, "the units' programs")


def by(whose: str) -> dict[str, set[str]]:
    return {service: {whose} for service in SERVICES}


def talk() -> list[str]:
    """Return each service's answer to a user, without the parts that differ each time."""
    imap = [f"1 LOGIN {USER} {PASSWORD}", "2 SELECT INBOX", "3 LOGOUT"]
    pop3 = [f"USER {USER}", f"PASS {PASSWORD}", "STAT", "QUIT"]
    smtp = ["EHLO client.example", "MAIL FROM:<bob@client.example>", "QUIT"]
    found = []
    for (protocol, port), commands in zip(SERVICES.values(), (imap, pop3, smtp), strict=True):
        daemons.until(lambda port=port: port in processes.listening(), f"port {port}")  # type: ignore[misc]
        heard = dialogues.dialogue(protocol, port, "127.0.0.1", commands)
        found.append(
            re.sub(r"UIDVALIDITY \d+", "", b"".join(line for lines in heard for line in lines).decode())
        )
    return found


def test_the_package_leaves_a_courier_that_runs_alone_and_serves_imap_when_told(
    host: debian.Host, prepared: Prepared
) -> None:
    """Both within a minute, with the time that download and installation of Courier take."""
    start = time.monotonic() - prepared.seconds
    host.apt("install", "--no-install-recommends", *PACKAGES)
    host.apt("install", "--no-install-recommends", "/srv/tcpdconf.deb")
    units = ("tcpdconf", "courier-imap", "courier-mta")
    assert {unit: host.shown("ActiveState", unit) for unit in units} == dict.fromkeys(units, "active")
    host.do("stop", "courier-imap")
    said(host, "makeimapaccess")
    imap = host.root / "etc/tcpdconf/conf.d/30-imap.toml"
    shipped = imap.read_text()
    imap.write_text(shipped.replace("enabled = false", "enabled = true"))
    said(host, "tcpdconf", "reload")
    with daemons.connect(143) as client:
        assert daemons.line(client).startswith(b"* OK [CAPABILITY IMAP4rev1")
    seconds = time.monotonic() - start
    print(f"from a minimal Debian to IMAP served: {seconds:.1f} s")
    assert seconds < 60

    said(host, "sh", "-c", POPULATE)
    daemons.until(lambda: host.run("authtest", USER).returncode == 0, "authdaemond")
    commands = [f"1 LOGIN {USER} {PASSWORD}", "2 LOGOUT"]
    assert b"1 OK LOGIN Ok.\r\n" in dialogues.dialogue("imap", 143, "127.0.0.1", commands)[1]
    imap.write_text(shipped)
    said(host, "tcpdconf", "reload")
    host.do("start", "courier-imap")
    host.apt("install", "--no-install-recommends", "courier-pop")


def test_the_drop_in_takes_couriers_place_and_gives_it_back(host: debian.Host) -> None:
    restart(host)
    await_served(host, by("Courier's"))
    expected = talk()
    assert "OK LOGIN Ok." in expected[0]

    host.apt("install", "/srv/tcpdconf-couriertcpd.deb")
    assert said(host, "readlink", "/usr/sbin/couriertcpd") == f"{OURS}\n"
    assert "couriertcpd.courier by tcpdconf-couriertcpd" in said(
        host, "dpkg-divert", "--list", "*couriertcpd*"
    )
    assert serves(host) == by("Courier's")  # until its restart
    restart(host)
    await_served(host, by("ours"))
    assert talk() == expected

    host.apt("install", "--reinstall", "/srv/tcpdconf-couriertcpd.deb")
    assert said(host, "readlink", "/usr/sbin/couriertcpd") == f"{OURS}\n"
    said(host, "ls", REAL)

    host.apt("remove", "tcpdconf-couriertcpd")
    assert host.run("readlink", "/usr/sbin/couriertcpd").stdout == ""
    assert host.run("ls", REAL).returncode != 0
    assert said(host, "dpkg", "--verify", "courier-base") == ""
    await_served(host, by("ours"))
    restart(host)  # Courier's own command stops ours
    await_served(host, by("Courier's"))
    assert talk() == expected
