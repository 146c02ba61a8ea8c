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
from tcpdconf.config.model import presets

_TOP: Final = pathlib.Path(__file__).parents[1]
_MADE: Final = "<!-- Written by docs/generate.py. -->\n"
_PRESETS: Final = """\
These are the names for `preset` of a DNS list. A preset fills in the keys that the list leaves out. Any of
them may be written to override it. `tcpdconf show --origin` names the preset beside each such value. An
operator may have changed the terms since the date given.
"""
_INTRODUCTION: Final = """\
This page lists every key of a file in conf.d, with its type and default as TOML writes them. `[defaults]` has
the keys of a service, for services that leave them out. An array of a service replaces the array of the
defaults.

The supervisor does nothing else while it reads these files. Their size is therefore limited (problem
[`too-large`](problems.md)). All files together may have 1,048,576 bytes and 50,000 tokens. A token is one of
the characters `= , . [ {` or the end of a line; empty lines and comment lines have none. That is enough for
5,000 access rules, or for 3,500 with a variable each. A directory may have 1,000 files and 500 services, and
`[defaults]` may give all services together 100,000 values. Put longer lists into
[access files](access-files.md), which may have a million records: workers read them while they serve. With
`format = "toml"`, such a file has rules in the form of this page.
"""
_OPTIONS: Final = """\
This table maps each option of couriertcpd to keys of `[services.NAME]`. The drop-in `couriertcpd` and
`tcpdconf-migrate` use it to read command lines. [Differences](differences.md) lists where tcpdconf differs
from couriertcpd.

A command line is `couriertcpd [options] LIST PROGRAM [ARGUMENTS]`. If an option is given twice, the last one
counts; only `-block` and `-allow` add up, in their order. A `-` alone ends the options. Numbers are read as
C's atoi reads them: ` +12abc` is 12, and text without a number is 0. `-NAME=` is the same as `-NAME`.

| | key | |
|---|---|---|
| LIST | `listeners.port`, `listeners.address` | `PORT` and `ADDRESS.PORT`, with commas between them |
| PROGRAM, ARGUMENTS | `program` | a relative path starts from the working directory |
| the environment | `inherit_environment` | `true`: programs inherit it |
| the working directory | `directory` | |
"""
_PROBLEMS: Final = """\
This page lists the problems that `tcpdconf check`, `run`, `reload`, `show` and `explain` report, by their
codes. `check --format json` and the `problems` of [status and reload](control.md) name the code of each
problem. `check --format github` has it as the title. A code never changes. A later version may word messages
differently, so scripts should look for codes.

A problem has a file, line and column, its severity (`error:` or `warning:`), the key, a message, and often a
hint that says what to do. A configuration with errors is not used. One with warnings is.

If a file has syntax errors, all of them are shown, together with the problems in the rest of the file.
Problems have colours at a terminal, unless `--color never`, `NO_COLOR` or `TERM=dumb` is set. `--color
always` adds them elsewhere. JSON and GitHub's format never have colours.

## In JSON

`check --format json` prints an array of objects, which is empty if there is no problem. The `problems` of
[status and reload](control.md) have the same form.

| key | type | |
|---|---|---|
| `severity` | string | `error` or `warning` |
| `code` | string | one of those below |
| `file` | string | the file, or the directory for a problem of the whole directory |
| `line`, `column` | integer | from 1, in characters; 0 for a problem of the whole file or directory |
| `key` | string | the TOML key, such as `services.imap.listeners[0].port`; empty without a key |
| `message` | string | the problem, in one line |
| `hint` | string or null | what to do |
| `edits` | array | the replacements in `file` that carry out the hint; empty if the hint needs a decision |

Each of the `edits`:

| key | type | |
|---|---|---|
| `line`, `column` | integer | start of the text to replace, from 1 |
| `end_line`, `end_column` | integer | end of the text to replace: its first character that stays |
| `text` | string | the new text |

"""
_STATUS: Final = """\
Exit status: 0 done; 2 wrong usage; 78 bad configuration; 1 anything else. These commands differ:

| command | exit status |
|---|---|
| `explain` | 0 the connection would be admitted; 1 refused |
| `status --wait` | 0 every service accepts; 1 the time is over |
| `status --check` | 0 ok; 1 warning; 2 critical; 3 no daemon answers, or wrong usage |
| `reload` | 0 the new configuration applies; 1 rejected |
| `reload --dry-run` | 0 nothing would change; 1 something would; 78 rejected; 3 no daemon answers |
| `tcpdconf-migrate argv` | 2 also if couriertcpd would refuse the command line |

A duration is a number of seconds, or a number with a unit, as in TOML: `10s`, `5min`, `24h`, `500ms`. For an
unknown command, option or value, the message suggests the nearest one.
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
    return "\n".join([*parts, "## DNS lists by name\n", _PRESETS, *_presets()])


def _presets() -> Iterator[str]:
    """Yield the presets of DNS lists, each with its codes, terms and sources."""
    for name, preset in presets.known().items():
        settings = preset["settings"]
        key = "; needs `key_file`" if presets.needs_key(name) else ""
        yield f"### `{name}`\n"
        yield f"{preset['about']}. Zone `{settings['zone']}`{key}.\n"
        counted = ", ".join(f"`{each}`" for each in settings.get("match", ())) or "all that can be listings"
        yield f"- Answers that count: {counted}."
        codes_ = "; ".join(f"`{code}` {meaning}" for code, meaning in preset.get("codes", {}).items())
        yield f"- Documented answers: {codes_ or 'none were found in the sources'}."
        yield f"- Terms of use: {preset['terms']}"
        yield f"- Sources, read on {preset['checked']}: " + ", ".join(f"<{url}>" for url in preset["sources"])
        yield ""


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
