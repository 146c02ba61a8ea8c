"""The Ansible module tcpdconf_fragments: all files of a conf.d that the role writes, as one change."""

from __future__ import annotations

import json
import os
import re
import shutil
from typing import Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.tcpdconf_toml import serialize

DOCUMENTATION = r"""
---
module: tcpdconf_fragments
short_description: Write the configuration of tcpdconf as one change
description:
  - Writes one file for each service and C(00-tcpdconf.toml) for what no service has alone, into a directory
    that may hold files of others, and removes the files that it wrote for services that are gone.
  - Before anything is moved into place C(tcpdconf check) judges the directory as it will be, so a change that
    needs several files is one change. In check mode it is judged as well.
  - With I(courier) the services that Courier serves are translated as well, by C(tcpdconf-migrate), and are
    part of the same change.
  - Other files are never touched, and neither is a translated one that somebody has changed.
options:
  path:
    description: The directory of C(*.toml) files. It must exist, unless in check mode.
    type: path
    required: true
  tables:
    description: The tables of the configuration, C(services) among them. A value that is null is left out.
    type: dict
    required: true
  command:
    description: The command C(tcpdconf). In check mode it may be missing, and nothing is judged then.
    type: path
    required: true
  courier:
    description: Courier's configuration to translate. Where I(command) is missing it is left out, as above.
    type: path
extends_documentation_fragment:
  - ansible.builtin.files
author:
  - tcpdconf
"""

EXAMPLES = r"""
- name: One service
  tcpdconf_fragments:
    path: /etc/tcpdconf/conf.d
    command: /opt/tcpdconf/bin/tcpdconf
    mode: "0640"
    tables:
      services:
        hello:
          program: [/bin/echo, hello]
          user: nobody
          listeners: [{address: 127.0.0.1, port: 4025}]
"""

RETURN = r"""
written:
  description: Paths of the files that were written.
  type: list
  elements: str
  returned: success
removed:
  description: Paths of the files that were removed.
  type: list
  elements: str
  returned: success
kept:
  description: Paths of translated files that are kept, for somebody has changed them.
  type: list
  elements: str
  returned: when I(courier) was translated
translation:
  description: What C(tcpdconf-migrate) says of the translation.
  type: list
  elements: str
  returned: when I(courier) was translated
problems:
  description: What C(tcpdconf check --format json) found, warnings among it.
  type: list
  elements: dict
  returned: when it was asked
"""

MARKER = "# Written by the Ansible role tcpdconf. What is changed here is lost at its next run.\n"
_SHARED = "00-tcpdconf.toml"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class RefusedError(Exception):
    """Nothing was written; the text says why."""


def fragments(tables: dict[str, Any]) -> dict[str, str]:
    """File names and their content. Raises RefusedError."""
    shared = {name: table for name, table in tables.items() if name != "services" and table}
    files = {_SHARED: shared} if shared else {}
    for name, service in (tables.get("services") or {}).items():
        if not _NAME.fullmatch(name):
            raise RefusedError(f"services: {name!r} cannot be part of a file name")
        files[f"50-{name}.toml"] = {"services": {name: service}}
    try:
        return {name: serialize(content, f"{MARKER}\n") for name, content in files.items()}
    except ValueError as error:
        raise RefusedError(f"cannot write {error}") from None


def read(path: str) -> dict[str, str]:
    """The files of a directory that tcpdconf would read, by name; none where there is no directory."""
    there = {}
    for name in sorted(os.listdir(path)) if os.path.isdir(path) else ():
        if name.endswith(".toml") and not name.startswith((".", "#")):
            # bytes that are no UTF-8 survive a copy
            place = os.path.join(path, name)
            with open(place, encoding="utf-8", errors="surrogateescape", newline="") as file:
                there[name] = file.read()
    return there


def own(there: dict[str, str]) -> set[str]:
    """The names of the files that this module wrote."""
    return {name for name, text in there.items() if text.startswith(MARKER)}


def require_free(path: str, wanted: dict[str, str], there: dict[str, str]) -> None:
    """Raise RefusedError where a file of somebody else's is in the way."""
    foreign = sorted(wanted.keys() & there.keys() - own(there))
    if foreign:
        raise RefusedError(f"{os.path.join(path, foreign[0])} was not written by this role; remove it first")


