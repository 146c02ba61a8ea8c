"""Which paths root follows with its own rights, and which with those of a user."""

import contextlib
import gc
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

import pytest
from support import peers
from support.running import daemons

from tcpdconf.config import host
from tcpdconf.daemon.control import runtimedir
from tcpdconf.daemon.process import descriptors, paths, privileges

USER, OTHER = 54321, 54322
WHO: Final = host.Identity(USER, USER, (USER,), None)
pytestmark = pytest.mark.peer


@pytest.fixture
def top() -> Iterator[pathlib.Path]:
    """A tree of root's: the paths of a test are below it."""
    peers.need_root()
    with daemons.public_folder() as folder:
        yield folder


def make(top: pathlib.Path, tree: str) -> None:
    """Make what each line says: path, owner, mode; a `/` at the end is a directory, `-> target` a link."""
    for line in tree.split("\n"):
        words = line.split()
        if not words:
            continue
        path, owner = top / words[0], int(words[1])
        if words[2] == "->":
            path.symlink_to(words[3].replace("TOP", str(top)))
        elif words[2] == "=":
            path.hardlink_to(top / words[3])
            continue
        elif words[0].endswith("/"):
            path.mkdir()
        else:
            path.write_text(words[0])
        os.chown(path, owner, owner, follow_symlinks=False)
        if words[2] != "->":
            path.chmod(int(words[2], 8))


def read(path: pathlib.Path, who: host.Identity = descriptors.OWN) -> str:
    """Return the contents of the file that is opened."""
    with open(descriptors.regular(str(path), who)) as file:
        return file.read()


TREE = f"theirs/ {USER} 755\nours/ 0 755\nours/file 0 600\nours/group/ 0 775\nours/sticky/ 0 1777\n"


@pytest.mark.parametrize(
    ("tree", "path"),
    [
        ("", "ours/file"),
        ("ours/link 0 -> file", "ours/link"),
        ("ours/link 0 -> ../ours/./file", "ours/link"),
        ("link 0 -> TOP/ours\nours/second 0 -> TOP/link/file", "ours/second"),
        ("", "ours/group/../file"),
        ("", "theirs/../ours/file"),
        ("theirs/file 0 600", "theirs/file"),
        (f"theirs/file {OTHER} 600", "theirs/file"),
        (f"theirs/in/ {USER} 755\ntheirs/in/file 0 600", "theirs/in/file"),
        ("theirs/file 0 600\nours/link 0 -> ../theirs/file", "ours/link"),
        ("ours/group/file 0 600", "ours/group/file"),
        ("ours/sticky/link 0 -> ../file", "ours/sticky/link"),
        (
            "ours/sticky/in/ 0 755\nours/sticky/in/link 0 -> file\nours/sticky/in/file 0 600",
            "ours/sticky/in/link",
        ),
    ],
)
def test_root_follows_what_nobody_else_can_have_changed(top: pathlib.Path, tree: str, path: str) -> None:
    make(top, TREE)
    make(top, tree)

    assert read(top / path).endswith("file")


@pytest.mark.parametrize(
    ("tree", "path", "said"),
    [
        ("theirs/link 0 -> ../ours/file", "theirs/link", "the symbolic link {top}/theirs/link"),
        (f"theirs/link {USER} -> TOP/ours/file", "theirs/link", "the symbolic link {top}/theirs/link"),
        (f"theirs/in {USER} -> ../ours", "theirs/in/file", "the symbolic link {top}/theirs/in"),
        (
            "theirs/in/ 0 755\ntheirs/in/link 0 -> TOP/ours/file",
            "theirs/in/link",
            "the symbolic link {top}/theirs/in/link",
        ),
        (
            f"ours/link 0 -> ../theirs/second\ntheirs/second {USER} -> ../ours/file",
            "ours/link",
            "the symbolic link {top}/theirs/second",
        ),
        (f"theirs/in/ {USER} 755", "theirs/in/../../ours/file", '".."'),
        ("ours/group/link 0 -> ../file", "ours/group/link", "the symbolic link {top}/ours/group/link"),
        ("ours/sticky/link 54321 -> ../file", "ours/sticky/link", "the symbolic link {top}/ours/sticky/link"),
        (
            f"ours/sticky/in/ {USER} 755\nours/sticky/in/link 0 -> TOP/ours/file",
            "ours/sticky/in/link",
            "the symbolic link {top}/ours/sticky/in/link",
        ),
        ("theirs/file 0 = ours/file", "theirs/file", "more than one hard link"),
        ("ours/sticky/file 0 = ours/file", "ours/sticky/file", "more than one hard link"),
        ("ours/group/file 0 = ours/file", "ours/group/file", "more than one hard link"),
    ],
)
def test_root_follows_nothing_that_others_may_replace(
    top: pathlib.Path, tree: str, path: str, said: str
) -> None:
    make(top, TREE)
    make(top, tree)

    for who in (descriptors.OWN, WHO):
        with pytest.raises(paths.UntrustedError) as error:
            read(top / path, who)
        assert said.format(top=top) in str(error.value.strerror)
        assert error.value.filename == str(top / path)


