"""Reads a service's environment files, in the worker and therefore with the service's rights only.

The migration calls `source` as well: it compares what the files give with what a start script passes on.
"""

import os
import subprocess
from typing import Final

from tcpdconf.config import envfile
from tcpdconf.config.model import tables
from tcpdconf.daemon.process import descriptors
from tcpdconf.policy import environ

LARGEST: Final = 1 << 20  # bytes in a file
_SECONDS: Final = 10.0  # seconds that a shell file may take
_WHOLE: Final = "TCPDCONF_WHOLE"  # printed last: shows that all variables were printed
_OF_THE_SHELL: Final = frozenset({"PWD", "OLDPWD", "SHLVL", "_", _WHOLE})

# The file's own output must not mix with the variables: they go to {0}, a free descriptor.
_SCRIPT: Final = f'exec {{0}}>&1 1>&2; set -a; . "$1"; exec /usr/bin/env -0 {_WHOLE}=1 >&{{0}}'


class EnvironmentFileError(Exception):
    """Reports a file that yields no environment; the text names it, and the wrong line if there is one."""


def read(file: tables.EnvironmentFile, fd: int, before: dict[str, str]) -> dict[str, str]:
    """Return the variables of a file, read from a descriptor, added to those of the files `before` it.

    A shell file sees only the variables of the files before it, as Courier's files see each other's.

    Raises:
        EnvironmentFileError: the file cannot be read, or yields no environment.
    """
    try:
        content = descriptors.content(fd, LARGEST)
        return source(content, before) if file.shell else before | envfile.read(content)
    except envfile.EnvironmentSyntaxError as error:
        raise EnvironmentFileError(f"{file.path}:{error.line}: {error}") from None
    except SourcingError as error:
        raise EnvironmentFileError(f"cannot read {file.path}: {error}") from None
    except OSError as error:
        raise EnvironmentFileError(f"cannot read {file.path}: {error.strerror}") from None


class SourcingError(Exception):
    """Reports that the shell has not sourced a file to its end."""


def source(content: bytes, before: dict[str, str], directory: str | None = None) -> dict[str, str]:
    """Return the variables that /bin/sh exports after sourcing the file, as Courier's start scripts do.

    The shell reads a copy: the worker may hold a descriptor of a file that its user cannot open. It runs in
    `directory`, or in this process's own.

    Raises:
        SourcingError: the shell does not reach the end of the file.
        OSError: the shell cannot be started.
    """
    copy = os.memfd_create("environment", os.MFD_CLOEXEC)
    try:
        os.write(copy, content)
        found = subprocess.run(
            ["/bin/sh", "-c", _SCRIPT.format(4 if copy == 3 else 3), "sh", f"/proc/self/fd/{copy}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environ.block(before),
            pass_fds=[copy],
            cwd=directory,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SourcingError(f"/bin/sh has not finished sourcing it after {_SECONDS:g} s") from None
    finally:
        os.close(copy)
    # a worker that serves meanwhile reaps every child, perhaps the shell too: its status proves nothing
    if not found.stdout.endswith(f"\0{_WHOLE}=1\0".encode()):
        said = " ".join(environ.decoded(found.stderr).split()).replace(f"/proc/self/fd/{copy}", "line")
        status = f" with status {found.returncode}" if found.returncode else " too early"
        raise SourcingError(f"/bin/sh ends{status}: {said or 'no output'}")
    pairs = (environ.decoded(item).partition("=") for item in found.stdout.split(b"\0") if item)
    return {name: value for name, _, value in pairs if name not in _OF_THE_SHELL}
