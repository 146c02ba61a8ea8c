"""Detects by stat(2) whether the content of a file may have changed."""

import os
import time
from typing import Final

Signature = tuple[int, ...]
"""Holds the numbers that `signature` returns."""

COARSE: Final = 0.02  # seconds by which a file's time may lie before the clock's


def signature(status: os.stat_result) -> Signature:
    """Return numbers that differ after a file was written or replaced: device, inode, size, mtime, ctime.

    File times are coarse, so a file that has just changed may change again without a new time. Its signature
    has one more number and therefore equals no other.
    """
    found = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    just_changed = abs(time.time() - status.st_ctime) < COARSE
    return (*found, time.monotonic_ns()) if just_changed else found
