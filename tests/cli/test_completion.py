"""`tcpdconf --complete-services`, which shells ask for names."""

import pathlib
import subprocess
import sys

import pytest
from support.running import daemons, reloads

from tcpdconf.cli import main as cli


def offered(*words: str, runtime: pathlib.Path) -> list[str]:
    """The names that a shell is told; nothing else may be."""
    command = [sys.executable, "-m", "tcpdconf", "--complete-services", *words]
    done = subprocess.run(
        command, env={"RUNTIME_DIRECTORY": str(runtime)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_the_running_daemon_is_asked(tmp_path: pathlib.Path) -> None:
    """The host of the tests has no configuration of its own."""
    both = reloads.service(daemons.free_port(), name="b") + reloads.service(daemons.free_port(), name="a")
    with reloads.Daemon(tmp_path, both) as daemon:
        run = pathlib.Path(daemon.runtime)
        assert offered("explain", runtime=run) == ["a", "b"]
        assert offered("explain", "--runtime-dir", str(run), runtime=tmp_path) == ["a", "b"]
        assert offered("explain", "--conf", str(tmp_path / "none"), runtime=run) == []
        assert offered("explain", "--conf", "=", str(daemon.conf), runtime=tmp_path) == ["a", "b"]  # bash


@pytest.mark.parametrize(
    "words", [[], ["explain"], ["nonsense"], ["explain", "--conf"], ["run", "'"], ["run", "--only"]]
)
def test_nothing_is_said_of_what_is_wrong(words: list[str], tmp_path: pathlib.Path) -> None:
    assert offered(*words, runtime=tmp_path) == []


def test_odd_names_are_not_offered(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("good", "$(touch x)", "a b", "-x", "o'k")
    text = "".join(f'[services."{name}"]\n' for name in names)
    conf = daemons.configure(tmp_path, text + "[services]\n")
    assert cli.main(["--complete-services", "run", str(conf), "--only"]) == 0
    assert capsys.readouterr().out == "good\n"


def test_it_imports_nothing_slow(tmp_path: pathlib.Path) -> None:
    conf = daemons.configure(tmp_path, '[services.a]\nprogram = ["/bin/cat"]\n')
    code = (
        "import sys; from tcpdconf.cli import main; "
        f"main.main(['--complete-services', 'run', {str(conf)!r}]); "
        "sys.exit('pydantic' in sys.modules or 'tree_sitter' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
