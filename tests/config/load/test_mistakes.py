"""Golden mistakes: a conf.d as somebody wrote it, what is said of it, what the hints make of it.

    ==> smtp.toml              a file of conf.d, up to the next one
    umask = 22
    ----------
    ...                        what `check` prints, without its summary
    ----------
    -umask = 22                the lines that differ after the edits of all errors, if there are any
    +umask = "022"

`python tests/config/load/test_mistakes.py` writes all of them anew, from their own input. @DIR@ stands for
the folder that has conf.d in it.
"""

import dataclasses
import difflib
import pathlib
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import chdir
from typing import Final

import pytest

from tcpdconf.cli import check as checks
from tcpdconf.config import problems
from tcpdconf.config.load import load

FOLDER: Final = pathlib.Path(__file__).parent / "mistakes"
CASES: Final = sorted(FOLDER.glob("*.txt"))
LINE: Final = "-" * 10 + "\n"


@dataclasses.dataclass(frozen=True)
class Case:
    """The files of a case, what is said, and what its edits change."""

    files: dict[str, str]
    said: str
    changed: str


def read(path: pathlib.Path) -> Case:
    given, said, changed = path.read_text(encoding="utf-8").split(LINE)
    _, *rest = re.split(r"^==> (.*)\n", given, flags=re.MULTILINE)
    return Case(dict(zip(rest[::2], rest[1::2], strict=True)), said, changed)


def write(files: dict[str, str], folder: pathlib.Path) -> None:
    for name, text in files.items():
        path = (folder / "conf.d" / name).resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("@DIR@", str(folder)), encoding="utf-8")


def found(folder: pathlib.Path) -> list[problems.Problem]:
    with chdir(folder):
        try:
            loaded = load.load("conf.d", further=checks.files)
            return [*loaded.warnings, *checks.rules(loaded)]
        except problems.ConfigError as error:
            return list(error.problems)


def edit(folder: pathlib.Path, all_found: Iterable[problems.Problem]) -> list[str]:
    """Do what the hints say, as far as edits say it; the lines that differ."""
    lines = []
    by_file: dict[str, list[problems.Edit]] = {}
    for problem in all_found:
        by_file.setdefault(problem.file, []).extend(problem.edits)
    for name, edits in by_file.items():
        path = folder / name
        if not edits:
            continue
        before = path.read_text(encoding="utf-8")
        after = problems.edited(before, edits)
        path.write_text(after, encoding="utf-8")
        diff = list(difflib.unified_diff(before.split("\n"), after.split("\n"), lineterm="", n=0))
        lines += [line for line in diff[2:] if not line.startswith("@@")]
    return [line.replace(str(folder), "@DIR@") for line in lines]


def answer(case: Case, folder: pathlib.Path) -> Case:
    write(case.files, folder)
    told = found(folder)
    said = problems.render(told).replace(str(folder), "@DIR@")
    said = re.sub(r"(@DIR@[^\n]*\n[ \d]*\|)[ ^]*\n", r"\1\n", said)  # marks are as long as the folder's name
    return Case(case.files, said, "".join(f"{line}\n" for line in edit(folder, told)))


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    """A folder with a short name: a message shows 60 characters of a value."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        yield pathlib.Path(name)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_mistake_is_told_with_its_place_cause_and_cure(path: pathlib.Path, folder: pathlib.Path) -> None:
    case = read(path)

    assert answer(case, folder) == case


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_following_the_hints_once_leaves_nothing_that_they_were_about(
    path: pathlib.Path, folder: pathlib.Path
) -> None:
    case = read(path)
    write(case.files, folder)
    told = found(folder)
    left = {(problem.key, problem.text) for problem in told if not problem.edits}

    edit(folder, told)

    again = [problem for problem in found(folder) if problem.severity == "error"]
    assert [str(problem) for problem in again if (problem.key, problem.text) not in left] == []


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_every_hint_is_right_alone(path: pathlib.Path, folder: pathlib.Path) -> None:
    case = read(path)
    write(case.files, folder)
    told = found(folder)

    for problem in told:
        if problem.edits:
            write(case.files, folder)
            edit(folder, [problem])
            rest = {(each.key, each.text) for each in told if each is not problem}
            new = [each for each in found(folder) if each.severity == "error"]
            assert [str(each) for each in new if (each.key, each.text) not in rest] == []


def test_there_are_a_hundred() -> None:
    assert len(CASES) >= 100


def main() -> None:
    for path in CASES:
        case = read(path)
        with tempfile.TemporaryDirectory() as folder:
            told = answer(case, pathlib.Path(folder))
        files = "".join(f"==> {name}\n{text}" for name, text in told.files.items())
        path.write_text(LINE.join([files, told.said, told.changed]), encoding="utf-8")


if __name__ == "__main__":
    main()
