"""The drop-in against what the real couriertcpd was seen to do; .ci/run goes through all of the cases."""

import pathlib
import subprocess
import sys

import pytest
from support import peers

pytestmark = [pytest.mark.peer, pytest.mark.slow]

TESTS = pathlib.Path(__file__).parents[1]
EXCEPTIONS = TESTS / "golden_exceptions.txt"
MAKEDAT = "/usr/lib/courier/makedat"


@pytest.mark.parametrize("group", ["signals", "local", "deny"])
def test_golden_cases_agree(group: str) -> None:
    peers.need_root()
    peers.need("cc", MAKEDAT)
    peers.beside("golden/compare.py")
    drop_in = f"{sys.executable} -m tcpdconf.couriertcpd"
    done = subprocess.run(
        [sys.executable, TESTS / "golden_compare.py", "--bin", drop_in, "--group", group,
         "--except", EXCEPTIONS, "--quick", "--jobs", "4"],
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_exception_is_a_case_and_has_its_reason() -> None:
    cases = {case["id"] for case in peers.shared("golden/cases.json")}
    lines = [line.split(" ", 1) for line in EXCEPTIONS.read_text().splitlines() if line[:1] != "#"]

    assert {line[0] for line in lines} <= cases
    assert all(len(line) == 2 for line in lines)
