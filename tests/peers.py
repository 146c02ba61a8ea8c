"""What tests marked `peer` need beside tcpdconf: real programs, and the rights of root."""

import os
import shutil

import pytest

_SYSTEM = "/usr/local/sbin:/usr/sbin:/sbin"  # not on the PATH of every user


def need(*programs: str) -> None:
    """Skip the test when one of these is missing; in CI (variable CI is set) that fails it.

    A program is a name for PATH or an absolute path; "root" are root's rights.
    """
    missing = [program for program in programs if not _is_there(program)]
    if not missing:
        return
    reason = f"needs {', '.join(missing)}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def _is_there(program: str) -> bool:
    if program == "root":
        return os.geteuid() == 0
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM}") is not None
