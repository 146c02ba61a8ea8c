"""The Debian package: built, judged by lintian, and installed in a fresh Debian 12 under its own systemd.

The tests of a host leave it as they have found it: the package installed and serving, in the version that was
built.
"""

import pathlib
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Self

import pytest
from support import debs, packages, peers
from support.running import daemons, debian

pytestmark = [pytest.mark.peer, pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(900)]

LATER = "99.0"
HELLO = 4025  # of the shipped service
PORT = 4026
MINUTE = 60.0
# it says when it is told to end, and ends when it has answered
SERVICE = f"""
[services.patient]
program = ["/bin/sh", "-c", "trap 'echo stopping' TERM; echo here; read word || read word; echo $word"]
user = "nobody"
[[services.patient.listeners]]
address = "127.0.0.1"
port = {PORT}
[services.patient.limits]
max_connections = 100
max_per_ip = 100
"""
ALSO_LEFT = ("/var/lib/dpkg/", "/var/lib/apt/", "/var/cache/", "/var/log/", "/run/", "/tmp/", "/var/tmp/")


@pytest.fixture(scope="module")
def later(built_debs: dict[str, pathlib.Path], tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return debs.later(built_debs[debs.DAEMON], tmp_path_factory.mktemp("later"), LATER)


class Installed:
    """A Debian with the package, the `seconds` that it took from a fresh one on, and the files of that."""

    def __init__(self, host: debian.Host, seconds: float, before: set[str]) -> None:
        self.host = host
        self.seconds = seconds
        self.before = before


@pytest.fixture(scope="module")
def installed(
    fresh_debian: pathlib.Path,
    built_debs: dict[str, pathlib.Path],
    later: pathlib.Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Installed]:
    """Debian's mirror is asked with the host's network; all else is in the box."""
    root = tmp_path_factory.mktemp("debian") / "root"
    subprocess.run(["cp", "--archive", fresh_debian, root], check=True)
    shutil.copy(built_debs[debs.DAEMON], root / "srv/tcpdconf.deb")
    shutil.copy(later, root / "srv/later.deb")
    try:
        start = time.monotonic()
        debian.chrooted(root, "apt-get", "--quiet", "update")
        install = ["apt-get", "--yes", "--quiet", "--no-install-recommends", "install", "/srv/tcpdconf.deb"]
        debian.chrooted(root, *install, "--download-only")
        taken = time.monotonic() - start
        with debian.Host(root) as host:
            before = files(host)
            start = time.monotonic()
            host.apt(*install[3:])
            assert daemons.talk(HELLO, say=b"").startswith(b"Hello from tcpdconf.")
            yield Installed(host, taken + time.monotonic() - start, before)
    finally:
        shutil.rmtree(root)


@pytest.fixture
def host(installed: Installed) -> debian.Host:
    return installed.host


def files(host: debian.Host) -> set[str]:
    """All files of the host but what packages, logs and temporary files leave."""
    found = host.run("find", "/", "-xdev", "-path", "/proc", "-prune", "-o", "-print").stdout.splitlines()
    return {path for path in found if not f"{path}/".startswith(ALSO_LEFT)}


def said(host: debian.Host, *command: str) -> str:
    done = host.run(*command)
    assert done.returncode == 0, done.stdout
    return done.stdout


def version(host: debian.Host) -> str:
    """The version of the daemon that serves."""
    found = re.search(r'"version": *"([^"]+)"', said(host, "tcpdconf", "status", "--format", "json"))
    assert found is not None
    return found[1]


def change(host: debian.Host, package: str, *options: str) -> str:
    return host.apt(
        "install", "--allow-downgrades", "--option=Dpkg::Options::=--force-confold", *options, package
    )


def test_lintian_finds_nothing_but_named_tags(built_debs: dict[str, pathlib.Path]) -> None:
    """Each tag that is overridden has its reason in packaging/debian."""
    peers.need("lintian")
    (source,) = built_debs[debs.DAEMON].parent.glob("*.dsc")
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on=warning", source, *built_debs.values()],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=300,
    )  # fmt: skip

    assert (done.returncode, done.stdout) == (0, "")


