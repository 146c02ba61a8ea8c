"""Sets a helper process apart from the supervisor once it has been forked."""

import contextlib
import os
import resource
import signal
from collections.abc import Mapping

from tcpdconf.config import host
from tcpdconf.daemon.process import privileges


def settle() -> None:
    """Leave the end of this process to the supervisor; keep no output but the log, and hold no directory."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.dup2(0, 1)
    os.chdir("/")


def confine(identity: host.Identity, limits: Mapping[int, int], *, hide_memory: bool = False) -> None:
    """Give up all rights but those of an identity for good, bound resources, and leave no copy of the memory.

    `limits` has the most of each resource (`resource.RLIMIT_*`). `hide_memory` is for a process that other
    processes of its user may not look into.

    Raises:
        OSError: the kernel refuses the identity.
    """
    for which, most in {**limits, resource.RLIMIT_CORE: 0}.items():
        _, hard = resource.getrlimit(which)
        few = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with contextlib.suppress(OSError, ValueError):  # the rights count, the limits only help
            resource.setrlimit(which, (few, few))
    privileges.become(identity)
    privileges.forbid_new()
    if hide_memory:
        privileges.hide_memory()
