"""Tells by what the file system says of a file whether its content may be another than before."""

import os
import time
from typing import Final

Signature = tuple[int, ...]
"""What the file system says of a file's content (`signature`)."""

COARSE: Final = 0.02  # seconds by which a file's time may lie before the clock's


def signature(status: os.stat_result) -> Signature:
    """Return what differs after a file was written or replaced: device, inode, size, mtime, ctime.

    The clock of files ticks, so a file that has just changed may change again unseen. Its signature has one
    more number, and equals no other.
    """
    found = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    just_changed = abs(time.time() - status.st_ctime) < COARSE
    return (*found, time.monotonic_ns()) if just_changed else found
