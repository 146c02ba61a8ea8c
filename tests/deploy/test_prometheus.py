"""deploy/prometheus, judged by promtool, and the runbook to which its alerts lead."""

import pathlib
import re
import subprocess
from typing import Final

import pytest
from support import peers
from support.running import daemons

from tcpdconf.daemon.http import metrics

TOP: Final = pathlib.Path(__file__).parents[2]
FOLDER: Final = TOP / "deploy/prometheus"
ALERTS: Final = (FOLDER / "alerts.yml").read_text()
NAMES: Final = re.findall(r"^ +- alert: (\w+)$", ALERTS, re.MULTILINE)


@pytest.mark.peer
@pytest.mark.parametrize(
    "command",
    [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "--lint=all", "--lint-fatal", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
    ],
    ids=" ".join,
)
def test_promtool_finds_nothing_wrong(command: list[str]) -> None:
    peers.need("promtool")
    run = subprocess.run(
        ["promtool", *command],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        timeout=daemons.SECONDS,
        check=False,
    )

    assert (run.returncode, run.stderr) == (0, ""), run.stdout


@pytest.mark.parametrize("name", NAMES)
def test_a_case_shows_each_alert_quiet_firing_and_quiet_again(name: str) -> None:
    """And with all labels and annotations, because promtool compares them."""
    cases = (FOLDER / "alerts_test.yml").read_text().split("\n  - interval: ")
    expected = re.compile(rf"^ +alertname: {name}\n +exp_alerts:( \[\])?$", re.MULTILINE)
    courses = ["".join("q" if quiet else "F" for quiet in expected.findall(case)) for case in cases]

    assert any("qFq" in course for course in courses)


def test_alerts_name_metrics_that_exist() -> None:
    used = set(re.findall(r"\b(?:tcpdconf|process)_\w+", "\n".join(re.findall(r"expr: (.*)", ALERTS))))

    assert used <= {each.name for each in metrics.FAMILIES}
    assert len(used) > 5


def test_each_alert_leads_to_a_section_of_the_runbook_that_names_it() -> None:
    links = re.findall(r"runbook_url: (\S+)#(\S+)$", ALERTS, re.MULTILINE)
    assert len(links) == len(NAMES)
    for name, (path, anchor) in zip(NAMES, links, strict=True):
        sections = re.split(r"^## ", (TOP / path).read_text(), flags=re.MULTILINE)[1:]
        found = {
            re.sub(r"[^\w -]", "", title).lower().replace(" ", "-"): text
            for title, _, text in (section.partition("\n") for section in sections)
        }
        assert f"`{name}`" in found[anchor]
