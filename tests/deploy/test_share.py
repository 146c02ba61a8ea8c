"""Tests the files of share for shells and man(1), as these use them."""

import os
import pathlib
import pty
import re
import select
import subprocess
import sys
import time

import pytest
from support import peers
from support.running import daemons

pytestmark = pytest.mark.peer

COMMANDS = pathlib.Path(sys.executable).parent  # where tcpdconf is
SHARE = pathlib.Path(__file__).parents[2] / "share"
MANUALS = sorted((SHARE / "man").glob("man?/*"))
# an interactive shell without anybody's settings, and what makes it know our completion
SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], ". {share}/bash-completion/completions/{name}"),
    "zsh": (
        ["zsh", "-f", "-i"],
        "fpath=({share}/zsh/site-functions $fpath); autoload -U compinit; compinit -D",
    ),
}


class Terminal:
    """A shell at a terminal, and what it has shown so far."""

    def __init__(self, command: list[str], folder: pathlib.Path) -> None:
        self._end, theirs = pty.openpty()
        path = f"{COMMANDS}:{os.environ['PATH']}"
        environment = {"PATH": path, "HOME": str(folder), "TERM": "dumb", "PS1": "ready> "}
        self._process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
        os.close(theirs)
        self._shown = ""

    def type(self, keys: str, *, until: str) -> str:
        """Type, and wait for something new to be shown; all that is new."""
        before = len(self._shown)
        os.write(self._end, keys.encode())
        end = time.monotonic() + daemons.SECONDS
        while until not in self._shown[before:]:
            assert select.select([self._end], [], [], max(0.0, end - time.monotonic()))[0], self._shown
            self._shown += os.read(self._end, 65536).decode()
        return self._shown[before:]

    def close(self) -> None:
        """End the shell."""
        self._process.kill()
        self._process.wait()
        os.close(self._end)


@pytest.mark.parametrize(
    ("name", "typed", "shown"),
    [
        ("tcpdconf", "tcpdconf exp", "tcpdconf explain "),
        ("tcpdconf", "tcpdconf check --rep", "tcpdconf check --replace "),
        ("tcpdconf", "tcpdconf show --format t", "tcpdconf show --format toml "),
        ("tcpdconf", "tcpdconf check con", "tcpdconf check conf.d"),
        ("tcpdconf-migrate", "tcpdconf-migrate runn", "tcpdconf-migrate running "),
    ],
)
@pytest.mark.parametrize("shell", SHELLS)
def test_tab_completes(shell: str, name: str, typed: str, shown: str, tmp_path: pathlib.Path) -> None:
    peers.need(shell)
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "confusing").touch()
    command, prepare = SHELLS[shell]
    terminal = Terminal(command, tmp_path)
    try:
        terminal.type(prepare.format(share=SHARE, name=name) + "; echo prep''ared\n", until="prepared")
        line = terminal.type(f"{typed}\t", until=shown.removeprefix(typed))
    finally:
        terminal.close()

    assert shown in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\x07]", "", line)


def line_after_tab(shell: str, typed: str, shown: str, folder: pathlib.Path) -> str:
    """The line that a shell shows after TAB, without what moves the cursor."""
    command, prepare = SHELLS[shell]
    terminal = Terminal(command, folder)
    try:
        terminal.type(prepare.format(share=SHARE, name="tcpdconf") + "; echo prep''ared\n", until="prepared")
        line = terminal.type(f"{typed}\t", until=shown)
    finally:
        terminal.close()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\x07]", "", line)


SERVICES = """[services.imap-ssl]
program = ["/bin/cat"]
listeners = [{ port = 993 }]

[services.smtp]
enabled = false
"""
TYPED = [
    ("tcpdconf explain --conf 'the conf.d' i", "imap-ssl"),
    ("tcpdconf run --conf='the conf.d' --only i", "imap-ssl"),
    ("tcpdconf run 'the conf.d' --only i", "imap-ssl"),
]


def broken(folder: pathlib.Path) -> None:
    """A directory of which one file is right."""
    (folder / "the conf.d").mkdir()
    (folder / "the conf.d/a.toml").write_text(SERVICES)
    (folder / "the conf.d/b.toml").write_text("[services.x\n[[[\n")


@pytest.mark.parametrize(("typed", "wanted"), TYPED)
@pytest.mark.parametrize("shell", SHELLS)
def test_tab_completes_services(shell: str, typed: str, wanted: str, tmp_path: pathlib.Path) -> None:
    peers.need(shell)
    broken(tmp_path)
    assert f"{typed[:-1]}{wanted} " in line_after_tab(shell, typed, wanted[1:] + " ", tmp_path)


@pytest.mark.parametrize(("typed", "wanted"), TYPED)
def test_fish_completes_services(typed: str, wanted: str, tmp_path: pathlib.Path) -> None:
    peers.need("fish")
    broken(tmp_path)
    file = SHARE / "fish/vendor_completions.d/tcpdconf.fish"
    environment = {"PATH": f"{COMMANDS}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    result = subprocess.run(
        ["fish", "--no-config", "-c", f'source {file}; complete --do-complete "{typed}"'],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert [each.split("\t")[0] for each in result.stdout.splitlines()] == [wanted]
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("tcpdconf exp", ["explain"]),
        ("tcpdconf check --format ", ["github", "json", "text"]),
        ("tcpdconf-migrate s", ["script"]),
    ],
)
def test_fish_completes(line: str, wanted: list[str]) -> None:
    peers.need("fish")
    file = SHARE / f"fish/vendor_completions.d/{line.partition(' ')[0]}.fish"
    result = subprocess.run(
        ["fish", "--no-config", "-c", f"source {file}; complete --do-complete '{line}'"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert sorted(each.split("\t")[0] for each in result.stdout.splitlines()) == wanted


@pytest.mark.parametrize("page", MANUALS, ids=lambda page: page.name)
def test_manual_pages_are_right_for_troff(page: pathlib.Path) -> None:
    peers.need("groff", "mandoc")
    for command in (["groff", "-ww", "-man", "-Tutf8", "-z"], ["mandoc", "-T", "lint", "-W", "error"]):
        result = subprocess.run([*command, str(page)], capture_output=True, text=True, check=False)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_man_shows_them() -> None:
    peers.need("man")
    environment = {"PATH": os.environ["PATH"], "MANWIDTH": "80", "LC_ALL": "C.UTF-8"}
    shown = {
        page.name: subprocess.run(
            ["man", "-l", page], env=environment, capture_output=True, text=True, check=True
        )
        for page in MANUALS
    }
    assert {name: result.stderr for name, result in shown.items()} == dict.fromkeys(shown, "")
    assert "tcpdconf explain" in shown["tcpdconf.8"].stdout
    assert "[services.NAME.limits]" in shown["tcpdconf.toml.5"].stdout
    assert "--add-to-ports" in shown["tcpdconf-migrate.1"].stdout
