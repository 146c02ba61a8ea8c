"""Writes meta/argument_specs.yml of the role from the models of the configuration.

    python deploy/ansible/argument_specs.py            writes it
    python deploy/ansible/argument_specs.py --check    writes nothing; fails when it is not current

The variables of the configuration are the tables of the JSON Schema. Ansible has no word for a table whose
keys are anybody's (services, chains, environments), and what takes values of several types is `raw` for it;
`tcpdconf check`, which judges all of it before anything is written, has no such gaps.
"""

import json
import pathlib
import sys
import textwrap
from collections.abc import Iterator
from typing import Any, Final

from tcpdconf.config.model import jsonschema as config_schema

TARGET: Final = pathlib.Path(__file__).parent / "roles/tcpdconf/meta/argument_specs.yml"
_TYPES: Final = {
    "string": "str", "integer": "int", "number": "float", "boolean": "bool",
    "array": "list", "object": "dict",
}  # fmt: skip
# variables of the role that are no tables: type, choices, description
_OWN: Final[dict[str, tuple[str, list[str], str]]] = {
    "tcpdconf_directory": ("path", [], "Directory of the configuration, which may hold other files too."),
    "tcpdconf_owner": ("str", [], "Owner of the directory and the files."),
    "tcpdconf_group": ("str", [], "Group of the directory and the files."),
    "tcpdconf_mode": ("str", [], "Mode of the files, in quotes."),
    "tcpdconf_no_log": ("bool", [], "Leaves the configuration out of output, --diff and logs."),
    "tcpdconf_install": ("bool", [], "Installs tcpdconf."),
    "tcpdconf_venv": ("path", [], "Virtual environment in which tcpdconf is installed."),
    "tcpdconf_python": ("str", [], "Python, 3.11 or newer, for the virtual environment."),
    "tcpdconf_wheel": (
        "str",
        [],
        "Wheel on the controller to install. When empty, tcpdconf comes from an index.",
    ),
    "tcpdconf_deb": (
        "str",
        [],
        "Debian package on the controller to install, in place of a virtual environment.",
    ),
    "tcpdconf_version": (
        "str",
        [],
        "Version to install, in quotes. When empty, any version, which is not upgraded later.",
    ),
    "tcpdconf_index_url": ("str", [], "Package index. When empty, that of pip's configuration."),
    "tcpdconf_pip_arguments": ("str", [], "Further arguments of pip install."),
    "tcpdconf_service_manager": (
        "str",
        ["systemd", "none"],
        "Service manager that starts tcpdconf. With none, the role starts nothing.",
    ),
    "tcpdconf_runtime_directory": (
        "path",
        [],
        "Directory of control.sock, through which the role reloads the daemon.",
    ),
    "tcpdconf_migrate": ("bool", [], "Translates the services of Courier on this host."),
    "tcpdconf_courier_directory": ("path", [], "Directory of Courier's own configuration."),
}


def specification() -> dict[str, Any]:
    """The whole file."""
    written = config_schema.schema()
    definitions = written["definitions"]
    tables = {f"tcpdconf_{name}": _option(node, definitions) for name, node in written["properties"].items()}
    for table in tables.values():  # an empty one, the default, stands for a table that is left out
        for option in table.get("options", {}).values():
            option.pop("required", None)
    own = {
        name: {"type": kind, **({"choices": choices} if choices else {}), "description": text}
        for name, (kind, choices, text) in _OWN.items()
    }
    return {
        "argument_specs": {
            "main": {
                "short_description": "Install tcpdconf, write its configuration as one change, and reload it",
                "options": {**tables, **own},
            },
        }
    }


def _options(table: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The keys of a table."""
    found = {key: _option(node, definitions) for key, node in table["properties"].items()}
    for key in table.get("required", ()):
        found[key]["required"] = True
    return found


def _option(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """One key: its type and what it is for."""
    found = _typed(node, definitions)
    if isinstance(node.get("default"), str | int | float):
        found["default"] = node["default"]
    if "description" in node:
        found["description"] = node["description"]
    return found


def _typed(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    for reference in (node, *node.get("allOf", ())):
        if "$ref" in reference:
            table = definitions[reference["$ref"].rpartition("/")[2]]
            return {"type": "dict", "options": _options(table, definitions)}
    if "type" not in node:
        return {"type": "raw"}
    found: dict[str, Any] = {"type": _TYPES[node["type"]]}
    if "enum" in node:
        found["choices"] = node["enum"]
    if "items" in node:
        items = node["items"]
        inside = _typed(items[0] if isinstance(items, list) else items, definitions)
        found["elements"] = inside.pop("type")
        found |= inside
    return found


def _yaml(value: dict[str, Any], indent: str = "") -> Iterator[str]:
    """YAML's lines; scalars as JSON writes them, which YAML reads."""
    for key, item in value.items():
        if isinstance(item, dict) and item:
            yield f"{indent}{key}:"
            yield from _yaml(item, indent + "  ")
        elif key == "description":
            yield f"{indent}{key}: >-"
            yield from textwrap.wrap(item, 100, initial_indent=f"{indent}  ", subsequent_indent=f"{indent}  ")
        else:
            yield f"{indent}{key}: {json.dumps(item, ensure_ascii=False)}"


def text() -> str:
    """The file's content."""
    header = "---\n# Written by deploy/ansible/argument_specs.py.\n"
    return header + "".join(f"{line}\n" for line in _yaml(specification()))


def main() -> int:
    """Write the file, or say that it is not current."""
    content = text()
    if TARGET.exists() and TARGET.read_text(encoding="utf-8") == content:
        return 0
    if "--check" in sys.argv:
        sys.stderr.write(f"not current: {TARGET.name}; run deploy/ansible/argument_specs.py\n")
        return 1
    TARGET.write_text(content, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
