"""Files that change under a running daemon, in all the ways that there are: each change is taken on once."""

import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Self

import pytest
from support import hosts, peers
from support.running import daemons

SETTLED = 0.3  # daemon.settle
SOON = 1.0  # seconds after settling within which a change is taken on, as a rule
LATE = 10.0  # the same on a machine that does a lot else; who looks at files only now and then takes longer
QUIET = 1.0  # seconds in which a second reload would have come
RELOADS = r"^reloaded |reload rejected"


def run(*command: object, stdin: str | None = None) -> None:
    words = [str(word) for word in command]
    subprocess.run(words, check=True, timeout=daemons.SECONDS, input=stdin, capture_output=True, text=True)


class Pauses(NamedTuple):
    """Long pauses between changes that were meant to be one."""

    number: int


class Story(NamedTuple):
    """Holds a change of files, a test of its effect, and the service that it changes.

    `act` may return pauses. After each of them a separate reload may follow.
    """

    act: Callable[[hosts.Host], object]
    arrived: Callable[[hosts.Host], bool] = lambda host: host.shows("TABLE") == "new"
    changed: str = "test"
    first: Callable[[hosts.Host], object] = lambda _: None  # before the daemon starts


def shows(variable: str) -> Callable[[hosts.Host], bool]:
    return lambda host: host.shows(variable) == "new"


def rsync(host: hosts.Host, *options: str) -> None:
    peers.need("rsync")
    run("rsync", "--ignore-times", *options, host.new, host.test)


def vim(host: hosts.Host, *settings: str) -> None:
    peers.need("vim")
    words = [word for setting in settings for word in ("-c", f"set {setting}")]
    run("vim", "-u", "NONE", "-es", *words, "-c", '%s/"old"/"new"/', "-c", "wq", host.test)


def emacs(host: hosts.Host) -> None:
    """The file becomes its backup, and a new one is written; an auto-save file comes and goes."""
    host.test.with_name("#test.toml#").write_text("a = \n")
    host.test.rename(host.test.with_name("test.toml~"))
    host.test.write_text(host.new.read_text())
    host.test.with_name("#test.toml#").unlink()


