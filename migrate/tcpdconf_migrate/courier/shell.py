"""Lets /bin/sh read Courier's files as its start scripts do, and records what they would start.

In place of couriertcpd a small script runs and writes down its words and environment. All other commands in
the files are executed, as at every start of Courier.
"""

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tcpdconf.daemon.worker import environment_files
from tcpdconf_migrate.courier import installation
from tcpdconf_migrate.courier import scripts as courier_scripts
from tcpdconf_migrate.courier.scripts import Script

_SECONDS: Final = 10.0  # allowed for reading the files
_OF_THE_SHELL: Final = frozenset({"PWD", "OLDPWD", "SHLVL", "_"})

_DUMP: Final = """\
#!/bin/sh
printf '%s\\0' "$@" >"${0%/*}/words"
exec /usr/bin/env -0 >"${0%/*}/environment"
"""


class Started(NamedTuple):
    """Holds the words and environment of the program that a start script starts.

    `said` is the output of its shells on standard error.
    """

    words: tuple[str, ...]
    environment: Mapping[str, str]
    said: str


class ShellError(Exception):
    """Reports a configuration that /bin/sh cannot read, or that starts nothing."""


def start(script: Script, there: installation.Installation, directory: str, files: Sequence[str]) -> Started:
    """Run the shells of a start script on the files, up to the command line.

    Raises:
        ShellError: they do not reach a command line.
    """
    with tempfile.TemporaryDirectory(prefix="tcpdconf-migrate-") as folder:
        dump = Path(folder) / "dump"
        dump.write_text(_DUMP, encoding="ascii")
        dump.chmod(0o700)
        text = courier_scripts.commands(script, there, directory, files, str(dump))
        inside = there.prefix if script.in_prefix and os.path.isdir(there.prefix) else folder
        said = _shell(text, inside)
        try:
            words, environment = (Path(folder) / name for name in ("words", "environment"))
            pairs = (item.partition("=") for item in _items(environment.read_bytes()))
            variables = {name: value for name, _, value in pairs if name not in _OF_THE_SHELL}
            return Started(tuple(_items(words.read_bytes())), variables, said)
        except FileNotFoundError:
            raise ShellError(f"/bin/sh reaches no command line: {said or 'no output'}") from None


def _shell(text: str, directory: str) -> str:
    """Run commands with an empty environment, and return what the shell and its children say.

    Raises:
        ShellError: they take too long.
    """
    with subprocess.Popen(
        ["/bin/sh", "-c", text],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={},
        cwd=directory,
        process_group=0,
    ) as shell:
        try:
            _, stderr = shell.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(shell.pid, signal.SIGKILL)  # its children hold the pipes as well
            raise ShellError(f"/bin/sh has not finished reading it after {_SECONDS:g} s") from None
    return os.fsdecode(stderr).strip()


def _items(content: bytes) -> list[str]:
    return [os.fsdecode(item) for item in content.split(b"\0")[:-1]]


def sourced(files: Sequence[str]) -> dict[str, str]:
    """Return the variables that tcpdconf gives to a program with these environment_files.

    Raises:
        ShellError: /bin/sh cannot read a file.
    """
    found: dict[str, str] = {}
    for file in files:
        try:
            found = environment_files.source(Path(file).read_bytes(), found, "/")
        except environment_files.SourcingError as error:
            raise ShellError(f"cannot read {file}: {error}") from None
        except OSError as error:
            raise ShellError(f"cannot read {file}: {error.strerror}") from None
    return found
