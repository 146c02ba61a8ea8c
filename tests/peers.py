"""What tests marked `peer` need beside tcpdconf: real programs, and the rights of root.

Where it is missing the test is skipped; in CI (variable CI is set), where all is to be there, it fails.
"""

import os
import shutil

import pytest

_SYSTEM = "/usr/local/sbin:/usr/sbin:/sbin"  # not on the PATH of every user


def need(*programs: str) -> None:
    """Go on only with these programs, each a name for PATH or an absolute path."""
    path = f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM}"
    missing = [program for program in programs if shutil.which(program, path=path) is None]
    if missing:
        _without(", ".join(missing))


def need_root() -> None:
    """Go on only as root."""
    if os.geteuid() != 0:
        _without("root")


def _without(what: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"needs {what}")
    pytest.skip(f"needs {what}")
