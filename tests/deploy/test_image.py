"""The image: what packaging/build-image has made, and how it serves as a container."""

import hashlib
import json
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation import json as validation
from support import packages
from support.courier import courierhost
from support.running import containers, daemons, dialogues

from tcpdconf import __version__

pytestmark = [pytest.mark.peer, pytest.mark.network, pytest.mark.timeout(1200)]  # it is built first

PORT = 4025


def conf(folder: pathlib.Path, text: str) -> dict[str, pathlib.Path]:
    """A conf.d with one file, as something to mount."""
    folder.joinpath("conf.d").mkdir()
    folder.joinpath("conf.d/test.toml").write_text(textwrap.dedent(text))
    return {"/etc/tcpdconf/conf.d": folder / "conf.d"}


def status(pid: int) -> dict[str, str]:
    """A process as proc(5) shows it."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.mark.parametrize("runtime", containers.RUNTIMES)
def test_it_serves_as_pid_1_of_its_own_user_and_ends_at_sigterm(
    bundle: pathlib.Path, runtime: str, tmp_path: pathlib.Path
) -> None:
    with containers.Container(bundle, runtime, tmp_path) as container:
        said = daemons.talk(PORT).decode()
        seen = status(container.init)
        inside = pathlib.Path(f"/proc/{container.init}/root")
        assert not (inside / "dev/log").exists()
        assert os.statvfs(inside).f_flag & os.ST_RDONLY
        ended = container.stop()

    assert said.startswith("Hello from tcpdconf."), container.log
    assert "TCPREMOTEIP=::ffff:127.0.0.1\n" in said
    assert "RUNTIME_DIRECTORY" not in said
    assert seen["NSpid"].split()[-1] == "1"
    assert int(seen["CapEff"], 16) == 0
    if runtime == "unshare":  # bubblewrap's user is root outside
        assert set(seen["Uid"].split()) | set(seen["Gid"].split()) == {str(containers.USER)}
    assert ended == 0
    assert [line for line in container.log.splitlines() if " warn" in line or "error" in line] == []


@pytest.mark.parametrize("runtime", containers.RUNTIMES)
def test_pid_1_reaps_what_programs_leave_behind(
    bundle: pathlib.Path, runtime: str, tmp_path: pathlib.Path
) -> None:
    """The program ends at once; its child runs on, gets PID 1 for a parent, and is a zombie until reaped."""
    mounts = conf(
        tmp_path,
        f"""
        [services.leaver]
        program = ["/opt/tcpdconf/bin/python", "-I", "-c", '''
        import os, sys
        if os.fork() == 0:
            print(os.getpid(), flush=True)
            sys.stdin.read()
            os._exit(3)
        ''']

        [[services.leaver.listeners]]
        port = {PORT}
        """,
    )
    with containers.Container(bundle, runtime, tmp_path, mounts=mounts) as container:
        with daemons.connect(PORT) as client:
            orphan = daemons.line(client).decode().strip()
            daemons.until(lambda: " end service=leaver " in container.log, "the end of the program")
            (pid,) = [pid for pid in members(container.init) if status(pid)["NSpid"].split()[-1] == orphan]
            assert status(pid)["PPid"] in {str(each) for each in members(container.init)}
        daemons.until(lambda: not pathlib.Path(f"/proc/{pid}").exists(), "the orphan to be reaped")
        assert container.stop() == 0


def members(init: int) -> list[int]:
    """The processes of a container."""
    namespace = pathlib.Path(f"/proc/{init}/ns/pid").readlink()
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/ns/pid"):
        try:
            if path.readlink() == namespace:
                found.append(int(path.parts[2]))
        except OSError:  # it has ended
            continue
    return found


def test_another_user_is_a_problem_that_says_so(bundle: pathlib.Path, tmp_path: pathlib.Path) -> None:
    mounts = conf(
        tmp_path,
        f"""
        [services.hello]
        program = ["/opt/tcpdconf/bin/python", "-V"]
        user = "root"

        [[services.hello.listeners]]
        port = {PORT}
        """,
    )
    with containers.Container(bundle, "unshare", tmp_path, mounts=mounts, serves=False) as container:
        assert container.process.wait(daemons.SECONDS) == 78
    assert "test.toml:4:8: error: services.hello.user: running as another user needs root" in container.log


def test_without_ipv6_it_serves_ipv4(bundle: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with containers.Container(bundle, "bwrap", tmp_path, ipv6=False) as container:
        assert daemons.talk(PORT).startswith(b"Hello from tcpdconf.")
        with pytest.raises(OSError, match="refused"):
            daemons.connect(PORT, "::1")
        assert container.stop() == 0


def test_bans_outlive_the_container_and_commands_run_beside_it(
    bundle: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    state = {"/var/lib/tcpdconf": containers.volume(tmp_path / "state", 0o750)}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with containers.Container(bundle, "unshare", tmp_path / "one", mounts=state) as container:
        banned = container.run("/opt/tcpdconf/bin/tcpdconf", "ban", "127.0.0.9", "--force")
        assert banned.returncode == 0, banned.stdout
        assert daemons.talk(PORT, source="127.0.0.9") == b""
        assert container.stop() == 0
    with containers.Container(bundle, "unshare", tmp_path / "two", mounts=state) as container:
        listed = container.run("/opt/tcpdconf/bin/tcpdconf", "bans")
        assert "127.0.0.9" in listed.stdout
        assert daemons.talk(PORT, source="127.0.0.9") == b""
        assert daemons.talk(PORT).startswith(b"Hello")
        drained = container.run("/opt/tcpdconf/bin/tcpdconf", "stop", "--drain", "5")
        assert drained.returncode in {0, -signal.SIGKILL}, drained.stdout  # PID 1 takes it along
        assert container.process.wait(daemons.SECONDS) == 0


def test_it_has_the_name_by_which_the_how_to_runs_it(dist: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """`podman load` names it as buildah does."""
    (archive,) = dist.glob("tcpdconf-*-image-*.tar")
    buildah = ["buildah", "--storage-driver=vfs", f"--root={tmp_path}/storage", f"--runroot={tmp_path}/run"]
    subprocess.run([*buildah, "pull", "--quiet", f"oci-archive:{archive}"], check=True)
    listed = subprocess.check_output([*buildah, "images", "--format", "{{.Name}}:{{.Tag}}"], text=True)

    assert listed == f"localhost/tcpdconf:{__version__}\n"


def test_it_has_no_shell_and_nothing_that_gives_rights(bundle: pathlib.Path) -> None:
    root = bundle / "rootfs"
    paths = [path for path in root.rglob("*") if not path.is_symlink()]
    files = [path for path in paths if path.is_file()]
    programs = {
        str(path.relative_to(root))
        for path in files
        if path.stat().st_mode & 0o111 and not path.name.endswith((".so", ".py")) and ".so." not in path.name
    }
    modes = {str(path.relative_to(root)): path.stat().st_mode for path in paths}

    assert programs == {
        "usr/bin/python3.11",
        *(
            f"opt/tcpdconf/bin/{name}"
            for name in ("couriertcpd", "tcpdconf", "tcpdconf-migrate", "watchmedo")
        ),
    }
    assert [path for path, mode in modes.items() if mode & (stat.S_ISUID | stat.S_ISGID)] == []
    assert sorted(path for path, mode in modes.items() if mode & stat.S_IWOTH) == ["tmp", "var/tmp"]
    assert {path.relative_to(root).parts[:3] for path in paths if path.stat().st_uid != 0} == {
        ("run", "tcpdconf"),
        ("var", "lib", "tcpdconf"),
    }
    assert list(root.rglob("_spawn.abi3.so")) != []
    for path in root.glob("opt/tcpdconf/lib/python3.11/site-packages/tcpdconf/**/*.py"):
        compiled = path.parent / "__pycache__" / f"{path.stem}.cpython-311.pyc"
        assert compiled.read_bytes()[4:8] == b"\1\0\0\0", path  # by hash, and not compared with the source


def test_the_sboms_are_valid_and_name_what_is_there(dist: pathlib.Path, bundle: pathlib.Path) -> None:
    (path,) = dist.glob("tcpdconf-*-image-*.cdx.json")
    image = sbom(path)
    (other,) = set(dist.glob("*.cdx.json")) - {path}
    python = sbom(other)

    root = bundle / "rootfs"
    names = [path.name.removesuffix(".dist-info") for path in root.glob("opt/tcpdconf/lib/*/*/*.dist-info")]
    installed = {name.lower().replace("_", "-") for name in names}
    debian = {path.name for path in (root / "var/lib/dpkg/status.d").iterdir()}
    assert urls(image, "pkg:pypi/") == installed
    assert urls(python, "pkg:pypi/") == installed
    assert {url.partition("@")[0].partition("-")[0] for url in urls(image, "pkg:deb/debian/")} == {
        name.partition("-")[0] for name in debian
    }
    assert {"libc6", "libssl3", "python3.11"} <= debian
    assert image["metadata"]["component"]["type"] == "container"


def sbom(path: pathlib.Path) -> dict[str, Any]:
    """A valid SBOM."""
    text = path.read_text()
    found: dict[str, Any] = json.loads(text)
    version = SchemaVersion.from_version(found["specVersion"])
    assert validation.JsonStrictValidator(version).validate_str(text) is None
    return found


def urls(found: dict[str, Any], kind: str) -> set[str]:
    """Return names and versions from the package URLs of a kind."""
    components = [*found["components"], found["metadata"]["component"]]
    all_of_them = (component.get("purl", "") for component in components)
    return {
        url.removeprefix(kind).partition("?")[0].replace("@", "-").replace("_", "-")
        for url in all_of_them
        if url.startswith(kind)
    }


def test_every_file_has_its_hash(dist: pathlib.Path) -> None:
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"],
        cwd=dist,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    named = {line.split()[1] for line in (dist / "SHA256SUMS").read_text().splitlines()}
    assert named == {path.name for path in dist.iterdir()} - {"SHA256SUMS"}


def test_the_same_wheel_gives_the_same_image(dist: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for path in dist.iterdir():
        if "-image-" not in path.name:
            shutil.copy(path, tmp_path)
    subprocess.run([packages.TOP / "packaging/build-image", tmp_path], check=True)

    again = {path.name: hashlib.sha256(path.read_bytes()).digest() for path in tmp_path.glob("*-image-*")}
    assert len(again) == 2
    assert again == {name: hashlib.sha256((dist / name).read_bytes()).digest() for name in again}


MAIL = "/srv/mail"
SOCKET = "/run/courier/authdaemon"


@pytest.fixture
def courier(dist: pathlib.Path) -> Iterator[pathlib.Path]:
    """The image with Courier's IMAP server, unpacked; a runtime has made the places to mount at."""
    (archive,) = dist.glob("tcpdconf-*-image-*.tar")
    with daemons.public_folder() as folder:
        command = [packages.TOP / "packaging/derive-image", packages.TOP / "packaging/image/imap", archive]
        subprocess.run([*command, folder / "imap.tar"], check=True)
        unpacked = containers.unpack(folder / "imap.tar", f"tcpdconf-imap:{__version__}", folder)
        for place in (MAIL, SOCKET):
            (unpacked / f"rootfs{place}").mkdir(parents=True)
        yield unpacked


