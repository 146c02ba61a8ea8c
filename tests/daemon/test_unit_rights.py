"""Tests the problems of settings that the daemon's unit forbids."""

import pathlib

import pytest

from tcpdconf.config.load import load
from tcpdconf.daemon import capacity, unit_rights

SHIPPED = pathlib.Path(__file__).parents[2] / "deploy/systemd"
UNIT = "etc/systemd/system/tcpdconf.service"
SERVICE = """
[services.test]
program = ["/bin/cat"]
listeners = [{ address = "127.0.0.1", port = 4999 }]
"""
FEW, DENIED = "CapabilityBoundingSet=CAP_KILL\n", "SystemCallFilter=~@resources\n"
CALL = "needs the system call setpriority, which SystemCallFilter= of the unit forbids"
NICE = "needs CAP_SYS_NICE"
SCORE = "needs CAP_SYS_RESOURCE, because the daemon has a higher value"


def said(folder: pathlib.Path, settings: str, unit: str | None, *drop_ins: str) -> list[tuple[str, str, str]]:
    """Severity, key and text of each problem."""
    root, conf = folder / "root", folder / "conf.d"
    conf.mkdir()
    (conf / "test.toml").write_text(SERVICE + settings)
    for name, text in {UNIT: unit, **{f"{UNIT}.d/{n}.conf": text for n, text in enumerate(drop_ins)}}.items():
        if text is not None:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
    loaded = load.load(conf)
    found = list(unit_rights.warnings(loaded, capacity.Host(str(root))))
    return [(each.severity, each.key.removeprefix("services.test."), each.text) for each in found]


@pytest.mark.parametrize(
    ("settings", "drop_ins", "expected"),
    [
        ("nice = 5", [], [("nice", CALL)]),
        ("nice = -5", [], [("nice", CALL)]),
        ("nice = 0", [], []),
        ("nice = 5", ["nice.conf"], []),
        ("nice = -5", ["nice.conf"], []),
        ("oom_score_adjust = 1000\nno_new_privileges = true\nsupplementary_groups = [7]", [], []),
        ("oom_score_adjust = -1", [], [("oom_score_adjust", SCORE)]),
        ("oom_score_adjust = -1", ["nice.conf"], [("oom_score_adjust", SCORE)]),
        ("enabled = false\nnice = 5\n[daemon]\nallow_empty = true", [], []),
    ],
)
def test_the_shipped_unit_and_its_drop_ins(
    settings: str, drop_ins: list[str], expected: list[tuple[str, str]], tmp_path: pathlib.Path
) -> None:
    texts = [(SHIPPED / name).read_text() for name in ("tcpdconf.service", *drop_ins)]
    assert said(tmp_path, settings, *texts) == [("warning", *each) for each in expected]


@pytest.mark.parametrize(
    ("settings", "unit", "expected"),
    [
        ("nice = -5\noom_score_adjust = -5", None, []),
        ("nice = -5\noom_score_adjust = -5", "[Service]\n", []),
        ("nice = 5", "SystemCallFilter=@resources @file-system:EPERM\n", []),
        ("nice = 5", "SystemCallFilter=@file-system\n", [("nice", CALL)]),
        ("nice = 5", "SystemCallFilter=~@file-system\n", []),
        ("nice = 5", "SystemCallFilter=~setpriority:EPERM nice\n", [("nice", CALL)]),
        ("nice = 5", f"{DENIED}SystemCallFilter=\n", []),
        ("nice = 5", f"{DENIED}SystemCallFilter=\nSystemCallFilter=read\n", [("nice", CALL)]),
        ("nice = -5", "CapabilityBoundingSet=\n", [("nice", NICE)]),
        ("nice = -5", "CapabilityBoundingSet=\nCapabilityBoundingSet=CAP_KILL CAP_SYS_NICE\n", []),
        ("nice = -5", "CapabilityBoundingSet=CAP_SYS_NICE\nCapabilityBoundingSet=\n", [("nice", NICE)]),
        ("nice = -5", "CapabilityBoundingSet=~CAP_SYS_NICE\n", [("nice", NICE)]),
        ("nice = -5", "CapabilityBoundingSet=~CAP_KILL\n", []),
        ("nice = -5", f"{FEW}Nice=-5\n", []),
        ("nice = -6", f"{FEW}Nice=-5\n", [("nice", NICE)]),
        ("oom_score_adjust = -5", f"{FEW}OOMScoreAdjust=-5\n", []),
        ("oom_score_adjust = 5", f"{FEW}OOMScoreAdjust=6\n", [("oom_score_adjust", SCORE)]),
        ("oom_score_adjust = -5", f"{FEW}OOMScoreAdjust=x\n", [("oom_score_adjust", SCORE)]),
    ],
)  # fmt: skip
def test_units_of_others(
    settings: str, unit: str | None, expected: list[tuple[str, str]], tmp_path: pathlib.Path
) -> None:
    assert said(tmp_path, settings, unit) == [("warning", *each) for each in expected]


def test_a_daemon_that_runs_without_the_unit_is_not_judged_by_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "running", lambda: 7)
    (tmp_path / "root/proc/7").mkdir(parents=True)
    cgroup = tmp_path / "root/proc/7/cgroup"
    cgroup.write_text("0::/user.slice\n")
    unit = (SHIPPED / "tcpdconf.service").read_text()
    assert said(tmp_path, "nice = 5", unit) == []

    cgroup.write_text("0::/system.slice/tcpdconf.service\n")
    (tmp_path / "conf.d/test.toml").unlink()
    (tmp_path / "conf.d").rmdir()
    assert said(tmp_path, "nice = 5", unit) == [("warning", "nice", CALL)]
