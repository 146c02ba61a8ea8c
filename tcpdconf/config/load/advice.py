"""Adds advice that needs the text of the file: headers to rename, values to wrap in brackets."""

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from tcpdconf.config import positions, problems
from tcpdconf.config.load import validation_errors
from tcpdconf.config.load.source import SourceFile
from tcpdconf.config.model import fields

_HEADER: Final = re.compile(r"([ \t]*)(\[{1,2})[ \t]*([^\]#]*?)[ \t]*(\]{1,2})")
_NAMED: Final = frozenset({("services",), ("dns_chains",)})  # tables whose keys are names
_SERVICE_KEYS: Final = frozenset({"program", "listeners", "limits", "access", "stderr", "dns_lists"})


class _TableHeader(NamedTuple):
    """Locates a table's header: its line, the columns of its brackets, and its name as written."""

    line: int
    start: int
    end: int
    brackets: int
    name: str


def advised(
    finding: validation_errors.Finding, source: SourceFile, key: positions.Key
) -> validation_errors.Finding:
    """Return a finding with the advice that the text of its file allows; `key` is its place in the file."""
    value = _at(source.data, key)
    if finding.code == "unknown-key" and isinstance(value, dict):
        return _unknown_table(finding, source, key, value)
    if finding.code == "wrong-type":
        if key == ("services",) and isinstance(value, list):
            return _services_array(finding, source, value)
        if finding.meant is None:
            return _other_brackets(finding, source, key, value)
    return finding


def _at(data: Any, key: positions.Key) -> Any:  # noqa: ANN401 (TOML holds any type)
    for part in key:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _headers(source: SourceFile) -> Iterator[_TableHeader]:
    for number, line in enumerate(source.text.split("\n"), 1):
        found = _HEADER.match(line)
        if found:
            yield _TableHeader(number, found.start(2) + 1, found.end(4) + 1, len(found[2]), found[3])


def _written(header: _TableHeader, name: str, brackets: int | None = None) -> problems.Edit:
    count = header.brackets if brackets is None else brackets
    text = "[" * count + name + "]" * count
    return problems.Edit(header.line, header.start, header.line, header.end, text)


def _unknown_table(
    finding: validation_errors.Finding, source: SourceFile, key: positions.Key, value: dict[str, Any]
) -> validation_errors.Finding:
    """Advise on a service whose name has an unquoted dot, or which is not below `services`."""
    if len(key) >= 3 and key[0] == "services" and (_is_service(value) or _holds_service(value)):
        name = ".".join(str(part) for part in key[1:])
        while not _is_service(value):
            part, value = next(iter(value.items()))
            name += f".{part}"
        edits = tuple(_renamed(source, f"services.{name}", f'services."{name}"'))
        hint = f'a name with a dot must be in quotes: write [services."{name}"]'
        return finding._replace(hint=hint, meant=None, edits=edits)
    if len(key) == 1 and _is_service(value) and fields.NAME.fullmatch(str(key[0])):
        edits = tuple(_renamed(source, str(key[0]), f"services.{key[0]}"))
        return finding._replace(hint=f"write [services.{key[0]}]", meant=None, edits=edits)
    return finding


def _is_service(value: dict[str, Any]) -> bool:
    return bool(_SERVICE_KEYS & value.keys())


def _holds_service(value: dict[str, Any]) -> bool:
    while len(value) == 1:
        value = next(iter(value.values()))
        if not isinstance(value, dict):
            return False
        if _is_service(value):
            return True
    return False


def _renamed(source: SourceFile, old: str, new: str) -> Iterator[problems.Edit]:
    for header in _headers(source):
        if header.name == old or header.name.startswith(f"{old}."):
            yield _written(header, new + header.name[len(old) :])


def _services_array(
    finding: validation_errors.Finding, source: SourceFile, services: list[Any]
) -> validation_errors.Finding:
    """Advise on [[services]] with a key `name`, as other programs write their sections."""
    names = [service.get("name") if isinstance(service, dict) else None for service in services]
    text = "must be a table of services by their names, not an array"
    right = [name for name in names if isinstance(name, str) and fields.NAME.fullmatch(name)]
    if len(set(right)) < len(names):
        hint = "write [services.NAME] for each, and delete the key name"
        return finding._replace(text=text, hint=hint, meant=None)
    edits: list[problems.Edit] = []
    number = -1
    for header in _headers(source):
        if header.name == "services":
            number += 1
            edits.append(_written(header, f"services.{_part(right[number])}", 1))
        elif header.name.startswith("services.") and number >= 0:
            edits.append(_written(header, f"services.{_part(right[number])}{header.name[len('services') :]}"))
    for index in range(len(services)):
        place = source.places.get(("services", index, "name"))
        if place is not None:
            edits.append(problems.Edit(place.key.line, 1, place.end[0] + 1, 1, ""))
    hint = f"write [services.{_part(right[0])}], change its other headers alike, and delete the key name"
    return finding._replace(text=text, hint=hint, meant=None, edits=tuple(edits))


def _part(name: str) -> str:
    return f'"{name}"' if "." in name else name


def _other_brackets(
    finding: validation_errors.Finding,
    source: SourceFile,
    key: positions.Key,
    value: object,
) -> validation_errors.Finding:
    """Advise on one pair of brackets where two are required, or the reverse."""
    place = source.places.get(key)
    if place is None or isinstance(key[-1], int):
        return finding
    wanted = 2 if "must be an array" in finding.text and isinstance(value, dict) else 0
    if finding.text.startswith("must be a table") and isinstance(value, list) and len(value) == 1:
        wanted = 1 if isinstance(value[0], dict) else 0
    if not wanted or key in _NAMED:
        return finding
    start = place.value
    header = next(
        (each for each in _headers(source) if each.line == start.line and each.start == start.column), None
    )
    if header is not None:
        name = header.name
        open_, close = "[" * wanted, "]" * wanted
        return finding._replace(hint=f"write {open_}{name}{close}", edits=(_written(header, name, wanted),))
    written = source.written(key)
    if place.end[0] != start.line or not written.startswith(("{", "[")):
        return finding
    meant = f"[{written}]" if wanted == 2 else written[1:-1].strip().rstrip(",")
    return finding._replace(hint=f"write {meant}" if len(meant) < 100 else finding.hint, meant=meant)