def test_an_image_with_courier_serves_imap(courier: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """A user logs in, by the authdaemond of a host, and reads mail; the image has got what it needs only."""
    courierhost.need("imapd")
    with courierhost.Host(tmp_path) as host:
        host.run("cp", "-R", f"{courierhost.HOME}/Maildir", "/run/Maildir")
        host.run("chown", "-R", f"{containers.USER}:{containers.USER}", "/run/Maildir")
        owner = [f"uid={containers.USER}", f"gid={containers.USER}", f"home={MAIL}"]
        host.run("userdb", courierhost.USER, "set", *owner)
        host.run("makeuserdb")
        host.path(SOCKET).chmod(0o755)
        mail = tmp_path / "mail"
        mail.mkdir()
        shutil.move(host.path("/run/Maildir"), mail)
        (tmp_path / "container").mkdir()
        mounts = {MAIL: mail, SOCKET: host.path(SOCKET)}
        with containers.Container(courier, "unshare", tmp_path / "container", mounts=mounts) as container:
            commands = [f"1 LOGIN {courierhost.USER} {courierhost.PASSWORD}", "2 SELECT INBOX", "3 LOGOUT"]
            greeting, login, selected, *_ = dialogues.dialogue("imap", 1143, "127.0.0.1", commands)
            assert container.stop() == 0

    assert greeting[0].startswith(b"* OK [CAPABILITY IMAP4rev1 "), container.log
    assert login[-1] == b"1 OK LOGIN Ok.\r\n"
    assert b"* 1 EXISTS\r\n" in selected
    status_d = courier / "rootfs/var/lib/dpkg/status.d"
    assert {"courier-imap", "courier-authlib", "libstdc++6", "python3.11"} <= {
        path.name for path in status_d.iterdir()
    }
    assert not {"perl-base", "exim4-base"} & {path.name for path in status_d.iterdir()}
    assert (courier / "rootfs/usr/share/doc/courier-imap/copyright").stat().st_size > 0


def test_the_hook_leaves_alone_what_mmdebstrap_does_not_make(tmp_path: pathlib.Path) -> None:
    (tmp_path / "etc").mkdir()
    for root in ("", ".", str(tmp_path)):
        command = [str(packages.TOP / "packaging/image/root"), root, str(tmp_path)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "mmdebstrap does not make" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["etc"]


def test_build_image_says_what_is_missing(tmp_path: pathlib.Path) -> None:
    done = subprocess.run(
        [packages.TOP / "packaging/build-image", tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "run packaging/build-dist first" in done.stderr