@pytest.mark.parametrize(
    ("tree", "path"),
    [
        (f"theirs/file {USER} 600\ntheirs/link {USER} -> file", "theirs/link"),
        (
            f"theirs/in/ {USER} 700\ntheirs/in/file {USER} 600\ntheirs/link {USER} -> ./in/../in/file",
            "theirs/link",
        ),
        (f"theirs/file {USER} 600\ntheirs/second {USER} = theirs/file", "theirs/second"),
        (f"ours/open 0 644\ntheirs/link {USER} -> TOP/ours/open", "theirs/link"),
        (f"ours/sticky/file {USER} 600\nours/sticky/link {USER} -> file", "ours/sticky/link"),
    ],
)
def test_a_user_follows_what_the_user_may_read(top: pathlib.Path, tree: str, path: str) -> None:
    make(top, TREE)
    make(top, tree)

    assert read(top / path, WHO)


@pytest.mark.parametrize(
    "tree",
    [
        f"ours/open 0 666\nours/sticky/log {OTHER} -> ../open",  # fs.protected_symlinks
        f"ours/sticky/log {OTHER} 666",  # fs.protected_regular
    ],
)
def test_what_another_user_has_planted_is_no_log_file(top: pathlib.Path, tree: str) -> None:
    make(top, TREE)
    make(top, tree)

    for who in (descriptors.OWN, WHO):
        with pytest.raises(PermissionError):
            os.close(descriptors.log(f"{top}/ours/sticky/log", who))


def test_links_in_proc_are_for_who_may_have_written_them(top: pathlib.Path) -> None:
    make(top, TREE + "out 0 666\n")
    with contextlib.ExitStack() as held:
        fd = held.enter_context((top / "out").open()).fileno()
        make(top, f"theirs/out {USER} -> /proc/self/fd/{fd}\nours/out 0 -> /proc/self/fd/{fd}")
        held.callback(os.close, descriptors.log(f"{top}/ours/out", WHO))
        os.unlink(top / "out")  # its name is not what leads there
        held.callback(os.close, descriptors.log(f"{top}/ours/out", WHO))
        with pytest.raises(paths.UntrustedError):
            descriptors.log(f"{top}/theirs/out", WHO)


def test_a_device_that_is_to_be_read_is_not_opened(top: pathlib.Path) -> None:
    make(top, TREE)
    make(top, f"theirs/link {USER} -> /dev/ptmx")  # each time it is opened there is one terminal more
    before = len(os.listdir("/dev/pts"))

    with pytest.raises(OSError, match="not a regular file"):
        descriptors.regular(f"{top}/theirs/link", WHO)
    assert len(os.listdir("/dev/pts")) == before


def test_links_go_round_in_circles(top: pathlib.Path) -> None:
    make(top, "one 0 -> two\ntwo 0 -> one")

    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        descriptors.regular(f"{top}/one")


READ_ONLY = """
import os, sys
from tcpdconf.daemon.process import descriptors as files
print(os.read(files.regular(sys.argv[1]), 99).decode())
"""


def test_a_directory_that_is_mounted_to_be_read_only(top: pathlib.Path) -> None:
    """As Kubernetes mounts a ConfigMap: mode 0777, links that are swapped, nobody can write."""
    peers.need("unshare")
    make(
        top,
        "map/ 0 777\nmap/..data 0 -> 2026\nmap/2026/ 0 777\nmap/2026/file 0 600\nmap/file 0 -> ..data/file",
    )
    file = top / "map/file"
    with pytest.raises(paths.UntrustedError):
        read(file)
    mount = f"mount --bind {top}/map {top}/map && mount -o remount,ro,bind {top}/map"
    command = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        f'{mount} && exec "$@"',
        "sh",
        sys.executable,
        "-c",
        READ_ONLY,
    ]
    found = subprocess.run([*command, str(file)], capture_output=True, text=True, check=False)

    assert (found.stdout, found.stderr) == ("map/2026/file\n", "")


def test_a_runtime_directory_behind_a_link_of_another(top: pathlib.Path) -> None:
    make(top, TREE)
    make(top, f"theirs/in {USER} -> ../ours")

    with pytest.raises(paths.UntrustedError):
        runtimedir.open_(f"{top}/theirs/in/run")
    assert not (top / "ours/run").exists()
    os.close(runtimedir.open_(f"{top}/ours/run"))
    assert (top / "ours/run").is_dir()


def test_the_rights_of_this_process_come_back(top: pathlib.Path) -> None:
    """They come back after any failure, and no descriptor stays open."""
    make(top, TREE)

    def state() -> tuple[object, ...]:
        gc.collect()  # the loops of other tests
        status = pathlib.Path("/proc/self/status").read_text()
        wanted = ("Uid:", "Gid:", "Groups:", "CapEff:", "CapPrm:", "CapInh:")
        return [line for line in status.splitlines() if line.startswith(wanted)], os.listdir("/proc/self/fd")

    before = state()
    for path in ("theirs/none", "ours/file", "ours/none", "theirs"):
        with contextlib.suppress(OSError):
            os.close(descriptors.regular(f"{top}/{path}", WHO))
        assert state() == before
    with pytest.raises(RuntimeError), privileges.file_rights_of(WHO):
        raise RuntimeError
    assert state() == before


def test_only_what_decides_about_files_changes() -> None:
    """By the effective user that user could change the priority of the daemon, and what it may run on."""
    peers.need_root()
    with privileges.file_rights_of(WHO):
        uids = [os.getresuid(), os.getresgid()]

    assert uids == [(0, 0, 0), (0, 0, 0)]
