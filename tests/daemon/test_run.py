"""Tests the start of a supervisor."""

import os
import pathlib
import subprocess
import sys

import pytest
from support import loglines
from support.running import daemons

from tcpdconf.daemon.process import spawn


@pytest.mark.parametrize("drop_in", [False, True])
def test_a_way_to_start_programs_that_does_not_exist(tmp_path: pathlib.Path, drop_in: bool) -> None:
    text = f'[services.test]\nprogram = ["/bin/true"]\nlisteners = [{{ port = {daemons.free_port()} }}]\n'
    conf = daemons.configure(tmp_path, text)
    if drop_in:
        words = [sys.executable, "-m", "tcpdconf.couriertcpd", "-address=127.0.0.1"]
        words += [str(daemons.free_port()), "/bin/true"]
    else:
        words = [sys.executable, "-m", "tcpdconf", "run", str(conf), "--runtime-dir", str(tmp_path / "run")]
    environment = {"PATH": os.defpath, spawn.WISH: "quick"}
    found = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=20, check=False)

    assert found.returncode == 1
    assert loglines.without_times(found.stderr).removeprefix("error: ") == (
        'TCPDCONF_SPAWN must be "native" or "portable", not \'quick\'\n'
    )
