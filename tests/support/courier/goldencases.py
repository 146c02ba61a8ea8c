"""Golden pairs of tcpdconf-migrate: a command with its files, and everything that it says.

    script start.sh                  the arguments
    ==> start.sh                     a file, up to the next one
    PORT=25
    ----------
    exit 1                           unless it is 0
    ----------
    ...                              standard error: notes and next steps
    ----------
    ...                              standard output: TOML

`python tests/support/courier/goldencases.py` writes all of them anew, from their own input.

Files are made in a folder of their own, in which the command runs; @DIR@ stands for its path. A name that
ends in `/` makes an empty folder. Processes are files `==> proc/PID`, in which JSON says what /proc would.
"""

import io
import json
import os
import pathlib
import re
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from typing import Final, NamedTuple

import pytest

from tcpdconf_migrate import __main__, processes

FOLDER: Final = pathlib.Path(__file__).parents[2] / "migrate/golden"
LINE: Final = "-" * 10 + "\n"


class Case(NamedTuple):
    """The arguments, and the files by their names."""

    arguments: list[str]
    files: dict[str, str]


class Said(NamedTuple):
    """Holds the result of a command."""

    status: int
    notes: str
    toml: str


def read(path: pathlib.Path) -> tuple[Case, Said]:
    """A case and what is expected of it."""
    given, status, notes, toml = path.read_text(encoding="utf-8").split(LINE)
    command, *rest = re.split(r"^==> (.*)\n", given, flags=re.MULTILINE)
    files = dict(zip(rest[::2], rest[1::2], strict=True))
    said = Said(int(status.removeprefix("exit ") or 0), notes, toml)
    return Case(shlex.split(command), files), said


def written(case: Case, said: Said) -> str:
    """The text of a golden file."""
    files = "".join(f"==> {name}\n{text}" for name, text in case.files.items())
    status = f"exit {said.status}\n" if said.status else ""
    return LINE.join([shlex.join(case.arguments) + "\n" + files, status, said.notes, said.toml])


def run(case: Case, monkeypatch: pytest.MonkeyPatch) -> Said:
    """Run a case as the command does."""
    with _folder(case.files) as folder, redirect_stdout(io.StringIO()) as out:
        monkeypatch.setattr(processes, "PROC", f"{folder}/proc")
        with redirect_stderr(io.StringIO()) as err, chdir(folder):
            status = __main__.main([word.replace("@DIR@", folder) for word in case.arguments])
    return Said(status, *(stream.getvalue().replace(folder, "@DIR@") for stream in (err, out)))


@contextmanager
def _folder(files: dict[str, str]) -> Iterator[str]:
    """Their folder; its path has always the same length, so that lines are wrapped in the same places."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        for name, text in files.items():
            path = pathlib.Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith("/"):
                path.mkdir()
            elif name.startswith("proc/"):
                process(path, json.loads(text))
            else:
                path.write_text(text.replace("@DIR@", folder), encoding="utf-8")
        yield folder


def process(path: pathlib.Path, said: dict[str, str | int | list[str] | dict[str, str]]) -> None:
    """A process as proc(5) shows it: `limits` by their names, `stderr` is where descriptor 2 leads."""
    path.mkdir()
    words, environment = said.get("words", []), said.get("environment", {})
    assert isinstance(words, list)
    assert isinstance(environment, dict)
    lines = [f"{name}={value}" for name, value in environment.items()]
    (path / "cmdline").write_text("".join(f"{word}\0" for word in words))
    (path / "environ").write_text("".join(f"{line}\0" for line in lines))
    ids = "\t".join([str(said.get("uid", 0))] * 4)
    status = (
        f"PPid:\t{said.get('parent', 1)}\nUid:\t{ids}\nGid:\t{ids}\nUmask:\t{said.get('umask', '0022')}\n"
    )
    (path / "status").write_text(status)
    limits = {"Max address space": str(said.get("address_space", "unlimited"))}
    more = said.get("limits", {})
    assert isinstance(more, dict)
    rows = [f"{name:<25} {limit:<20} {limit:<20} bytes\n" for name, limit in (limits | more).items()]
    (path / "limits").write_text(f"{'Limit':<25} Soft\n{''.join(rows)}")
    (path / "fd").mkdir()
    os.symlink(str(said.get("stderr", "/dev/pts/0")), path / "fd/2")
    os.symlink(str(said.get("directory", "/")), path / "cwd")


def main() -> None:
    """Write down what every case says now, for somebody to read the difference."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for path in sorted(FOLDER.glob("*.txt")):
            case, _ = read(path)
            path.write_text(written(case, run(case, monkeypatch)), encoding="utf-8")


if __name__ == "__main__":
    main()
