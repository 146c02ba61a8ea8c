"""Golden pairs: broken/NN-name.toml, and in NN-name.expected what is said of it, place by place.

The files are one conf.d, so that every problem is found in the presence of all the others.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tcpdconf.cli import check as checks
from tcpdconf.config import problems
from tcpdconf.config.load import load

HERE = Path(__file__).parent
FILES = sorted(Path("broken").joinpath(file.name) for file in (HERE / "broken").glob("*.toml"))


@pytest.fixture(scope="module")
def found() -> tuple[problems.Problem, ...]:
    before = Path.cwd()
    os.chdir(HERE)  # the paths shown are those given
    try:
        with pytest.raises(problems.ConfigError) as error:
            load.load("broken", further=checks.files)
    finally:
        os.chdir(before)
    return error.value.problems


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_problem_of_a_file_is_shown_at_its_place(
    file: Path, found: tuple[problems.Problem, ...]
) -> None:
    expected = (HERE / file).with_suffix(".expected").read_text(encoding="utf-8")

    assert expected == problems.render(problem for problem in found if problem.file == str(file))


def test_the_command_shows_the_problems_of_all_files_in_one_run() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tcpdconf", "check", "broken"],
        cwd=HERE, capture_output=True, encoding="utf-8", check=False,
        env={**os.environ, "PYTHONUTF8": "1"},
    )  # fmt: skip
    texts = [(HERE / file).with_suffix(".expected").read_text(encoding="utf-8") for file in FILES]
    *lines, summary = result.stdout.splitlines(keepends=True)

    assert len(FILES) >= 30
    assert "\n".join([text for text in texts if text] + [summary]) == "".join([*lines, summary])
    assert summary.startswith("broken: ")
    assert (result.returncode, result.stderr) == (78, "")


def test_no_problem_is_told_in_the_words_of_a_library(found: tuple[problems.Problem, ...]) -> None:
    text = problems.render(found)

    assert [word for word in ("Input should", "pydantic", "https://", "Traceback") if word in text] == []


def test_every_caret_stands_below_a_key_or_a_value(found: tuple[problems.Problem, ...]) -> None:
    """A place between two words would be a miscounted column."""
    for problem in found:
        if problem.line and problem.code not in {"syntax", "encoding"}:
            meant = problem.source[problem.column - 1 :][: problem.length]
            before = problem.source[: problem.column - 1][-1:]

            assert meant == meant.strip() != ""
            assert not (before.isalnum() and meant[0].isalnum())
