"""The Ansible module tcpdconf_fragments: all files of a conf.d that the role writes, as one change."""

from __future__ import annotations

import json
import os
import re
import shutil
from typing import Any

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
  - Files that begin with another line than this module's are never touched.
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


def changes(path: str, wanted: dict[str, str]) -> dict[str, tuple[str, str | None]]:
    """What is there and what is to be there, by file name; None is to be removed.

    Raises:
        RefusedError: a file of somebody else's is in the way.
    """
    there = {}
    for name in sorted(os.listdir(path)) if os.path.isdir(path) else ():
        if name.endswith(".toml") and not name.startswith((".", "#")):
            with open(os.path.join(path, name), encoding="utf-8", errors="replace", newline="") as file:
                there[name] = file.read()
    ours = {name for name, text in there.items() if text.startswith(MARKER)}
    foreign = sorted(wanted.keys() & there.keys() - ours)
    if foreign:
        raise RefusedError(f"{os.path.join(path, foreign[0])} was not written by this role; remove it first")
    found = {name: (there.get(name, ""), text) for name, text in wanted.items() if there.get(name) != text}
    return {**found, **{name: (there[name], None) for name in ours - wanted.keys()}}


class Conf:
    """A directory, and the module's means to judge and change it."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self._path = module.params["path"]

    def judge(self, wanted: dict[str, str], removed: list[str]) -> list[dict[str, Any]]:
        """What tcpdconf says of the directory as it will be.

        Raises:
            RefusedError: it would refuse that.
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
            lines = [_line(problem) for problem in problems if problem["severity"] == "error"]
            raise RefusedError("\n".join(["tcpdconf would refuse this, and nothing was changed:", *lines]))
        return problems

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
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def _line(problem: dict[str, Any]) -> str:
    """A problem as tcpdconf prints it, without the line of the file."""
    place = [problem["file"], *(str(problem[key]) for key in ("line", "column") if problem["line"])]
    parts = [":".join(place), problem["key"], problem["message"]]
    hint = f" ({problem['hint']})" if problem["hint"] else ""
    return ": ".join(part for part in parts if part) + hint


def run(module: AnsibleModule) -> dict[str, Any]:
    """Do it; what the module returns."""
    path = module.params["path"]
    wanted = fragments(module.params["tables"])
    changed = changes(path, wanted)
    removed = [name for name, (_, text) in changed.items() if text is None]
    conf = Conf(module)
    result: dict[str, Any] = {
        "written": [os.path.join(path, name) for name in changed if name not in removed],
        "removed": [os.path.join(path, name) for name in removed],
        "diff": [
            {
                "before_header": os.path.join(path, name),
                "after_header": os.path.join(path, name),
                "before": before,
                "after": after or "",
            }
            for name, (before, after) in changed.items()
        ],
    }
    if os.path.exists(module.params["command"]) or not module.check_mode:
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