def changes(wanted: dict[str, str], there: dict[str, str]) -> dict[str, tuple[str, str | None]]:
    """Return (present text, wanted text) of each file that differs, by name; None is a file to be removed."""
    found = {name: (there.get(name, ""), text) for name, text in wanted.items() if there.get(name) != text}
    return {**found, **{name: (there[name], None) for name in own(there) - wanted.keys()}}


class Translation(NamedTuple):
    """Holds the answer of tcpdconf-migrate about Courier's configuration.

    Attributes:
        files: texts of the files that it writes or has written, by name.
        kept: names of files that it leaves alone, because somebody has changed or written them.
        said: its output, line by line.
    """

    files: dict[str, str]
    kept: list[str]
    said: list[str]


class Conf:
    """A directory, and the module's means to judge and change it."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self._path = module.params["path"]

    def translate(self, tables: dict[str, Any], there: dict[str, str]) -> Translation:
        """Return the files that tcpdconf-migrate would write, without writing into the directory.

        tcpdconf-migrate alone knows its own files. So it runs on a copy of the directory and on an empty one,
        and the results are compared. A service that the variables describe is left out, unless its file is
        there already: then `judge` names both places.

        Raises:
            RefusedError: it finds nothing to translate, or cannot.
        """
        fresh = os.path.join(self._module.tmpdir, "fresh")
        copy = os.path.join(self._module.tmpdir, "copy")
        beside = {name: text for name, text in there.items() if name not in own(there)}
        if tables.get("dns_chains"):  # a file of somebody else's may use one
            beside.setdefault(_SHARED, serialize({"dns_chains": tables["dns_chains"]}))
        try:
            for folder, texts in ((fresh, {}), (copy, beside)):
                os.makedirs(folder, mode=0o700)
                for name, text in texts.items():
                    _write(os.path.join(folder, name), text)
            self._migrate(fresh)
            said = self._migrate(copy)
            written, after = read(fresh), read(copy)
        finally:
            for folder in (fresh, copy):
                shutil.rmtree(folder, ignore_errors=True)
        kept = [name for name in written if after[name] == there.get(name) != written[name]]
        described = {f"{name}.toml" for name in tables.get("services") or {}} - there.keys()
        files = {name: after[name] for name in written if name not in described and name not in kept}
        return Translation(files, kept, said)

    def _migrate(self, directory: str) -> list[str]:
        """Let tcpdconf-migrate write into a stand-in for the directory; return what it says of the directory.

        Raises:
            RefusedError: it has failed.
        """
        command = os.path.join(os.path.dirname(self._module.params["command"]), "tcpdconf-migrate")
        words = [command, "courier", "--output", directory, "--", self._module.params["courier"]]
        status, _, error = self._module.run_command(words)
        error = error.replace(directory, self._path)
        if status:
            raise RefusedError(f"Courier's configuration cannot be translated, nothing was changed:\n{error}")
        return [line for line in error.splitlines() if not line.startswith("written: ")]  # not yet

    def judge(self, wanted: dict[str, str], removed: list[str]) -> list[dict[str, Any]]:
        """Check the directory as it will be, and return the warnings of tcpdconf.

        Raises:
            RefusedError: tcpdconf would refuse the directory.
        """
        drafts = os.path.join(self._module.tmpdir, "drafts")
        directory = self._path if os.path.isdir(self._path) else os.path.join(self._module.tmpdir, "empty")
        for folder in {drafts, directory}:
            os.makedirs(folder, exist_ok=True)
        stand_in = dict.fromkeys(removed, os.devnull)
        for name, text in wanted.items():
            stand_in[name] = os.path.join(drafts, name)
            _write(stand_in[name], text)
        command = [self._module.params["command"], "check", "--format", "json", directory]
        for name, draft in stand_in.items():
            command += ["--replace", f"{os.path.join(directory, name)}={draft}"]
        status, said, error = self._module.run_command(command)
        shutil.rmtree(drafts)
        try:
            problems: list[dict[str, Any]] = json.loads(said)
        except ValueError:
            raise RefusedError(f"{' '.join(command[:2])} failed: {error or said}") from None
        for problem in problems:
            if os.path.dirname(problem["file"]) == drafts:
                problem["file"] = os.path.join(self._path, os.path.basename(problem["file"]))
        if status:
            lines = [self._line(problem) for problem in problems if problem["severity"] == "error"]
            raise RefusedError("\n".join(["tcpdconf would refuse this, and nothing was changed:", *lines]))
        return problems

    def _line(self, problem: dict[str, Any]) -> str:
        """A problem as tcpdconf prints it, without the line of the file."""
        if problem["code"] in ("no-files", "no-service"):
            given = self._module.params["tables"].get("services")
            why = "enables none of its services" if given else "is empty"
            text = f"tcpdconf_services {why}, and no other file in {self._path} has an enabled service"
            return (
                f"no service would run: {text}. {'Enable' if given else 'Describe'} one in tcpdconf_services"
            )
        place = [problem["file"], *(str(problem[key]) for key in ("line", "column") if problem["line"])]
        parts = [":".join(place), problem["key"], problem["message"]]
        hint = f" ({problem['hint']})" if problem["hint"] else ""
        return ": ".join(part for part in parts if part) + hint

    def adopt(self, wanted: dict[str, str], changed: dict[str, tuple[str, str | None]]) -> bool:
        """Put every file in its place; whether owner, group or mode of one that was there is another now."""
        attributes = False
        drafts = []
        for name, text in wanted.items():
            place = os.path.join(self._path, name)
            like = self._module.load_file_common_arguments(self._module.params, path=place)
            if name in changed and not self._module.check_mode:
                draft = os.path.join(self._path, f".{name}.draft")  # a name that is no configuration
                _write(draft, text)
                self._module.set_fs_attributes_if_different({**like, "path": draft}, changed=False)
                drafts.append((draft, place))
            elif name not in changed:
                attributes = self._module.set_fs_attributes_if_different(like, attributes)
        for draft, place in drafts:
            os.replace(draft, place)
        for name, (_, after) in changed.items():
            if after is None and not self._module.check_mode:
                os.unlink(os.path.join(self._path, name))
        return attributes


def _write(path: str, text: str) -> None:
    """A file that only its owner may read so far."""
    if os.path.lexists(path):  # what an earlier run left that was ended
        os.unlink(path)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(text.encode(errors="surrogateescape"))


def _shown(text: str) -> str:
    """A text without the bytes that JSON cannot carry."""
    return text.encode(errors="surrogateescape").decode(errors="replace")


def _require_quotes(mode: object) -> None:
    """Raise RefusedError for a mode that YAML has read as a number."""
    if mode is not None and not isinstance(mode, str):
        raise RefusedError(f'mode: must be a string, in quotes as in "0640", not the number {mode}')


def run(module: AnsibleModule) -> dict[str, Any]:
    """Do it; what the module returns."""
    path, tables = module.params["path"], module.params["tables"]
    _require_quotes(module.params["mode"])
    there = read(path)
    wanted = fragments(tables)
    require_free(path, wanted, there)
    conf = Conf(module)
    installed = os.path.exists(module.params["command"]) or not module.check_mode
    result: dict[str, Any] = {}
    if module.params["courier"] and installed:
        translation = conf.translate(tables, there)
        wanted |= translation.files
        result["kept"] = [os.path.join(path, name) for name in translation.kept]
        result["translation"] = translation.said
    changed = changes(wanted, there)
    removed = [name for name, (_, text) in changed.items() if text is None]
    result |= {
        "written": [os.path.join(path, name) for name in changed if name not in removed],
        "removed": [os.path.join(path, name) for name in removed],
        "diff": [
            {
                "before_header": os.path.join(path, name),
                "after_header": os.path.join(path, name),
                "before": _shown(before),
                "after": after or "",
            }
            for name, (before, after) in changed.items()
        ],
    }
    if installed:
        result["problems"] = conf.judge(wanted, removed)
    result["changed"] = conf.adopt(wanted, changed) or bool(changed)
    return result


def main() -> None:
    """Run as Ansible runs modules."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "tables": {"type": "dict", "required": True},
            "command": {"type": "path", "required": True},
            "courier": {"type": "path"},
        },
        add_file_common_args=True,
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except RefusedError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"cannot write {error.filename}: {error.strerror}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
