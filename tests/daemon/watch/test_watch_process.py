"""Tests the changes that the watcher reports, and those that it does not."""

import ctypes
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from support import peers
from support.running import watchers

from tcpdconf.config.model.service import Config
from tcpdconf.daemon.messages.watcher import Polling, Watching
from tcpdconf.daemon.watch import path_dependencies
from tcpdconf.daemon.watch import process as watch

pytestmark = pytest.mark.slow

SETTLE = 0.3  # seconds without a change after which it is told
QUIET = 0.8  # seconds after which nothing more is to be expected; watchdog keeps a move for half a second

CLONE_NEWUSER = 0x10000000  # linux/sched.h


class Place:
    """A conf.d with two files; elsewhere a file, one behind symbolic links, a directory of texts."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.conf = folder / "conf.d"
        self.conf.mkdir()
        (self.conf / "10.toml").write_text("a = 1\n")
        (self.conf / "20.toml").write_text("b = 1\n")
        self.access = folder / "etc" / "access"
        self.access.parent.mkdir()
        self.access.write_text("one\n")
        versions = folder / "versions"
        for name in ("v1", "v2"):
            (versions / name).mkdir(parents=True)
            (versions / name / "file").write_text(f"{name}\n")
        (versions / "now").symlink_to("v1")
        self.linked = folder / "linked"
        self.linked.symlink_to("versions/now/file")
        self.texts = folder / "texts"
        self.texts.mkdir()
        (self.texts / "default").write_text("*\tallow\n")
        self.wanted = path_dependencies.Wanted(
            (str(self.conf),),
            (str(self.access), str(self.linked), str(self.texts), str(folder / "later/file")),
        )


@pytest.fixture
def place(tmp_path: pathlib.Path) -> Place:
    return Place(tmp_path)


def rename_over(path: pathlib.Path, text: str) -> None:
    new = path.with_name(".new")
    new.write_text(text)
    new.rename(path)


def swap_link(place: Place) -> None:
    new = place.folder / "versions/new"
    new.symlink_to("v2")
    new.rename(place.folder / "versions/now")


def replace_directory(place: Place) -> None:
    shutil.copytree(place.conf, place.folder / "new")
    (place.folder / "new/10.toml").write_text("a = 2\n")
    place.conf.rename(place.folder / "old")
    (place.folder / "new").rename(place.conf)


def in_halves(path: pathlib.Path) -> None:
    with path.open("w") as file:
        file.write("half")
        file.flush()
        time.sleep(0.8)  # longer than it takes to settle
        file.write(", and the rest")


CHANGES: dict[str, tuple[Callable[[Place], object], list[str]]] = {
    "written": (lambda p: (p.conf / "10.toml").write_text("a = 2\n"), ["conf.d/10.toml"]),
    "renamed over": (lambda p: rename_over(p.conf / "10.toml", "a = 2\n"), ["conf.d/10.toml"]),
    "deleted": (lambda p: (p.conf / "20.toml").unlink(), ["conf.d", "conf.d/20.toml"]),
    "added": (lambda p: (p.conf / "30.toml").write_text(""), ["conf.d", "conf.d/30.toml"]),
    "moved": (
        lambda p: (p.conf / "20.toml").rename(p.conf / "21.toml"),
        ["conf.d", "conf.d/20.toml", "conf.d/21.toml"],
    ),
    "in two halves": (lambda p: in_halves(p.conf / "10.toml"), ["conf.d/10.toml"]),
    "access file in two halves": (lambda p: in_halves(p.access), ["etc/access"]),
    "access file deleted": (lambda p: p.access.unlink(), ["etc/access"]),
    "directory above moved": (lambda p: p.access.parent.rename(p.folder / "gone"), ["etc/access"]),
    "directory replaced": (replace_directory, ["conf.d/10.toml"]),
    "link on the way swapped": (swap_link, ["linked"]),
    "linked file written": (lambda p: (p.folder / "versions/v1/file").write_text("other"), ["linked"]),
    "link deleted": (lambda p: p.linked.unlink(), ["linked"]),
    "text added": (lambda p: (p.texts / "more").write_text("192.0.2\tdeny\n"), ["texts", "texts/more"]),
    "text deleted": (lambda p: (p.texts / "default").unlink(), ["texts", "texts/default"]),
    "appears with its directory": (
        lambda p: shutil.copytree(p.folder / "versions/v2", p.folder / "later"),
        ["later/file"],
    ),
}

NO_CHANGES: list[Callable[[Place], object]] = [
    lambda p: os.utime(p.conf / "10.toml"),
    lambda p: (p.conf / "10.toml").chmod(0o600),
    lambda p: rename_over(p.conf / "10.toml", "a = 1\n"),
    lambda p: (p.conf / ".10.toml.swp").write_text("x"),
    lambda p: (p.conf / "10.toml~").write_text("x"),
    lambda p: (p.conf / "#10.toml#").write_text("x"),
    lambda p: (p.conf / "README").write_text("x"),
    lambda p: (p.texts / ".default.swp").write_text("x"),
    lambda p: (p.access.parent / "other").write_text("x"),
    lambda p: (p.folder / "versions/v2/file").write_text("not linked"),
    lambda p: p.conf.rename(p.folder / "away").rename(p.conf),
]


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_told_once(name: str, place: Place) -> None:
    change, told = CHANGES[name]
    with watchers.Watcher(place.wanted) as watcher:
        change(place)

        assert watcher.changed() == [str(place.folder / path) for path in told]
        assert watcher.changed(QUIET) is None


def test_what_changes_no_content_is_not_told(place: Place) -> None:
    with watchers.Watcher(place.wanted) as watcher:
        for change in NO_CHANGES:
            change(place)

        assert watcher.changed(QUIET) is None


def test_many_writes_are_one_change(place: Place) -> None:
    with watchers.Watcher(place.wanted, settle=1) as watcher:  # within which a busy machine goes on writing
        for number in range(20):
            (place.conf / "10.toml").write_text(f"a = {number + 5}\n")
            place.access.write_text(f"{number}\n")
            time.sleep(0.05)

        assert watcher.changed() == [str(place.conf / "10.toml"), str(place.access)]
        assert watcher.changed(1 + QUIET) is None


def test_a_directory_that_is_replaced_is_watched_further(place: Place) -> None:
    with watchers.Watcher(place.wanted) as watcher:
        for _ in range(3):
            replace_directory(place)
            assert watcher.changed() == [str(place.conf / "10.toml")]
            (place.conf / "10.toml").write_text("a = 1\n")
            assert watcher.changed() == [str(place.conf / "10.toml")]
            shutil.rmtree(place.folder / "old")


def test_what_was_changed_while_it_was_read_is_told(place: Place) -> None:
    since = time.time()
    (place.conf / "10.toml").write_text("a = 2\n")
    with watchers.Watcher(place.wanted, since=since - 0.01) as watcher:
        assert str(place.conf / "10.toml") in (watcher.changed() or [])
        assert watcher.changed(QUIET) is None


def test_a_file_is_told_that_was_read_in_another_state(place: Place) -> None:
    """It is as old as what was read, and says what the watcher has seen before."""
    read = {str(place.access): (*path_dependencies.signature(str(place.access))[:4], 0)}
    with watchers.Watcher(place.wanted, read=read) as watcher:
        assert watcher.changed() == [str(place.access)]
        watcher.watch(place.wanted)  # what was told counts as read until it changes again
        assert watcher.changed(QUIET) is None
        place.access.write_text("one\n")
        assert watcher.changed(QUIET) is None
        watcher.watch(place.wanted)
        assert watcher.changed() == [str(place.access)]


def test_what_a_worker_has_read_in_another_state_is_told(place: Place) -> None:
    path = str(place.access)
    time.sleep(0.1)  # its signature counts once the clock has gone on
    read = path_dependencies.signature(path)
    with watchers.Watcher(place.wanted) as watcher:
        watch.tell_read(watcher.post, {path: read})
        assert watcher.changed(QUIET) is None
        watch.tell_read(watcher.post, {path: (*read[:4], 0)})
        assert watcher.changed() == [path]
        assert watcher.changed(QUIET) is None


def test_files_from_the_future_are_told_once(place: Place) -> None:
    """The clock was set back, or they are on a host whose clock is ahead: each reload comes before them."""
    with watchers.Watcher(place.wanted, since=0) as watcher:
        assert watcher.changed() is not None
        for _ in range(3):
            watcher.watch(place.wanted)
            assert watcher.changed(QUIET) is None


def test_other_paths_from_now_on(place: Place) -> None:
    with watchers.Watcher(place.wanted) as watcher:
        watcher.watch(path_dependencies.Wanted((str(place.conf),)))
        place.access.write_text("two\n")
        assert watcher.changed(QUIET) is None
        (place.conf / "10.toml").write_text("a = 2\n")
        assert watcher.changed() == [str(place.conf / "10.toml")]


def test_without_inotify_it_polls(place: Place) -> None:
    with watchers.Watcher(place.wanted, poll=True) as watcher:
        assert watcher.said == [Watching(polling=True)]
        (place.conf / "10.toml").write_text("a = 2\n")

        assert watcher.changed() == [str(place.conf / "10.toml")]
        assert watcher.changed(QUIET) is None


def use_up_inotify() -> None:
    """Let this process have no inotify instances: in a user namespace of its own their number can be set."""
    assert ctypes.CDLL(None).unshare(CLONE_NEWUSER) == 0
    pathlib.Path("/proc/sys/user/max_inotify_instances").write_text("0")


def test_when_inotify_runs_out_it_says_so_once_and_polls(place: Place) -> None:
    peers.need_kernel_settings()
    with watchers.Watcher(place.wanted, first=use_up_inotify) as watcher:
        why = "inotify instance limit reached"
        assert watcher.said == [Polling(why), Watching(polling=True)]
        watcher.watch(place.wanted)
        assert watcher.said == [Watching(polling=True)]
        (place.conf / "10.toml").write_text("a = 2\n")
        assert watcher.changed() == [str(place.conf / "10.toml")]


def test_ten_thousand_paths_fit_a_message(place: Place) -> None:
    """They come at once, as one directory: a slow machine could have let the first of them settle."""
    many = [f"{place.folder}/{'x' * 100}/{number}" for number in range(10_000)]
    made = place.folder / "made"
    made.mkdir()
    for number in range(10_000):
        (made / str(number)).touch()
    with watchers.Watcher(path_dependencies.Wanted((), tuple(many))) as watcher:
        made.rename(place.folder / ("x" * 100))

        assert watcher.changed(6 * watchers.SECONDS) == sorted(many)


def test_watchdog_is_imported_for_the_watcher_alone_and_without_threads() -> None:
    """The supervisor forks, and a daemon that does not watch pays nothing."""
    code = (
        "import os, sys; from tcpdconf.daemon import run; from tcpdconf.daemon.watch import process\n"
        "assert 'watchdog' not in sys.modules\n"
        "process.preload()\n"
        "assert 'watchdog.observers.inotify' in sys.modules\n"
        "assert len(os.listdir('/proc/self/task')) == 1\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=6 * watchers.SECONDS)


def test_paths() -> None:
    config = Config.model_validate(
        {
            "dns_chains": {"c": {"lists": [{"zone_file": "/zone", "display_zone": "z", "action": "block"}]}},
            "services": {
                "a": {
                    "program": ["/bin/true"],
                    "listeners": [{"port": 25}],
                    "access": [{"file": "/access"}, {"rules": []}],
                    "environment_files": ["/env", {"path": "/shell", "shell": True}],
                    "dns_lists": ["c"],
                },
                "off": {
                    "enabled": False,
                    "program": ["/bin/true"],
                    "listeners": [{"port": 26}],
                    "access": [{"file": "/not"}],
                },
            },
        }
    )
    assert watch.paths(config, "/conf.d") == path_dependencies.Wanted(
        ("/conf.d",), ("/access", "/env", "/shell", "/zone")
    )
