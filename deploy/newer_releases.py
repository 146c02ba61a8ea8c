"""Reports where the package index has other versions than deploy/requirements.lock; it never fails.

    python deploy/newer_releases.py

It asks pip what it would install today for pyproject.toml and the Python that runs it; nothing is installed.
"""

import json
import pathlib
import re
import subprocess
import sys
from typing import Final

TOP: Final = pathlib.Path(__file__).parents[1]
_ENTRY: Final = re.compile(
    r"^([a-z0-9-]+)==([^ ;]+)(?: ; [^\\]+)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE
)


def locked() -> dict[str, str]:
    """The version of each package that is locked.

    Raises:
        ValueError: something else than versions with hashes, and comments, stands in the file.
    """
    text = (TOP / "deploy/requirements.lock").read_text()
    others = [line for line in _ENTRY.sub("", text).splitlines() if not line.startswith("#")]
    if others:
        raise ValueError(f"deploy/requirements.lock: no version with hashes: {others[0]}")
    return {found[1]: found[2] for found in _ENTRY.finditer(text)}


def offered() -> dict[str, str]:
    """The version of each package that pip would install today.

    Raises:
        subprocess.CalledProcessError: pip finds none, or reaches no index.
    """
    options = ["--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
    command = [sys.executable, "-m", "pip", "install", *options, str(TOP)]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = (each["metadata"] for each in json.loads(said)["install"])
    return {re.sub("[-_.]+", "-", each["name"]).lower(): each["version"] for each in found}


def differences(pinned: dict[str, str], today: dict[str, str]) -> list[str]:
    """A line for each package whose versions differ."""
    return [
        f"{name}: locked {pinned.get(name, 'not')}, offered {today.get(name, 'not')}"
        for name in sorted(pinned.keys() | today.keys() - {"tcpdconf"})
        if pinned.get(name) != today.get(name)
    ]


def main() -> None:
    """Print the differences."""
    try:
        found = differences(locked(), offered())
    except subprocess.CalledProcessError as error:
        found = [f"pip cannot tell what is offered: it ended with status {error.returncode}"]
    said = found or ["deploy/requirements.lock has what the index offers"]
    sys.stdout.write("".join(f"{line}\n" for line in said))


if __name__ == "__main__":
    main()
