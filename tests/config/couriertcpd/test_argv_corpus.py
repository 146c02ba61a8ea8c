"""Command lines that somebody really has, and those of which the answers of the real program are known."""

import re
from pathlib import Path
from typing import Any

import pytest
from support import peers

from tcpdconf.config import problems, render
from tcpdconf.config.couriertcpd import parse
from tcpdconf.config.load import load

# what only the host of the command line has: its users, its files
OF_THE_HOST = {"unknown-user", "unknown-group", "missing-file"}
# Options that the program of one column does not have: newer, or older than it.
NOT_EVERYWHERE = re.compile(r"Invalid option: -(noidentlookup$|haproxy)")
GOLDEN = {
    "{P1}": "5001", "{P2}": "5002", "{P3}": "5003", "{DIR}": "/dir", "{CWD}": "/dir",
    "{ACCESS}": "/dir/access.dat", "{OUT}": "/dir/out", "{DUMP}": "/bin/true",
}  # fmt: skip
# refused when it is run, by what the host has not
LATER = {"argv-user-unknown", "argv-group-unknown", "stderr-file-bad", "pid-port-in-use"}
# refused before the parent ends, where couriertcpd's exits 0 first
EARLIER = {"pid-bad-maxprocs", "pid-bad-listen"}


def parsed(words: list[str], *, exact: bool, directory: str = "/") -> parse.CommandLine | str:
    """A command line, or why it is refused."""
    try:
        return parse.parse(words, exact=exact, directory=directory)
    except parse.CommandLineError as error:
        return str(error)


def answers(entry: dict[str, Any]) -> list[str]:
    """Return the answer of the real programs to a command line whose options they have."""
    return [said for said in entry["observed"].values() if not NOT_EVERYWHERE.search(said)]


@pytest.mark.peer
@pytest.mark.parametrize("exact", [True, False])
def test_every_known_command_line_becomes_a_configuration_or_the_error_of_couriertcpd(
    tmp_path: Path, exact: bool
) -> None:
    entries = peers.shared("corpus/argv.json")
    assert len(entries) > 70
    for entry in entries:
        found, said = parsed(entry["argv"][1:], exact=exact), answers(entry)
        if isinstance(found, str):
            assert any(line.startswith(f"exit 1: {found}") for line in said), entry["id"]
            continue
        assert not any(line.startswith("exit 1") for line in said), entry["id"]
        assert (found.service is None) == said[0].startswith("control form"), entry["id"]
        if found.service is not None:
            text = render.service("test", found.service, found.notes)
            (tmp_path / "a.toml").write_text(text, encoding="utf-8")
            assert errors(tmp_path) <= OF_THE_HOST, entry["id"]
            assert load.load(tmp_path, to_serve=False).config.services == {"test": found.service}


def errors(folder: Path) -> set[str]:
    """Return the problems that `check` finds in a configuration."""
    try:
        load.load(folder)
    except problems.ConfigError as error:
        return {problem.code for problem in error.problems if problem.severity == "error"}
    return set()


def words_of(case: dict[str, Any]) -> list[str]:
    words = case.get("raw") or [*case["opts"], case["ports"], *case["prog"]]
    for name, value in GOLDEN.items():
        words = [word.replace(name, value) for word in words if word is not None]
    return words


@pytest.mark.peer
def test_couriertcpd_refuses_the_same_command_lines() -> None:
    expected = peers.shared("golden/expected.json")["cases"]
    cases = peers.shared("golden/cases.json")
    assert len(cases) > 300
    for case in cases:
        seen = expected[case["id"]]
        found = parsed(words_of(case), exact=True, directory="/dir")
        if not isinstance(found, str):
            assert seen["hard"]["exit"] != "nonzero" or case["id"] in LATER, case["id"]
            continue
        assert seen["hard"]["exit"] == "nonzero" or case["id"] in EARLIER, case["id"]
        if case["group"] in {"argv", "ports"}:
            assert seen["soft"]["stderr"] == [found.replace("couriertcpd", "{BIN}")]
