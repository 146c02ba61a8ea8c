"""Writes what repeats what the program says of itself: pages of docs/reference, and all of share.

    python docs/generate.py            writes them
    python docs/generate.py --check    writes nothing; fails when one is not what it would write

`commands.md` is the `--help` of every command, `configuration.md` the JSON Schema as tables: one for each
TOML table, with type, default, version and an example of every key. `couriertcpd-options.md` is the table
of options by which couriertcpd's command lines are read, `problems.md` that of the codes of problems.
Below share are the manual pages (`manpages`) and the completion of shells (`completions`).
"""

import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

import completions
import manpages
import schematables
from tcpdconf.config import codes
from tcpdconf.config.couriertcpd import grammar

_TOP: Final = pathlib.Path(__file__).parents[1]
_MADE: Final = "<!-- Written by docs/generate.py. -->\n"
_INTRODUCTION: Final = """\
Every key of a file in conf.d, with its type and default as TOML has them. `[defaults]` has the keys of a
service and fills in what services leave out; an array of a service replaces the array of the defaults.

The supervisor reads these files and answers nobody meanwhile, so they may not be too large (`too-large`
of the [problems](problems.md)). All files together may have 1,048,576 bytes and 50,000 tokens. A token is
one of the characters `= , . [ {` or the end of a line; empty lines and lines of comment have none. That is
enough for 5,000 access rules, or for 3,500 with a variable each. A directory may have 1,000 files and 500
services, and `[defaults]` may give all services together 100,000 values. Longer lists belong into
[access files](access-files.md): workers read them beside their work, and they may have a million records.
With `format = "toml"` they have the rules as they are written here.
"""
_OPTIONS: Final = """\
What each option of couriertcpd is in a service: the keys are those of `[services.NAME]`. The drop-in
`couriertcpd` and `tcpdconf-migrate` read command lines by this table; [Differences](differences.md) says what
is not as it was.

A command line is `couriertcpd [options] LIST PROGRAM [ARGUMENTS]`. Of an option that is given twice the last
counts, but `-block` and `-allow` add up in their order. A `-` alone ends the options. Numbers are read as C's
atoi reads them: ` +12abc` is 12, and what is no number is 0. `-NAME=` is the same as `-NAME`.

| | key | |
|---|---|---|
| LIST | `listeners.port`, `listeners.address` | `PORT` and `ADDRESS.PORT`, with commas between them |
| PROGRAM, ARGUMENTS | `program` | a path that is not absolute is taken from the working directory |
| the environment | `inherit_environment` | `true`: programs inherit it |
| the working directory | `directory` | |
"""
_PROBLEMS: Final = """\
What `tcpdconf check`, `run`, `reload`, `show` and `explain` find wrong, by its code. `check --format json`,
and the `problems` of [status and reload](control.md), name the code of each; `--format github` has it as
the title. Codes stay what they are; messages may be said better in a later version. A problem says in which
file, line and column it is, whether it is an `error:` or a `warning:`, which key it is about, what is wrong
and, as a hint, what to do. Warnings let everything go on.

Of a file with syntax errors all are shown, and what is wrong with the rest of it. At a terminal problems have
colours, unless `--color never`, `NO_COLOR` or `TERM=dumb` says otherwise; never elsewhere, unless `--color
always` does, and never in JSON or for GitHub.

## In JSON

`check --format json` prints an array of objects, an empty one where all is well. The `problems` of
[status and reload](control.md) are the same.

| key | type | |
|---|---|---|
| `severity` | string | `error` or `warning` |
| `code` | string | one of those below |
| `file` | string | its path as the directory was given; the directory where no file is meant |
| `line`, `column` | integer | from 1, in characters; 0 where the whole file or directory is meant |
| `key` | string | the TOML key, as `services.imap.listeners[0].port`; empty where none is meant |
| `message` | string | what is wrong, in one line |
| `hint` | string or null | what to do |
| `edits` | array | where the hint can be said as text: the pieces of `file` to replace |

Each of the `edits`:

| key | type | |
|---|---|---|
| `line`, `column` | integer | where the piece begins, from 1 |
| `end_line`, `end_column` | integer | where it ends: the first character that stays |
| `text` | string | what is to stand there |

"""
_STATUS: Final = """\
Exit status: 0 done; 2 wrong usage; 78 bad configuration; 1 anything else. What is different:

| command | exit status |
|---|---|
| `explain` | 0 the connection would be admitted; 1 refused |
| `status --wait` | 0 every service accepts; 1 not within that time |
| `status --check` | 0 ok; 1 warning; 2 critical; 3 no daemon can say, or wrong usage |
| `reload` | 0 taken on; 1 rejected |
| `reload --dry-run` | 0 nothing would change; 1 something would; 78 rejected; 3 no daemon can say |
| `tcpdconf-migrate argv` | 2 also where couriertcpd would not take the command line |

A duration is a number of seconds, or one as in TOML: `10s`, `5min`, `24h`, `500ms`. A wrong word is answered
with the one that was probably meant.
"""
# what argparse looks at before it wraps and colours
_TERMINAL: Final = {"COLUMNS": "100", "NO_COLOR": "1", "PYTHON_COLORS": "0"}


