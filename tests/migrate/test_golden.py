import pathlib

import pytest
from support.courier import goldencases

CASES = sorted(goldencases.FOLDER.glob("*.txt"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_command_line_becomes_what_is_written_there(
    path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, expected = goldencases.read(path)

    assert goldencases.run(case, monkeypatch) == expected


def test_every_form_is_shown() -> None:
    forms = {goldencases.read(path)[0].arguments[0] for path in CASES}
    assert forms == {"argv", "courier", "script", "running"}
