"""Converts an access database of couriertcpd, or the text behind it, into a TOML access file.

The rules give the same answers as the database, with as few networks as possible. Where makedat wrote a
record for each octet, two halves with the same value are joined again.
"""

import ipaddress
import os
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pydantic

from tcpdconf.config import render
from tcpdconf.config.courier import databases, prefixes
from tcpdconf.config.courier import records as courier_records
from tcpdconf.config.model import fields, tables
from tcpdconf_migrate import commandline, plan

FOLDER: Final = "access"  # below the conf.d, where files are not read as configuration
Networks = dict[prefixes.Prefix, courier_records.Value]

_WIDEST: Final = 2  # the shortest prefix length of networks that are joined; 0 is `*`


class Rules(NamedTuple):
    """Holds a TOML access file: its text, and a list of the parts that were left out."""

    text: str
    left_out: tuple[str, ...]


class RulesError(Exception):
    """Reports an access file that cannot become TOML."""


class _Written(NamedTuple):
    """Names a rules file below the conf.d, with notes about it."""

    path: str
    notes: tuple[commandline.Note, ...]


def replace(found: plan.Plan, directory: str) -> tuple[plan.Plan, dict[str, str]]:
    """Replace databases by TOML files; return the changed services, and these files by path.

    Paths are below `directory`. A database that cannot become TOML is kept, with a note.
    """
    texts: dict[str, str] = {}
    known: dict[str, _Written | commandline.Note] = {}
    services = []
    for planned in found.services:
        sources, notes = [], []
        for source in planned.service.access:
            if source.file is None:
                sources.append(source)
                continue
            if source.file not in known:
                known[source.file] = _write(source, texts)
            result = known[source.file]
            if isinstance(result, commandline.Note):
                sources.append(source)
                notes.append(result)
            else:
                sources.append(tables.AccessSource(file=f"{directory}/{result.path}"))
                notes += result.notes
        service = planned.service.model_copy(update={"access": tuple(sources)})
        services.append(planned._replace(service=service, notes=(*planned.notes, *notes)))
    return found._replace(services=tuple(services)), texts


def _write(source: tables.AccessSource, texts: dict[str, str]) -> _Written | commandline.Note:
    """Add the rules of a source to the texts, or return a note that says why not."""
    file = str(source.file)
    if source.local:
        why = "stays a database: -accesslocal looks up local addresses in it as well"
        return commandline.Note("ignored", file, why, ("access",))
    try:
        rules = read(file)
    except RulesError as error:
        return commandline.Note("risk", file, f"stays what it is: {error}", ("access",))
    except OSError as error:
        return commandline.Note("risk", file, f"stays what it is: {error.strerror}", ("access",))
    stem = os.path.basename(file).removesuffix(".dat")
    names = (f"{FOLDER}/{stem}{more}.toml" for more in ("", *(f"-{number}" for number in range(2, 100))))
    path = next(name for name in names if name not in texts)
    texts[path] = rules.text
    left_out = (
        commandline.Note("ignored", file, f"left out: {what}", ("access",)) for what in rules.left_out
    )
    return _Written(path, tuple(left_out))


def read(path: str) -> Rules:
    """Return the rules of a database or of a directory of text files, as TOML.

    Raises:
        RulesError: it cannot be read, or cannot be expressed in TOML.
        OSError: a file cannot be opened.
    """
    left_out: list[str] = []
    found: Networks = {}
    origin, records = _records(path)
    for written, key, value in records:
        if key is None or key.port is not None:
            left_out.append(f"{prefixes.shown(written)} is looked up for no client")
            continue
        try:
            meant = _variables(courier_records.value(value), left_out)
        except ValueError as error:
            raise RulesError(f"{origin}: record {prefixes.shown(written)}: {error}") from None
        for network in key.prefixes:
            if found.setdefault(network, meant) != meant:
                raise RulesError(f"{origin}: {prefixes.shown(written)} is there twice, with different values")
    _join(found)
    rules = [_rule(network, value) for network, value in _ordered(found)]
    lines = "".join(f"  {render.literal(rule)},\n" for rule in rules)
    text = f"# From {origin}\nrules = [\n{lines}]\n"
    _check(text, rules)
    return Rules(text, tuple(dict.fromkeys(left_out)))