def pages() -> dict[str, str]:
    """Path and content of each."""
    return {
        "docs/reference/commands.md": commands(),
        "docs/reference/configuration.md": configuration(),
        "docs/reference/couriertcpd-options.md": options(),
        "docs/reference/problems.md": problems(),
        **{f"share/man/{path}": text for path, text in manpages.pages().items()},
        **{f"share/{path}": text for path, text in completions.files().items()},
    }


def commands() -> str:
    """The page on commands."""
    parts = [
        f"{_MADE}# Commands\n",
        _STATUS,
        *_command("tcpdconf", "tcpdconf"),
        "## tcpdconf-migrate\n",
        *_command("tcpdconf-migrate", "tcpdconf_migrate"),
    ]
    return "\n".join(parts)


def _command(program: str, module: str) -> Iterator[str]:
    """The help of a program and of each of its subcommands."""
    whole = _help(module)
    yield f"```text\n{whole}```\n"
    for name in re.findall(r"^    (\w+)(?: |$)", whole, re.MULTILINE):
        yield f"## {program} {name}\n\n```text\n{_help(module, name)}```\n"


def _help(*command: str) -> str:
    said = subprocess.run(
        [sys.executable, "-m", *command, "--help"],
        env={**os.environ, **_TERMINAL},
        capture_output=True,
        text=True,
        check=True,
    )
    return said.stdout


def options() -> str:
    """The page on couriertcpd's options."""
    rows = [_row(_option(option), _keys_of(option), option.says) for option in grammar.OPTIONS]
    return "\n".join([f"{_MADE}# Options of couriertcpd\n", _OPTIONS + "\n".join(rows), ""])


def _option(option: grammar.Option) -> str:
    return f"`-{option.name}={option.value}`" if option.value else f"`-{option.name}`"


def _keys_of(option: grammar.Option) -> str:
    return ", ".join(f"`{key}`" for key in option.keys)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def configuration() -> str:
    """The page on the configuration."""
    file, *inside = schematables.tables()
    parts = [f"{_MADE}# Configuration\n", _INTRODUCTION, "\n".join(_keys(file))]
    for table in inside:
        parts += [f"## {table.header} ({table.name})\n", table.description + "\n", "\n".join(_keys(table))]
    return "\n".join(parts)


def _keys(table: schematables.Table) -> Iterator[str]:
    yield "| key | type | default | since | |"
    yield "|---|---|---|---|---|"
    for key in table.keys:
        yield _row(f"`{key.name}`", key.type, key.default, key.since, key.words)
    yield ""


def problems() -> str:
    """The page on problems."""
    parts = [f"{_MADE}# Problems\n", _PROBLEMS]
    for code, entry in codes.CODES.items():
        parts += [f"## `{code}`\n", f"{entry.cause}\n", f"Cure: {entry.cure}\n"]
        parts.append(f"```text\n{entry.example}\n```\n")
    return "\n".join(parts)


def main() -> int:
    """Write the pages, or say which are not current."""
    stale = []
    for name, content in pages().items():
        page = _TOP / name
        if not page.exists() or page.read_text(encoding="utf-8") != content:
            stale.append(name)
            if "--check" not in sys.argv:
                page.parent.mkdir(parents=True, exist_ok=True)
                page.write_text(content, encoding="utf-8")
    if stale and "--check" in sys.argv:
        sys.stderr.write(f"not current: {', '.join(stale)}; run docs/generate.py\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