def in_halves(host: hosts.Host) -> None:
    text = host.new.read_text()
    with host.test.open("w") as file:
        file.write(text[: len(text) // 2])
        file.flush()
        time.sleep(0.7)  # longer than settling
        file.write(text[len(text) // 2 :])


def ansible(host: hosts.Host) -> None:
    """ansible.builtin.copy: a temporary file beside it, owner and mode, rename."""
    temporary = host.conf / ".ansible_tmpk1x8dw2ptest.toml"
    shutil.copyfile(host.new, temporary)
    temporary.chmod(0o644)
    os.chown(temporary, os.getuid(), os.getgid())
    temporary.rename(host.test)


def dpkg(host: hosts.Host) -> None:
    shutil.copyfile(host.new, host.conf / "test.toml.dpkg-new")
    os.link(host.test, host.conf / "test.toml.dpkg-tmp")
    (host.conf / "test.toml.dpkg-new").rename(host.test)
    (host.conf / "test.toml.dpkg-tmp").unlink()


def mount_config_map(host: hosts.Host) -> None:
    """As kubelet lays out a volume: every file a link by way of ..data."""
    for number, text in enumerate((host.test.read_text(), host.new.read_text())):
        version = host.conf / f"..2024_0{number}"
        version.mkdir()
        (version / "test.toml").write_text(text)
    (host.conf / "..data").symlink_to("..2024_00")
    host.test.unlink()
    host.test.symlink_to("..data/test.toml")


def update_config_map(host: hosts.Host) -> None:
    (host.conf / "..data_tmp").symlink_to("..2024_01")
    (host.conf / "..data_tmp").rename(host.conf / "..data")
    shutil.rmtree(host.conf / "..2024_00")


def link_file(host: hosts.Host) -> None:
    host.write("old.toml", host.test.read_text())
    host.test.unlink()
    host.test.symlink_to(host.files / "old.toml")


def link_directory(host: hosts.Host) -> None:
    """conf.d itself is a link to one of two directories."""
    host.conf.rename(host.folder / "v1")
    shutil.copytree(host.folder / "v1", host.folder / "v2")
    shutil.copyfile(host.new, host.folder / "v2/test.toml")
    host.conf.symlink_to("v1")


def replace_directory(host: hosts.Host) -> None:
    new = host.folder / "conf.d.new"
    shutil.copytree(host.conf, new)
    shutil.copyfile(host.new, new / "test.toml")
    host.conf.rename(host.folder / "conf.d.old")
    new.rename(host.conf)


def many_writes(host: hosts.Host) -> Pauses:
    """Write again and again, and return the pauses in which, on a busy machine, a change may have settled."""
    pauses, before = 0, time.monotonic()
    for number in range(20):
        host.test.write_text(host.configuration().replace('"old"', f'"{number}"'))
        time.sleep(0.05)
        pauses += time.monotonic() - before > SETTLED / 2
        before = time.monotonic()
    host.test.write_text(host.new.read_text())
    return Pauses(pauses)


def both_at_once(host: hosts.Host) -> None:
    host.access.write_text("*\tallow,RULE=new\n")
    shutil.copyfile(host.new, host.test)


STORIES = {
    "vim, which renames": Story(lambda host: vim(host, "backupcopy=no", "backup")),
    "vim, which writes in place": Story(lambda host: vim(host, "backupcopy=yes", "writebackup")),
    "emacs": Story(emacs),
    "sed -i": Story(lambda host: run("sed", "-i", 's/"old"/"new"/', host.test)),
    "cp": Story(lambda host: run("cp", host.new, host.test)),
    "install": Story(lambda host: run("install", "-m", "644", host.new, host.test)),
    "a shell's >": Story(lambda host: run("/bin/sh", "-c", f"cat '{host.new}' >'{host.test}'")),
    "tee": Story(lambda host: run("tee", host.test, stdin=host.new.read_text())),
    "written in two halves": Story(in_halves),
    "rsync": Story(rsync),
    "rsync --inplace": Story(lambda host: rsync(host, "--inplace")),
    "mv over it": Story(lambda host: run("mv", host.new, host.test)),
    "Ansible": Story(ansible),
    "dpkg": Story(dpkg),
    "ln -sfn of a file": Story(
        lambda host: run("ln", "-sfn", host.new, host.test), first=link_file
    ),
    "the target of a link": Story(
        lambda host: run("cp", host.new, host.files / "old.toml"), first=link_file
    ),
    "ln -sfn of the directory": Story(
        lambda host: run("ln", "-sfn", "v2", host.conf), first=link_directory
    ),
    "a ConfigMap": Story(update_config_map, first=mount_config_map),
    "another directory in its place": Story(replace_directory),
    "twenty writes in a second": Story(many_writes),
    "a file added": Story(
        lambda host: shutil.copy(host.added(), host.conf), hosts.Host.has_added, "added"
    ),
    "a file moved in": Story(
        lambda host: run("mv", host.added(), host.conf), hosts.Host.has_added, "added"
    ),
    "a file deleted": Story(
        lambda host: (host.conf / "other.toml").unlink(), hosts.Host.has_no_other, "other"
    ),
    "a file moved out": Story(
        lambda host: run("mv", host.conf / "other.toml", host.files), hosts.Host.has_no_other, "other"
    ),
    "an environment file": Story(lambda host: host.environment.write_text("FILE=new\n"), shows("FILE")),
    "a release that an environment file is in": Story(
        lambda host: run("ln", "-sfn", "new", host.releases / "current"), shows("RELEASE")
    ),
    "an environment file for a shell": Story(
        lambda host: host.shell.write_text("SHELL_FILE=$(echo new)\n"), shows("SHELL_FILE")
    ),
    "an access file": Story(lambda host: host.access.write_text("*\tallow,RULE=new\n"), shows("RULE")),
    "a text in a directory of access files": Story(
        lambda host: (host.texts / "more").write_text("127\tallow,RULE=new\n"), shows("RULE")
    ),
    "an access file and the configuration": Story(both_at_once),
}  # fmt: skip

NOTHING: list[Callable[[hosts.Host], object]] = [
    lambda host: run("touch", host.test, host.access, host.environment),
    lambda host: run("chmod", "640", host.test, host.access),
    lambda host: run("sed", "-i", "s/no such word//", host.access),
    lambda host: [
        (host.conf / name).write_text("a = \n")
        for name in (".test.toml.swp", "test.toml~", "#test.toml#", ".#test.toml", "4913", "test.toml.bak")
    ],
    lambda host: host.write("neighbour of an access file", "x"),
    lambda host: host.conf.rename(host.folder / "away").rename(host.conf),
]


@pytest.fixture
def host(tmp_path: pathlib.Path) -> hosts.Host:
    return hosts.Host(tmp_path)


class Watched(daemons.Daemon):
    """The daemon over a host's files, entered when they are watched; counts its reloads."""

    def __init__(self, host: hosts.Host, story: Story | None = None) -> None:
        super().__init__(host.folder, host.configuration())
        (self.conf / "other.toml").write_text(host.other())
        if story is not None:
            story.first(host)

    def __enter__(self) -> Self:
        super().__enter__()
        inode = f"ino:{self.conf.stat().st_ino:x} "
        try:
            daemons.until(lambda: any(inode in each for each in inotify(self.process.pid)), "the watcher")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self.quiet(1)  # it has seen what there is
        return self

    def reloads(self) -> list[str]:
        """The lines that the log has on them."""
        return [line for line in self.log if re.search(RELOADS, line)]


def inotify(parent: int) -> Iterator[str]:
    """Yield the inotify watches of a process's children (proc(5), fdinfo)."""
    for pid in daemons.children(parent):
        for file in pathlib.Path(f"/proc/{pid}/fdinfo").glob("*"):
            with contextlib.suppress(OSError):
                yield file.read_text()


@pytest.fixture
def watched(host: hosts.Host) -> Iterator[Watched]:
    with Watched(host) as daemon:
        yield daemon


QUICK = {
    "vim, which renames", "written in two halves", "mv over it", "a ConfigMap", "ln -sfn of the directory",
    "an environment file", "an access file",
}  # fmt: skip


@pytest.mark.peer
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in STORIES]
)
def test_a_change_is_taken_on_once(name: str, host: hosts.Host) -> None:
    story = STORIES[name]
    with Watched(host, story) as daemon:
        more = story.act(host)
        end = time.monotonic() + SETTLED + LATE
        daemons.until(lambda: story.arrived(host), "the change")
        late = time.monotonic() - end
        daemon.quiet(QUIET)

        found = daemon.reloads()
        assert set(found) == {f"reloaded changed={story.changed}"}
        assert len(found) <= 1 + (more.number if isinstance(more, Pauses) else 0)
        assert late < 0


def test_what_changes_nothing_is_no_reload(host: hosts.Host, watched: Watched) -> None:
    for act in NOTHING:
        act(host)
        watched.quiet(0.1)
    watched.quiet(SETTLED + SOON)

    assert watched.reloads() == []


def test_a_zone_file(host: hosts.Host, watched: Watched) -> None:
    host.zone.write_text("new.example\n")

    watched.await_log(r"^reloaded changed=other$")


def test_another_name_changes_no_service(host: hosts.Host, watched: Watched) -> None:
    host.test.rename(host.conf / "renamed.toml")

    watched.await_log(r"^reloaded changed=nothing$")
    assert host.shows("TABLE") == "old"


def test_a_mistake_is_told_once_and_then_its_cure(host: hosts.Host, watched: Watched) -> None:
    good = host.new.read_text()
    host.test.write_text(good.replace("program", "pogram"))
    watched.await_log("reload rejected")
    assert host.shows("TABLE") == "old"
    host.test.write_text(good)
    watched.await_log("^reloaded changed=test$")
    watched.quiet(QUIET)

    assert len(watched.reloads()) == 2


def test_conf_d_goes_for_a_while(host: hosts.Host, watched: Watched) -> None:
    away = host.conf.rename(host.folder / "away")
    watched.await_log("reload rejected")
    assert host.shows("TABLE") == "old"
    shutil.copyfile(host.new, away / "test.toml")
    away.rename(host.conf)
    watched.await_log("^reloaded changed=test$")
    watched.quiet(QUIET)

    assert len(watched.reloads()) == 2


def test_a_file_that_was_missing_is_taken_on_when_it_comes(host: hosts.Host, watched: Watched) -> None:
    """The configuration names it first; nothing else changes afterwards."""
    later = host.files / "later/environment"
    host.test.write_text(host.new.read_text().replace(str(host.environment), str(later)))
    watched.await_log("reload rejected")
    later.parent.mkdir()
    later.write_text("FILE=new\n")
    watched.await_log("^reloaded changed=test$")

    assert host.shows("FILE") == "new"
