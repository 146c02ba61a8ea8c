"""The shipped units, judged by systemd's own tools, and a daemon with no more rights than they leave it."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator

import pytest
from support import peers
from support.running import daemons

from tcpdconf.config.model.service import Settings

pytestmark = pytest.mark.peer

TOP = pathlib.Path(__file__).parents[2]
UNITS = TOP / "deploy/systemd"
SERVICE = UNITS / "tcpdconf.service"
SOCKET = UNITS / "tcpdconf.socket"
COMMAND = str(pathlib.Path(sys.executable).with_name("tcpdconf"))


def said(*command: str | pathlib.Path) -> str:
    """Return the output of a systemd tool, of both of its streams."""
    peers.need(str(command[0]))
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    return result.stdout


def settings(unit: pathlib.Path) -> list[tuple[str, str]]:
    return re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE)


@pytest.fixture
def units(tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the units, which name the tests' tcpdconf."""
    for unit in (SERVICE, SOCKET):
        text = unit.read_text().replace("/opt/tcpdconf/bin/tcpdconf", COMMAND)
        (tmp_path / unit.name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("name", ["tcpdconf.service", "tcpdconf.socket"])
def test_systemd_finds_nothing_to_complain_about(units: pathlib.Path, name: str) -> None:
    assert said("systemd-analyze", "verify", "--man=no", units / name) == ""


def test_the_drop_in_is_for_newer_versions_of_systemd(units: pathlib.Path) -> None:
    (units / "tcpdconf.service.d").mkdir()
    shutil.copy(UNITS / "restart.conf", units / "tcpdconf.service.d")
    version = int(said("systemctl", "--version").split()[1])
    complaints = said("systemd-analyze", "verify", "--man=no", units / "tcpdconf.service")

    unknown = re.findall(
        r"Unknown key(?: name)? '(\w+)' in section .*, ignoring\.$", complaints, re.MULTILINE
    )
    assert len(unknown) == len(complaints.splitlines())
    assert unknown == ([] if version >= 254 else ["RestartSteps", "RestartMaxDelaySec"])


def test_the_exposure_is_what_the_unit_says() -> None:
    report = said("systemd-analyze", "security", "--offline=true", "--no-pager", SERVICE)
    (exposure,) = re.findall(r"Overall exposure level for tcpdconf.service: (\S+) OK", report)

    assert f"`systemd-analyze security` gives it {exposure}.\n" in SERVICE.read_text()
    assert float(exposure) <= 3.0


def names(setting: str) -> set[str]:
    """Return the words of a line of the report, one of which the unit must explain.

    `UMask=` is UMask, `CapabilityBoundingSet=~CAP_SET(UID|GID|PCAP)` SETUID, SETGID and SETPCAP.
    """
    key, _, value = setting.partition("=~")
    if not value.startswith(("CAP_", "AF_")):
        return set(re.findall(r"\w+", key))
    before, _, alternatives = value.partition("_")[2].partition("(")
    return {before + each for each in alternatives.rstrip(")").split("|")}


def test_whatever_is_left_open_has_its_reason_in_the_unit() -> None:
    report = said("systemd-analyze", "security", "--offline=true", "--json=short", SERVICE)
    exposed = [row["name"] for row in json.loads(report) if row["exposure"]]
    explained = set()
    for subjects in re.findall(r"^# ([A-Z][^:]*): ", SERVICE.read_text(), re.MULTILINE):
        explained |= {re.sub("=.*", "", word) for word in re.split(r"[,;] | ", subjects)}

    assert len(exposed) > 10
    assert [name for name in exposed if not names(name) & explained] == []


@contextlib.contextmanager
def someone_elses_folder() -> Iterator[pathlib.Path]:
    """A folder that root cannot use without CAP_DAC_OVERRIDE."""
    with daemons.public_folder() as folder:
        private = folder / "private"
        private.mkdir()
        (private / "access").write_text("127.0.0\tallow,LISTED=yes\n")
        (private / "access").chmod(0o600)
        private.chmod(0o700)
        for path in (private / "access", private):
            os.chown(path, 65534, 65534)
        yield private


def free_low_port() -> int:
    for port in range(1023, 600, -1):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port below 1024 is free")


def confined(folder: pathlib.Path, text: str, *drop_ins: pathlib.Path) -> daemons.Daemon:
    """A daemon with the capabilities of the unit and of drop-ins."""
    peers.need_root()
    peers.need("/usr/bin/setpriv")
    sets = [dict(settings(each))["CapabilityBoundingSet"] for each in (SERVICE, *drop_ins)]
    kept = " ".join(sets).replace("CAP_", "+").lower().split()
    return daemons.Daemon(folder, text, before=["setpriv", "--bounding-set", ",".join(["-all", *kept])])


def test_the_capabilities_are_enough_for_a_service_of_another_user(tmp_path: pathlib.Path) -> None:
    """A low port, other people's files, resource limits."""
    peers.need("prlimit")
    port = free_low_port()
    with someone_elses_folder() as folder:
        text = f"""
            [services.test]
            program = ["/bin/sh", "-c", "id -un; echo $LISTED; echo noise >&2; ulimit -Hn; cat"]
            user = "nobody"
            rlimits = {{ nofile = 99 }}
            stderr = {{ file = "{folder}/log" }}
            [[services.test.listeners]]
            address = "127.0.0.1"
            port = {port}
            [[services.test.access]]
            file = "{folder}/access"
            """
        with confined(tmp_path, text) as daemon, daemons.connect(port) as client:
            assert [daemons.line(client) for _ in range(3)] == [b"nobody\n", b"yes\n", b"99\n"]
            assert daemon.stop() == 0
            assert daemons.read(client) == b""
        assert (folder / "log").read_text() == "noise\n"


def test_the_capabilities_of_the_drop_in_are_enough_to_mark_packets(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    text = f"""
        [services.test]
        program = ["/bin/cat"]
        user = "nobody"
        tcp = {{ interface = "lo", mark = 7 }}
        listeners = [{{ address = "127.0.0.1", port = {port} }}]
        """
    with confined(tmp_path, text, UNITS / "net-raw.conf"):
        assert daemons.talk(port, say=b"in") == b"in"


def test_the_capabilities_are_enough_to_end_a_program_that_has_become_another_user(
    tmp_path: pathlib.Path,
) -> None:
    """As imaplogin does."""
    port = daemons.free_port()
    text = f"""
        [services.test]
        program = ["/usr/bin/setpriv", "--reuid=nobody", "--clear-groups", "/bin/sh", "-c", "id -un; cat"]
        [[services.test.listeners]]
        address = "127.0.0.1"
        port = {port}
        """
    with confined(tmp_path, text) as daemon, daemons.connect(port) as client:
        assert daemons.line(client) == b"nobody\n"
        assert daemon.stop() == 0
        assert daemons.read(client) == b""


def test_a_socket_of_systemd_is_served(tmp_path: pathlib.Path) -> None:
    """The port is bound by systemd, which starts tcpdconf when the first connection comes."""
    peers.need("systemd-socket-activate")
    port = daemons.free_port()
    conf = daemons.configure(
        tmp_path,
        f"""
        [services.test]
        program = ["/bin/sh", "-c", "echo $TCPLOCALPORT ${{LISTEN_FDS-gone}}"]
        inherit_environment = true
        [[services.test.listeners]]
        address = "127.0.0.1"
        port = {port}
        """,
    )
    command = ["systemd-socket-activate", "-l", f"127.0.0.1:{port}", COMMAND, "run", str(conf)]
    with subprocess.Popen(
        [*command, "--runtime-dir", str(tmp_path / "run")], stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        try:
            assert b"Listening on " in process.stderr.readline()
            assert daemons.talk(port) == daemons.talk(port) == f"{port} gone\n".encode()
        finally:
            process.send_signal(signal.SIGTERM)
        log = process.stderr.read().decode()

    assert process.returncode == 0
    assert [line for line in log.splitlines() if "no listener" in line or "cannot bind" in line] == []


def test_the_shipped_socket_is_that_of_the_shipped_service() -> None:
    shipped = Settings.model_validate(tomllib.loads((TOP / "conf.d/10-hello.toml").read_text()))
    (listener,) = shipped.services["hello"].listeners

    assert dict(settings(SOCKET))["ListenStream"] == f"{listener.address}:{listener.port}"
