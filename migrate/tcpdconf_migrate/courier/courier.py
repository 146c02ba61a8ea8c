"""Reads Courier's own configuration: the command lines and other actions of its start scripts.

A service keeps Courier's files as its environment_files: they remain the place where mail is configured.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from tcpdconf.config.couriertcpd import parse
from tcpdconf_migrate import commandline
from tcpdconf_migrate.courier import installation
from tcpdconf_migrate.courier import scripts as courier_scripts
from tcpdconf_migrate.courier import shell as courier_shell
from tcpdconf_migrate.courier.scripts import Script
from tcpdconf_migrate.wrappers import wrappers

# Variables of the scripts' own shells, and those that only makesmtpaccess and makeimapaccess read.
BY_THE_WAY: Final = frozenset({"prefix", "exec_prefix", "sysconfdir", "ACCESSFILE", "IMAPACCESSFILE"})
_USUAL: Final = ("/etc/courier", "/usr/lib/courier/etc", "/usr/lib/courier-imap/etc")
_CRLF: Final = re.compile(rb"^[ \t]*[^#\s].*\r$", re.MULTILINE)
_ORDINARY: Final = re.compile(r"[\w/.,+@-]+")  # the scripts do not quote their paths


def read(directory: str) -> tuple[list[commandline.Command], list[commandline.Unread]]:
    """Return the command line of each start script whose file is in Courier's directory.

    Raises:
        OSError: the directory is missing, or is not Courier's.
    """
    directory = os.path.abspath(directory)
    if not _ORDINARY.fullmatch(directory):
        raise OSError(0, "Courier's scripts cannot use a directory with such a name")
    names = set(os.listdir(directory))
    there = installation.find(directory)
    found, unread = [], []
    for script in courier_scripts.SCRIPTS:
        if script.name not in names:
            continue
        try:
            found.append(_command(script, there, directory))
        except courier_shell.ShellError as error:
            unread.append(commandline.Unread(f"{directory}/{script.name}", str(error)))
    if not found and not unread:
        raise OSError(
            0, "has none of the files " + ", ".join(script.name for script in courier_scripts.SCRIPTS)
        )
    return found, unread


def _command(script: Script, there: installation.Installation, directory: str) -> commandline.Command:
    wanted = [f"{directory}/{name}" for name in script.ordered(there)]
    files = [file for file in wanted if os.path.exists(file)]
    _require_line_ends(files)
    started = courier_shell.start(script, there, directory, files)
    unwrapped = wrappers.unwrap(started.words)
    if not unwrapped.words:
        raise courier_shell.ShellError(
            "its start script runs no couriertcpd" + (f": {started.said}" if started.said else "")
        )
    _require_variables(script, unwrapped.words, started.environment, files)
    settings = unwrapped.settings | _settings(script, there, started.environment, files)
    access, access_notes = _access(unwrapped.words, started.environment)
    notes = [
        *unwrapped.notes,
        *_missing(wanted, files),
        *_complaints(started.said),
        *_notes(script, started.environment),
        *access_notes,
    ]
    stop = f"{there.scripts}/{script.name} stop"
    start = f"{there.scripts}/{script.name} start"
    if there.units:
        stop, start = f"systemctl disable --now {script.unit}", f"systemctl enable --now {script.unit}"
    return commandline.Command(
        unwrapped.words,
        f"{directory}/{script.name}",
        settings | access,
        tuple(notes),
        stop,
        start,
        script.service,
    )


def _require_line_ends(files: Sequence[str]) -> None:
    """Refuse files with values that /bin/sh would read with a carriage return at their end."""
    for file in files:
        if _CRLF.search(Path(file).read_bytes()):
            why = "has CRLF line ends, and /bin/sh takes each CR as part of a value"
            raise courier_shell.ShellError(f"{file} {why}: remove them with sed -i 's/\\r$//' {file}")


def _require_variables(
    script: Script, words: Sequence[str], environment: Mapping[str, str], files: Sequence[str]
) -> None:
    """Raise an error that names missing variables if the command line is not valid without them."""
    missing = [name for name in script.needed if not environment.get(name)]
    if not missing:
        return
    try:
        parse.parse(words[1:], exact=False)
    except parse.CommandLineError:
        places = " or ".join(files)
        said = [f"{name} is {'empty' if name in environment else 'not set'} in {places}" for name in missing]
        raise courier_shell.ShellError("; ".join(said)) from None
    if script.over_tls and "COURIERTLS" in missing:
        raise courier_shell.ShellError(f"COURIERTLS is not set in {' or '.join(files)}")


def _settings(
    script: Script,
    there: installation.Installation,
    environment: Mapping[str, str],
    files: Sequence[str],
) -> commandline.Settings:
    """Return the keys for the start script's other actions besides running couriertcpd."""
    found: commandline.Settings = {}
    if not _is_yes(environment.get(script.switch, "yes")):
        found["enabled"] = False
    if script.in_prefix:
        found["directory"] = there.prefix
    if script.umask and environment.get(script.umask):
        found["umask"] = environment[script.umask]
    if script.limit and environment.get(script.limit[1], "").isdigit():
        found["rlimits"] = {script.limit[0]: int(environment[script.limit[1]]) * 1024}
    found["environment_files"] = [{"path": file, "shell": True} for file in files]
    given = courier_shell.sourced(files)
    changed = {name: value for name, value in environment.items() if given.get(name, "") != value}
    own = dict(change.split("=") for change in script.changes.split(" ; ") if "=$" not in change and change)
    more = {name: value for name, value in (changed | own).items() if name not in BY_THE_WAY}
    found["environment"] = dict(sorted(more.items()))
    found["inherit_environment"] = False
    return found


