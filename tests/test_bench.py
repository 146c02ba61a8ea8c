"""The measurements run and say what they should; how fast anything is does not matter here."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest
from support import peers

from bench import figures, starts
from tcpdconf.daemon.process import spawn

THREE = {"tcpdconf", "couriertcpd", "tcpserver"}
TOP = pathlib.Path(__file__).parent.parent


def figure(better: figures.Better, **targets: float) -> figures.Figure:
    metric = figures.Metric("case", "us", better, targets)
    return figures.Figure(metric, {"tcpdconf": [1.0, 3.0, 2.0], "other": [2.0, 3.0, 8.0]})


def test_ratios_are_of_the_same_round() -> None:
    assert figure("less").ratios("other") == [0.5, 1.0, 0.25]


@pytest.mark.parametrize(
    ("better", "target", "met"),
    [("less", 0.5, True), ("less", 0.49, False), ("more", 0.5, True), ("more", 0.51, False)],
)
def test_a_target_is_compared_with_the_median_of_the_ratios(
    better: figures.Better, target: float, met: bool
) -> None:
    assert figure(better, other=target).met("other") is met


def test_a_target_of_its_own_is_compared_with_the_median() -> None:
    assert figure("less", tcpdconf=2.0).met("tcpdconf")
    assert not figure("less", tcpdconf=1.9).met("tcpdconf")


def test_the_table_shows_medians_ranges_ratios_and_targets() -> None:
    lines = figures.table([figure("less", other=0.4)]).splitlines()
    assert lines[0] == "| case | unit | tcpdconf | other | ratio to other | target |"
    assert lines[2] == "| case | us | 2 (1..3) | 3 (2..8) | 0.5 (0.25..1) | other <= 0.4: NOT met |"


@pytest.mark.peer
@pytest.mark.slow
def test_starts_leave_nothing_behind() -> None:
    peers.need("cc")
    if not spawn.has_native:
        peers.without("an installation with a C compiler")
    at_first, in_between, at_last = starts.measure(20_000)

    assert [each.failed for each in (at_first, in_between, at_last)] == [300, 1500, 3000]
    assert at_last.used.descriptors == at_first.used.descriptors
    assert at_last.used.mappings <= at_first.used.mappings + 2
    assert at_last.used.memory <= in_between.used.memory + 256  # kilobytes


@pytest.mark.peer
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_case_is_measured_on_every_server_that_knows_it(tmp_path: pathlib.Path) -> None:
    peers.need_root()
    peers.need("cc", "unshare", "ip", "couriertcpd", "tcpserver", "tcprules", "rbldnsd")
    drawn = ["--plot", str(tmp_path / "growth.svg")] if importlib.util.find_spec("matplotlib") else []
    command = [
        sys.executable,
        "-m",
        "bench",
        "--quick",
        "--rounds",
        "1",
        "--json",
        str(tmp_path / "json"),
        *drawn,
    ]
    printed = subprocess.run(command, cwd=TOP, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = json.loads((tmp_path / "json").read_text())
    by_name = {each["name"]: each for each in found["figures"]}
    assert set(by_name["admitted, 50 at once, static program"]["values"]) == THREE | {"tcpserver -v"}
    assert set(by_name["refused by access rule, 50 at once"]["values"]) == THREE | {"tcpserver -v"}
    assert set(by_name["refused by limit per address, 50 at once"]["values"]) == THREE - {"tcpserver"}
    assert set(by_name["DNS lists, cold: 8"]["values"]) == THREE - {"tcpserver"}
    assert {(each["beside"], each["at"]) for each in found["figures"] if each["beside"]} == {
        ("held connections", 1),
        ("held connections", 10),
        ("services", 1),
        ("services", 3),
    }
    negative = {each["name"] for each in found["figures"] if min(map(min, each["values"].values())) < 0}
    assert negative <= {each["name"] for each in found["figures"] if each["difference"]}
    assert all(f"| {each['name']}" in printed for each in found["figures"])
    if drawn:
        assert (tmp_path / "growth.svg").read_text().count("<path") > 0