def _records(path: str) -> tuple[str, Iterable[tuple[bytes, courier_records.RecordKey | None, bytes]]]:
    """Return the origin of the records, and each record: as written, its networks, its value.

    The text from which a database was made is read instead, unless it is newer: it may name networks that the
    database has in pieces.
    """
    texts = path.removesuffix(".dat")
    if os.path.isdir(path):
        return path, _lines(_files(path))
    files = _files(texts) if texts != path else []
    if files and max(os.stat(file).st_mtime for file in files) <= os.stat(path).st_mtime:
        return texts, _lines(files)
    content = Path(path).read_bytes()
    form = databases.recognise(content)
    if form is None:
        raise RulesError(f"{path} is no GDBM or Berkeley DB database")
    return path, _database(path, content, form)


def _files(path: str) -> list[str]:
    if os.path.isdir(path):
        return [f"{path}/{name}" for name in sorted(os.listdir(path)) if os.path.isfile(f"{path}/{name}")]
    return [path] if os.path.isfile(path) else []


def _lines(files: Iterable[str]) -> Iterator[tuple[bytes, courier_records.RecordKey | None, bytes]]:
    for file in files:
        for number, line in enumerate(Path(file).read_bytes().split(b"\n"), 1):
            if line.lstrip()[:1] not in {b"", b"#"}:
                try:
                    key, value = courier_records.record(line)
                except ValueError as error:
                    raise RulesError(f"{file}:{number}: {error}") from None
                yield line.partition(b"\t")[0], key, value


def _database(
    path: str, content: bytes, form: databases.Format
) -> Iterator[tuple[bytes, courier_records.RecordKey | None, bytes]]:
    try:
        for written, value in databases.records(content, form):
            yield bytes(written), courier_records.key(bytes(written)), bytes(value)
    except databases.DatabaseError as error:
        raise RulesError(f"{path}: {error}") from None


def _variables(value: courier_records.Value, left_out: list[str]) -> courier_records.Value:
    """Return a value with only the variables that a program can get."""
    good = tuple(pair for pair in value.environment if fields.VARIABLE.fullmatch(pair[0]))
    bad = [name for name, _ in value.environment if not fields.VARIABLE.fullmatch(name)]
    left_out += [f"{name!r} is not the name of a variable" for name in bad]
    if any(re.search("[\ud800-\udfff]", text) for _, text in good):
        raise ValueError("a variable is not UTF-8, as TOML is")
    return value._replace(environment=good)


def _join(networks: Networks) -> None:
    """Join two halves of a network that have the same value, as long as there are any."""
    for length in range(max(prefixes.BITS.values()), _WIDEST - 1, -1):
        for version, size, bits in [network for network in networks if network[1] == length]:
            half, whole = (version, size, bits ^ 1), (version, size - 1, bits >> 1)
            if bits & 1 or whole in networks or half not in networks:
                continue
            if networks[half] == networks[version, size, bits]:
                networks[whole] = networks.pop(half)
                del networks[version, size, bits]


def _ordered(networks: Networks) -> Iterator[tuple[str, courier_records.Value]]:
    """Yield networks by address, IPv4 first; `*` is the last."""
    shown = {_network(prefix): value for prefix, value in sorted(networks.items(), key=_place) if prefix[1]}
    yield from shown.items()
    if (4, 0, 0) in networks:
        yield "*", networks[4, 0, 0]


def _place(item: tuple[prefixes.Prefix, courier_records.Value]) -> tuple[int, int, int]:
    version, length, bits = item[0]
    return version, bits << (prefixes.BITS[version] - length), length


def _network(prefix: prefixes.Prefix) -> str:
    version, length, bits = prefix
    first = bits << (prefixes.BITS[version] - length)
    network = (ipaddress.IPv4Network if version == 4 else ipaddress.IPv6Network)((first, length))
    return str(network if length < network.max_prefixlen else network.network_address)


def _rule(network: str, value: courier_records.Value) -> dict[str, Any]:
    environment = dict(value.environment)
    rule: dict[str, Any] = {"network": network, "action": value.action}
    if environment:
        rule["environment"] = environment
    return rule


def _check(text: str, rules: list[dict[str, Any]]) -> None:
    """Read the file back as tcpdconf does, and compare the rules."""
    try:
        found = tables.AccessFile.model_validate(tomllib.loads(text), by_alias=True, by_name=False)
    except pydantic.ValidationError as error:
        raise RulesError(f"a rule cannot be written: {error.errors()[0]['msg']}") from None
    if found.model_dump(mode="json", exclude_defaults=True).get("rules", []) != rules:
        raise RulesError("the rules would be read back differently")