def files_behind(environment: Mapping[str, str]) -> list[str]:
    """Return the files from which a process has its variables.

    They are the files that give the most variables, all of them unchanged in the process, except for those
    that the start script itself changes. Only the usual places are searched, because the files are executed
    and a process can claim to be anything.
    """
    best: tuple[int, list[str]] = (0, [])
    for directory in filter(os.path.isdir, _USUAL):
        there = installation.find(directory)
        for script in courier_scripts.SCRIPTS:
            files = [f"{directory}/{name}" for name in script.ordered(there)]
            if script.switch in environment and all(map(os.path.isfile, files)):
                given = courier_shell.sourced(files)
                differing = {name for name, value in given.items() if environment.get(name) != value}
                changed = {change.partition("=")[0] for change in script.changes.split(" ; ")}
                if differing <= BY_THE_WAY | changed and len(given) > best[0]:
                    best = len(given), files
    return best[1]


def _is_yes(value: str) -> bool:
    """Return whether a switch is on, as Courier's scripts for the host's start read it."""
    return value[:1] in {"y", "Y"}


def _notes(script: Script, environment: Mapping[str, str]) -> Iterator[commandline.Note]:
    if not _is_yes(environment.get(script.switch, "yes")):
        what = f"{script.switch}={environment[script.switch]}"
        yield commandline.Note("ignored", what, "so this service is not enabled", ("enabled",))
    why = "stay in these files, but those for couriertcpd (PORT, MAXDAEMONS, TCPDOPTS, ...) no longer apply"
    yield commandline.Note("changed", "settings of the mail server", why, ("environment_files",))
    for change in script.changes.split(" ; "):
        name, _, value = change.partition("=$")
        if value:
            why = f"is a copy of {value}: change both"
            yield commandline.Note("changed", name, why, ("environment", name))
    if cache := environment.get("TLS_CACHEFILE"):
        yield commandline.Note(
            "ignored", f"TLS_CACHEFILE={cache}", "Courier's script empties it at each start"
        )


def _missing(wanted: Sequence[str], files: Sequence[str]) -> Iterator[commandline.Note]:
    for file in wanted:
        if file not in files:
            yield commandline.Note("risk", file, "is missing; Courier's own start script stops without it")


def _complaints(said: str) -> Iterator[commandline.Note]:
    """Yield a note for each line that the shells did not understand; both shells read the files."""
    for line in dict.fromkeys(line.removeprefix("/bin/sh: ") for line in said.splitlines()):
        why = "a line there is no assignment, so what it was meant to set is not set"
        yield commandline.Note("risk", f"/bin/sh says {line}", why)


def _access(
    words: Sequence[str], environment: Mapping[str, str]
) -> tuple[commandline.Settings, list[commandline.Note]]:
    """Return access rules for a missing database: couriertcpd runs without it, tcpdconf does not start.

    imapd's script would make the database from its text files, which tcpdconf can read directly.
    """
    given = [word for word in words if word.startswith("-access=")]
    if not given:
        why = "Courier starts without access rules until makesmtpaccess has made its database"
        missing = environment.get("ACCESSFILE")
        return {}, [commandline.Note("risk", "ACCESSFILE", why, ("access",))] if missing else []
    database = given[-1].removeprefix("-access=")
    if os.path.exists(database):
        return {}, []
    texts = database.removesuffix(".dat")
    if os.path.isdir(texts) and os.listdir(texts):
        why = f"does not exist; the text files in {texts} are read instead"
        return {"access": [{"file": texts}]}, [commandline.Note("changed", database, why, ("access",))]
    why = "does not exist, so there are no access rules"
    return {"access": []}, [commandline.Note("risk", database, why, ("access",))]
