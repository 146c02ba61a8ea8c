"""Writes the pages of docs/reference that repeat what the program says of itself.

    python docs/generate.py            writes them
    python docs/generate.py --check    writes nothing; fails when one is not what it would write

`commands.md` is the `--help` of every command, `configuration.md` the JSON Schema as tables: one for each
TOML table, with type, default, version and an example of every key. `couriertcpd-options.md` is the table
of options by which couriertcpd's command lines are read, `problems.md` that of the codes of problems.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from tcpdconf.config import argvoptions, codes, model, schema

REFERENCE: Final = pathlib.Path(__file__).parent / "reference"
_FIRST_VERSION: Final = "0.1.0"  # of keys that do not say since when they are there (x-since in the schema)
_MADE: Final = "<!-- Written by docs/generate.py. -->\n"
_INTRODUCTION: Final = """\
Every key of a file in conf.d, with its type and default as TOML has them. `[defaults]` has the keys of a
service and fills in what services leave out; an array of a service replaces the array of the defaults.
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
file, line and column it is, which key it is about, what is wrong and, as a hint, what to do. Warnings have
`warning:` before the key and let everything go on.
"""
_STATUS: Final = """\
Exit status: 0 done; 2 wrong usage; 78 bad configuration; 1 anything else. Of `tcpdconf-migrate argv`, 2 also
says that couriertcpd would not take the command line.
"""
# what argparse looks at before it wraps and colours
_TERMINAL: Final = {"COLUMNS": "100", "NO_COLOR": "1", "PYTHON_COLORS": "0"}


class Table(NamedTuple):
    """A TOML table to describe: the definition that it follows, and the headline over it."""

    definition: str
    header: str


def pages() -> dict[str, str]:
    """Name and content of each page."""
    return {
        "commands.md": commands(),
        "configuration.md": configuration(),
        "couriertcpd-options.md": options(),
        "problems.md": problems(),
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
    rows = [_row(_option(option), _keys_of(option), option.says) for option in argvoptions.OPTIONS]
    return "\n".join([f"{_MADE}# Options of couriertcpd\n", _OPTIONS + "\n".join(rows), ""])


def _option(option: argvoptions.Option) -> str:
    return f"`-{option.name}={option.value}`" if option.value else f"`-{option.name}`"


def _keys_of(option: argvoptions.Option) -> str:
    return ", ".join(f"`{key}`" for key in option.keys)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def configuration() -> str:
    """The page on the configuration."""
    written = schema.schema()
    definitions = written["definitions"]
    parts = [f"{_MADE}# Configuration\n", _INTRODUCTION, "\n".join(_keys(written, set()))]
    for table in _tables(definitions, written, set()):
        definition = definitions[table.definition]
        required = set(definition.get("required", ()))
        if table.definition == "ServiceSettings":
            required = {name for name, field in model.Service.model_fields.items() if field.is_required()}
        parts += [f"## {table.header}\n", definition["description"] + "\n"]
        parts.append("\n".join(_keys(definition, required)))
    return "\n".join(parts)


def problems() -> str:
    """The page on problems."""
    parts = [f"{_MADE}# Problems\n", _PROBLEMS]
    for code, entry in codes.CODES.items():
        parts += [f"## `{code}`\n", f"{entry.cause}\n", f"Cure: {entry.cure}\n"]
        parts.append(f"```text\n{entry.example}\n```\n")
    return "\n".join(parts)


def _tables(
    definitions: dict[str, Any], node: dict[str, Any], known: set[str], path: str = ""
) -> Iterator[Table]:
    """Every table below a node, each once, where it is first met; what is inside it follows it."""
    for key, value in node["properties"].items():
        inside = f"{path}{key}.NAME" if "patternProperties" in value else path + key
        for name, is_array in _referred(value):
            if name in known:
                continue
            known.add(name)
            header = f"`[[{inside}]]`" if is_array else f"`[{inside}]`"
            yield Table(name, f"{header} ({_spaced(name)})")
            yield from _tables(definitions, definitions[name], known, inside + ".")


def _referred(node: Any, *, is_array: bool = False) -> Iterator[tuple[str, bool]]:  # noqa: ANN401 (JSON)
    """The definitions that a schema refers to, and whether they are items of an array."""
    if isinstance(node, list):
        for item in node:
            yield from _referred(item, is_array=is_array)
    elif isinstance(node, dict):
        if "$ref" in node:
            yield _name(node), is_array
        for word, item in node.items():
            yield from _referred(item, is_array=is_array or word == "items")


def _keys(node: dict[str, Any], required: set[str]) -> Iterator[str]:
    yield "| key | type | default | since | |"
    yield "|---|---|---|---|---|"
    for key, value in node["properties"].items():
        default = "required" if key in required else _default(value)
        yield _row(f"`{key}`", _type(value), default, value.get("x-since", _FIRST_VERSION), _words(value))
    yield ""


def _default(node: dict[str, Any]) -> str:
    return f"`{_toml(node['default'])}`" if "default" in node else ""


def _words(node: dict[str, Any]) -> str:
    """The description, and the examples, unless the type has said all that there is to choose from."""
    chosen = "enum" in node or node.get("type") == "boolean"
    shown = "" if chosen else " or ".join(f"`{_toml(example)}`" for example in node["examples"])
    return str(node.get("description", "")) + (f" Example: {shown}" if shown else "")


def _type(node: dict[str, Any]) -> str:
    """A schema in words."""
    if "$ref" in node:
        return f"table: {_spaced(_name(node))}"
    for word in ("allOf", "anyOf", "oneOf"):
        if word in node:
            return " or ".join(dict.fromkeys(_type(member) for member in node[word]))
    if "const" in node or "enum" in node:
        return " or ".join(f"`{_toml(value)}`" for value in node.get("enum", [node.get("const")]))
    kind = str(node["type"])
    if kind == "array":
        items = node["items"] if isinstance(node["items"], dict) else node["items"][0]
        return f"array of ({_type(items)})"
    if kind == "object":
        return f"table of ({_type(next(iter(node['patternProperties'].values())))})"
    return kind.replace("integer", "whole number") + _bounds(node)


def _bounds(node: dict[str, Any]) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    if "exclusiveMinimum" in node:
        return f" above {node['exclusiveMinimum']}, up to {high}"
    if low is not None and high is not None:
        return f" {low} to {high}"
    return f" from {low}" if low is not None else ""


def _name(node: dict[str, Any]) -> str:
    return str(node["$ref"]).rpartition("/")[2]


def _spaced(name: str) -> str:
    """`DnsList` -> `dns list`; `ServiceSettings` is what everybody calls a service."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.removesuffix("Settings"))
    return words.lower()


def _toml(value: object) -> str:
    """A value in one line of TOML."""
    if isinstance(value, dict):
        inside = ", ".join(f"{key} = {_toml(item)}" for key, item in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return json.dumps(value)


def main() -> int:
    """Write the pages, or say which are not current."""
    stale = []
    for name, content in pages().items():
        page = REFERENCE / name
        if not page.exists() or page.read_text(encoding="utf-8") != content:
            stale.append(name)
            if "--check" not in sys.argv:
                page.write_text(content, encoding="utf-8")
    if stale and "--check" in sys.argv:
        sys.stderr.write(f"not current: {', '.join(stale)}; run docs/generate.py\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
