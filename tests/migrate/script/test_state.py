"""Limits and standard error of a shell are those of the services that it starts."""

import shutil
import subprocess
from typing import Any

import pytest

from tcpdconf_migrate.script import script

BEHIND_A_GROUP = "the redirection of standard error behind the group is not carried over: set stderr"
COMMAND = "couriertcpd -nodnslookup 127.0.0.1.2525 /bin/cat"


def line(text: str) -> script.Line:
    """The one command line of a script."""
    (only,) = script.read(text, lambda _: "", {})
    assert isinstance(only, script.Line), only
    return only


@pytest.mark.parametrize(
    ("text", "rlimits"),
    [
        ("ulimit -SHn 1024", {"nofile": 1024}),
        ("ulimit -Sn 1024", {"nofile": 1024}),
        ("ulimit -S -n 1024", {"nofile": 1024}),
        ("ulimit -HSc 0", {"core": 0}),
        ("ulimit 2048", {"fsize": 2048 * 512}),
        ("ulimit -t60", {"cpu": 60}),
        ("ulimit -p 20", {"nproc": 20}),
        ("ulimit -s unlimited", {"stack": "unlimited"}),
        ("ulimit -n 5; ulimit -n; ulimit -a; ulimit -Sa", {"nofile": 5}),
        ("#!/bin/bash\nulimit -n 100 -u 50", {"nofile": 100, "nproc": 50}),
        ("#!/usr/bin/env bash\nulimit -c 1 -Sf 2", {"core": 1024, "fsize": 2048}),
        ("#!/bin/bash\nulimit -p 20", {}),
        ("ulimit -n 5; (ulimit -n 6)", {"nofile": 5}),
    ],
)
def test_limits_are_carried_over(text: str, rlimits: dict[str, Any]) -> None:
    assert line(f"{text}\n{COMMAND}").settings.get("rlimits", {}) == rlimits


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ulimit -H -n 5", "ulimit -H -n 5: the limit -n is not carried over: set rlimits"),
        ("ulimit -Sx 3", "ulimit -Sx 3: the limit -x is not carried over: set rlimits"),
        ("ulimit -n hard", "ulimit -n hard: the limit -n is not carried over: set rlimits"),
        ("#!/bin/bash\nulimit -i 3 -n 5", "ulimit -i 3 -n 5: the limit -i is not carried over: set rlimits"),
        ("ulimit -n $FILES", "FILES is not set in this script"),
        (
            "test -n 1 && ulimit -n 5",
            "ulimit -n 5 at line 1 depends on the command before it",
        ),
        ("test -n 1 && umask 0", "umask 0 at line 1 depends on the command before it"),
        ("cd -", "cd - is not carried over: set directory or umask"),
        ("cd", "cd is not carried over: set directory or umask"),
        ("renice 5 $$", "renice at line 1 changes the shell itself, which is not carried over"),
        (
            "prlimit --pid $$ --nofile=5",
            "prlimit at line 1 changes the shell itself, which is not carried over",
        ),
        ("newgrp mail", "newgrp at line 1 changes the shell itself, which is not carried over"),
        (". $RC", "a file is sourced whose name cannot be told: RC is not set in this script"),
        ("trap '' HUP", "trap  HUP: programs no longer ignore these signals"),
    ],
)
def test_what_is_not_carried_over_is_said(text: str, said: str) -> None:
    assert said in line(f"{text}\n{COMMAND}").unclear


@pytest.mark.parametrize(
    "text",
    [
        "ulimit -a",
        "ulimit -n",
        "umask",
        "umask -S",
        "trap 'rm /run/x' EXIT",
        "exec 3</dev/null",
        "echo $$ >/run/x",
    ],
)
def test_what_changes_nothing_is_not_mentioned(text: str) -> None:
    assert line(f"{text}\n{COMMAND}").unclear == ()


@pytest.mark.parametrize("shell", ["dash", "bash"])
@pytest.mark.parametrize("text", ["ulimit -n 64", "ulimit -c 8", "ulimit 16", "ulimit -t 5", "ulimit -s 512"])
def test_limits_are_those_of_the_shell_itself(shell: str, text: str) -> None:
    """As prlimit(1) shows them of a program that the shell has started."""
    if shutil.which(shell) is None or shutil.which("prlimit") is None:
        pytest.skip(f"needs {shell} and prlimit")
    (limit,) = line(f"#!/bin/{shell}\n{text}\n{COMMAND}").settings["rlimits"].items()
    asked = ["prlimit", "--noheadings", "--raw", "--output=SOFT", f"--{limit[0]}"]
    done = subprocess.run(
        [shell, "-c", f"{text}; {' '.join(asked)}"], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == limit[1]


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("{} 2>>/var/log/x", "/var/log/x"),
        ("{} >/dev/null 2>&1 </dev/null &", "/dev/null"),
        ("{} 2>&1 >/dev/null", None),
        ("exec 2>>/var/log/x; {}", "/var/log/x"),
        ("exec 3>>/var/log/x 2>&3; {}", "/var/log/x"),
        ("exec >>/var/log/x 2>&1\nexec {}", "/var/log/x"),
        ("#!/bin/bash\n{} &>>/var/log/x", "/var/log/x"),
        ("cd /srv; {} 2>>log", "/srv/log"),
        ("F=/var/log/x; {} 2>>$F", "/var/log/x"),
        ("{} 2>&-", "/dev/null"),
        ("sh -c '{} 2>>/var/log/x'", "/var/log/x"),
        ("sh -c '{}' 2>>/var/log/x", "/var/log/x"),
        ("exec 2>>/var/log/x; (exec 2>>/var/log/y); {}", "/var/log/x"),
        ("exec 2>&1\n{}", None),
        ("{} <<END\nx\nEND", None),
    ],
)
def test_standard_error_goes_where_the_shell_sends_it(text: str, file: str | None) -> None:
    settings = line(text.format(COMMAND)).settings
    assert settings.get("stderr") == (None if file is None else {"file": file})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{} 2>&1 | logger -t mail", "standard error goes to a pipe, which is not carried over: set stderr"),
        ("#!/bin/bash\n{} |& logger", "standard error goes to a pipe, which is not carried over: set stderr"),
        ("#!/bin/bash\n{} 2> >(logger)", ">(logger) is known only at run time"),
        ("{} 2>>$LOG", "LOG is not set in this script"),
        ("{} 2>/var/log/x", "/var/log/x is appended to, and no longer emptied at each start"),
        ("{} 2>log", "standard error goes to log in a directory that is not known: set stderr"),
        ("{{ {}; }} 2>>/log", BEHIND_A_GROUP),
        ("( {} ) 2>&1 | logger", BEHIND_A_GROUP),
        ("while :; do {}; done 2>/log", BEHIND_A_GROUP),
        ("test -t 2 || exec 2>>/log; {}", "exec at line 1 depends on the command before it"),
    ],
)  # fmt: skip
def test_where_else_standard_error_goes_is_said(text: str, said: str) -> None:
    assert said in line(text.format(COMMAND)).unclear
