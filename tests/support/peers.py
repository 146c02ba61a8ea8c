"""Finds what tests marked `peer` need: real programs, the rights of root, and observed cases.

Where it is missing the test is skipped; in CI (variable CI is set), where all is to be there, it fails.
"""

import json
import os
import pathlib
import shutil
import stat
import sys
from typing import Any, Final, NoReturn

import pytest

# golden cases and command lines, which lie beside the project and belong to no version of it
_SHARED: Final = pathlib.Path(__file__).parents[3] / "shared"
_TOP: Final = pathlib.Path(__file__).parents[2]
_SYSTEM = "/usr/local/sbin:/usr/sbin:/sbin"  # not on the PATH of every user


def need(*programs: str) -> None:
    """Go on only with these programs, each a name for PATH or an absolute path."""
    path = f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM}"
    missing = [program for program in programs if shutil.which(program, path=path) is None]
    if missing:
        without(", ".join(missing))


def need_root() -> None:
    """Go on only as root."""
    if os.geteuid() != 0:
        without("root")


def need_other_users() -> None:
    """Go on only as root, and where other users may run this tcpdconf: it is not in the home of root."""
    need_root()
    need("setpriv")
    for path in (_TOP, pathlib.Path(sys.prefix)):
        for folder in (path, *path.parents):
            if not folder.stat().st_mode & stat.S_IXOTH:
                without(f"{folder} open to other users")


def need_kernel_settings() -> None:
    """Go on only where settings of the kernel can be written: in most containers they are read-only."""
    if os.statvfs("/proc/sys").f_flag & os.ST_RDONLY:
        without("a writable /proc/sys")


def beside(path: str) -> pathlib.Path:
    """A file of the material that lies beside the project."""
    if not (_SHARED / path).exists():
        without(f"../shared/{path}")
    return _SHARED / path


def shared(path: str) -> Any:  # noqa: ANN401 (JSON)
    """Return the contents of a JSON file of that material."""
    return json.loads(beside(path).read_text(encoding="utf-8"))


def without(what: str) -> NoReturn:
    """Skip the test, or fail it in CI, for what is missing."""
    if os.environ.get("CI"):
        pytest.fail(f"needs {what}")
    pytest.skip(f"needs {what}")