def test_a_second_build_gives_the_same_files(
    wheelhouse: pathlib.Path, built_debs: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    """All but the report on the build itself."""
    again = debs.build(wheelhouse, tmp_path)
    for package in (*again.values(), *tmp_path.glob("*.tar.*"), *tmp_path.glob("*.dsc")):
        first = built_debs[debs.DAEMON].with_name(package.name)
        assert first.read_bytes() == package.read_bytes(), package.name


def test_a_changelog_of_another_version_is_refused(wheelhouse: pathlib.Path, tmp_path: pathlib.Path) -> None:
    peers.need("dpkg-checkbuilddeps", "dh_virtualenv")
    shutil.copytree(packages.TOP / "packaging", tmp_path / "packaging")
    (tmp_path / "tcpdconf").mkdir()
    (tmp_path / "tcpdconf/__init__.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [1.2.2] - 2026-12-01\n")
    command = [str(tmp_path / "packaging/build-deb"), "--wheelhouse", str(wheelhouse), str(tmp_path / "dist")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert '"## [1.2.2] - 2026-12-01", but tcpdconf/__init__.py has version 1.2.3' in done.stderr


def test_the_package_is_for_the_python_of_the_build(built_debs: dict[str, pathlib.Path]) -> None:
    assert "python3 (>= 3.11), python3 (<< 3.12)" in debs.field(built_debs[debs.DAEMON], "Depends")


def test_from_nothing_to_a_client_served_within_a_minute(installed: Installed) -> None:
    print(f"from a minimal Debian to a client served: {installed.seconds:.1f} s")
    assert installed.seconds < MINUTE


def test_what_the_package_sets_up(host: debian.Host) -> None:
    states = host.run("systemctl", "is-enabled", "tcpdconf.service", "tcpdconf.socket").stdout.split()
    assert states == ["enabled", "disabled"]
    assert "starts programs: native" in said(host, "tcpdconf", "--version")
    assert "5 services in 5 files, 1 enabled: no problems" in said(host, "tcpdconf", "check")
    assert "[services.imap]" in said(host, "tcpdconf-migrate", "argv", "--", "couriertcpd", "143", "/bin/cat")
    assert said(host, "stat", "--format=%a %U", "/var/lib/tcpdconf") == "700 root\n"
    assert said(host, "getent", "passwd", "tcpdconf-cluster").endswith(":/usr/sbin/nologin\n")
    paths = [
        *("/usr/share/man/man8/tcpdconf.8.gz", "/usr/share/man/man5/tcpdconf.toml.5.gz"),
        *("/usr/share/bash-completion/completions/tcpdconf", "/usr/share/zsh/vendor-completions/_tcpdconf"),
        *("/usr/share/fish/vendor_completions.d/tcpdconf.fish", "/etc/logrotate.d/tcpdconf"),
        *("/etc/tcpdconf/schemas/tcpdconf.schema.json", "/opt/tcpdconf/share/tcpdconf/systemd/net-raw.conf"),
    ]
    said(host, "ls", *paths)
    conffiles = said(host, "dpkg-query", "--show", "--showformat=${Conffiles}", "tcpdconf")
    assert len(re.findall(r"^ /etc/tcpdconf/conf.d/\S+\.toml ", conffiles, re.MULTILINE)) == 5


def test_the_example_has_no_rights(host: debian.Host) -> None:
    """Its program is not root's, although the daemon is."""
    with daemons.connect(HELLO) as client:
        assert daemons.read(client)
    pid = re.search(r"ready service=hello pid=(\d+)", host.journal())
    assert pid is not None
    assert said(host, "grep", "^Uid:", f"/proc/{pid[1]}/status").split()[1:] == ["65534"] * 4


class Newcomers:
    """Clients, one after the other, until told to stop; `lost` were refused or not served to the end.

    `cut` counts those whose program was told to end before it could even say that it would go on.
    """

    def __init__(self) -> None:
        self.served = self.cut = 0
        self.lost: list[bytes | OSError] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._come)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _come(self) -> None:
        while not self._stop.is_set():
            try:
                answer = daemons.talk(PORT, say=b"hello\n")
            except OSError as error:
                self.lost.append(error)
                continue
            if b"\nhello\n" in answer:
                self.served += 1
            elif answer == b"":
                self.cut += 1
            else:
                self.lost.append(answer)


def greeted() -> socket.socket:
    client = daemons.connect(PORT)
    assert daemons.line(client) == b"here\n"
    return client


def answer(client: socket.socket) -> bytes:
    """Return the answer to a client that connected before a restart and speaks after it."""
    with client:
        assert daemons.line(client) == b"stopping\n"
        client.sendall(b"hello\n")
        return daemons.read(client)


@pytest.fixture
def served(host: debian.Host) -> Iterator[debian.Host]:
    """The host with a service of its administrator's, and an example that was edited."""
    hello = host.root / "etc/tcpdconf/conf.d/10-hello.toml"
    smtp = hello.with_name("20-smtp.toml")
    own = hello.with_name("50-patient.toml")
    texts = {path: path.read_text() for path in (hello, smtp)}
    hello.write_text(texts[hello].replace("Hello", "Welcome"))
    smtp.write_text(f"# Edited.\n{texts[smtp]}")
    own.write_text(SERVICE)
    said(host, "systemctl", "reload", "tcpdconf")
    yield host
    own.unlink()
    for path, text in texts.items():
        path.write_text(text)
    said(host, "systemctl", "reload", "tcpdconf")


def test_an_upgrade_and_the_way_back_lose_no_client_and_keep_edited_files(served: debian.Host) -> None:
    """A client who is there is told by its program, and one who comes meanwhile waits a moment."""
    first = version(served)
    own = served.root / "etc/tcpdconf/conf.d/10-hello.toml"
    for package, expected in (("/srv/later.deb", LATER), ("/srv/tcpdconf.deb", first)):
        client = greeted()
        answers: list[bytes] = []
        talking = threading.Thread(target=lambda client=client, to=answers: to.append(answer(client)))
        talking.start()
        with Newcomers() as newcomers:
            change(served, package)
        talking.join()

        assert (version(served), answers) == (expected, [b"hello\n"])
        assert (newcomers.lost, newcomers.cut <= 1, newcomers.served > 5) == ([], True, True)
        assert b"Welcome from tcpdconf." in daemons.talk(HELLO, say=b"")
        assert own.with_name("20-smtp.toml").read_text().startswith("# Edited.\n")
        shipped = own.with_name("10-hello.toml.dpkg-dist")
        assert (f"Changed by {LATER}." in shipped.read_text()) == (expected == LATER)
        shipped.unlink()


def test_a_version_that_rejects_the_configuration_is_not_started(served: debian.Host) -> None:
    """The previous one goes on, and says so; the administrator restarts it when the problem is corrected."""
    before = version(served)
    pid = served.shown("MainPID")
    bad = served.root / "etc/tcpdconf/conf.d/60-bad.toml"
    bad.write_text("[services.bad]\nusre = 1\n")

    told = change(served, "/srv/later.deb")

    bad.unlink()
    assert "60-bad.toml:2:1: error: services.bad.usre: unknown key" in told
    assert "does not accept the configuration, so the previous one goes on serving" in told
    assert (version(served), served.shown("MainPID")) == (before, pid)
    served.do("restart", "tcpdconf")
    assert version(served) == LATER
    change(served, "/srv/tcpdconf.deb")
    assert version(served) == before
    (served.root / "etc/tcpdconf/conf.d/10-hello.toml.dpkg-dist").unlink(missing_ok=True)


def test_a_service_that_was_disabled_stays_so(host: debian.Host) -> None:
    host.do("disable", "--now", "tcpdconf.service")
    change(host, "/srv/later.deb")
    change(host, "/srv/tcpdconf.deb")

    assert host.run("systemctl", "is-enabled", "tcpdconf").stdout == "disabled\n"
    assert host.shown("ActiveState") == "inactive"
    host.do("enable", "--now", "tcpdconf.service")
    daemons.until(lambda: host.shown("ActiveState") == "active", "the daemon")


def test_a_port_in_use_does_not_break_the_installation(host: debian.Host) -> None:
    """The package is installed all the same; systemd and the journal tell."""
    host.do("stop", "tcpdconf")
    with socket.create_server(("127.0.0.1", HELLO)):
        host.apt("install", "--reinstall", "/srv/tcpdconf.deb")
        assert (
            said(host, "dpkg-query", "--show", "--showformat=${db:Status-Status}", "tcpdconf") == "installed"
        )
        assert host.shown("ActiveState") != "active"
        assert "cannot listen" in host.journal() or "in use" in host.journal()
    host.do("restart", "tcpdconf")


def test_the_how_to_leads_from_an_installation_with_pip_to_the_package(served: debian.Host) -> None:
    """Its commands are run as they stand, with a client there; what the package has stands for pip's."""
    page = (packages.TOP / "docs/how-to/install.md").read_text()
    (commands,) = re.findall(r"^```sh\n(mv /opt/tcpdconf .*?)^```", page, re.MULTILINE | re.DOTALL)
    unit = "/etc/systemd/system/tcpdconf.service"
    for command in (
        "cp --archive /opt/tcpdconf /srv/pip",
        "apt-get --yes remove tcpdconf",
        "mv /srv/pip /opt/tcpdconf",
        "ln -s /opt/tcpdconf/bin/tcpdconf /opt/tcpdconf/bin/tcpdconf-migrate /usr/local/bin",
        f"cp /opt/tcpdconf/share/tcpdconf/systemd/tcpdconf.service {unit}",
        "systemctl daemon-reload",
        "systemctl enable --now tcpdconf",
    ):
        said(served, *command.split())
    client = greeted()
    answers: list[bytes] = []
    talking = threading.Thread(target=lambda: answers.append(answer(client)))
    talking.start()
    with Newcomers() as newcomers:
        said(served, "sh", "-exc", commands.replace("./dist/tcpdconf_*_amd64.deb", "--yes /srv/tcpdconf.deb"))
    talking.join()

    assert (answers, newcomers.lost, newcomers.cut <= 1) == ([b"hello\n"], [], True)
    assert said(served, "systemctl", "is-enabled", "tcpdconf") == "enabled\n"
    assert served.shown("FragmentPath") == "/lib/systemd/system/tcpdconf.service"
    assert "starts programs: native" in said(served, "tcpdconf", "--version")


def test_remove_keeps_the_configuration_and_purge_leaves_nothing(installed: Installed) -> None:
    """Nothing but the system user, as Debian's packages do, and files that the administrator wrote."""
    host = installed.host
    said(host, "tcpdconf", "ban", "192.0.2.1")
    host.do("stop", "tcpdconf.service")
    host.do("start", "tcpdconf.socket")
    assert daemons.talk(HELLO, say=b"")
    own = host.root / "etc/tcpdconf/conf.d/70-own.toml"
    own.write_text("# mine\n")

    host.apt("remove", "tcpdconf")
    said(host, "ls", "/etc/tcpdconf/conf.d/10-hello.toml", "/var/lib/tcpdconf/bans")
    assert host.run("ls", "/opt/tcpdconf").returncode != 0
    assert (
        host.run("systemctl", "is-active", "tcpdconf.service", "tcpdconf.socket").stdout.split()
        == ["inactive"] * 2
    )
    with pytest.raises(ConnectionRefusedError):
        daemons.connect(HELLO)

    host.apt("purge", "tcpdconf")
    assert own.read_text() == "# mine\n"
    shutil.rmtree(host.root / "etc/tcpdconf")
    host.apt("--purge", "autoremove")
    assert files(host) == installed.before

    said(host, "mkdir", "/opt/tcpdconf")
    said(host, "touch", "/opt/tcpdconf/pyvenv.cfg")
    refused = host.run("apt-get", "--yes", "install", "--no-install-recommends", "/srv/tcpdconf.deb")
    assert refused.returncode != 0
    assert "/opt/tcpdconf is a virtual environment already, not of this package" in refused.stdout
    assert host.run("ls", "/usr/bin/tcpdconf").returncode != 0

    said(host, "mv", "/opt/tcpdconf", "/opt/tcpdconf.pip")
    host.apt("install", "--no-install-recommends", "/srv/tcpdconf.deb")
    daemons.until(lambda: host.shown("ActiveState") == "active", "the daemon")
