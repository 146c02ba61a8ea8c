"""Reads the bytes of access files in every format into one table.

A format that the configuration does not name is recognised from the content:

- GDBM and Berkeley DB by their magic numbers;
- text by its first line that is neither blank nor a comment (`#`, `;`): TOML if that line is a table header
  or `name = ...`; a CIDR list if it is a single network or address, with or without a comment; Courier's
  text if it has a TAB.

Other text, and text of comments only, needs a `format`. A wrong guess cannot pass, because each reader
rejects the other formats. A full disk leaves empty files, so an empty file is an error in every format. A
valid database without records, or comments in a named format, give a table without rules.

couriertcpd never looks up database keys made from lines without a TAB or with capital hex digits. They match
no client here either, and `AccessTable.dead` lists them. In text such lines are errors.
"""

import re
from collections.abc import Sequence
from typing import Final, Literal

import pydantic
import tree_sitter  # noqa: F401 (positions loads these when a problem needs them; a worker that has dropped its
import tree_sitter_toml  # noqa: F401  rights may then be unable to read them, so they are loaded before)

from tcpdconf.config import positions, problems
from tcpdconf.config.courier import databases, prefixes
from tcpdconf.config.courier import records as courier_records
from tcpdconf.config.load import toml_errors, validation_errors
from tcpdconf.config.load.source import SourceFile, Spot, parsed
from tcpdconf.config.model import tables
from tcpdconf.policy.access import cidr
from tcpdconf.policy.access import courier as courier_access
from tcpdconf.policy.access import table as access_table
from tcpdconf.policy.access.courier import Records
from tcpdconf.policy.access.table import AccessTable, DuplicateRuleError, Rule

Format = Literal["gdbm", "db", "courier", "toml", "cidr"]

_FIRST_LINE: Final = re.compile(rb"^[^\S\n]*([^\s#;][^\n]*)", re.MULTILINE)
_TOML: Final = re.compile(rb"""\[|[\w"'.-]+[ \t]*=""")
_NETWORK_ALONE: Final = re.compile(rb"(?=[^/]*[.:])[0-9a-fA-F:.]+(?:/\d+)?\s*(?:[#;].*)?", re.DOTALL)
_NAMES: Final = {
    **databases.NAMES,
    "courier": "Courier's text",
    "toml": "TOML",
    "cidr": "a CIDR list",
}


class AccessFileError(Exception):
    """Reports an unusable access file; `where` is "offset 0x40" in a database, else empty.

    `line` and `column` count from 1; both are 0 if the error concerns the whole file.
    """

    def __init__(self, path: str, where: str, text: str, line: int = 0, column: int = 1) -> None:
        place = f"{path}:{line}:{column}" if line else path
        super().__init__(": ".join(part for part in (place, where, text) if part))
        self.path = path
        self.where = where
        self.text = text
        self.line = line
        self.column = column if line else 0


def read(files: Sequence[tuple[str, bytes]], source: tables.AccessSource) -> AccessTable:
    """Return the table of a source: of its one file, or of the Courier text files in its directory.

    Args:
        files: path and content of each file, in byte order of the paths.
        source: the source as configured.

    Raises:
        AccessFileError: there is no file, or one cannot be read to its end.
    """
    if len(files) == 1:
        return _read_one(*files[0], source)
    if not files:
        raise AccessFileError(source.file or "", "", "there is no access file in this directory")
    records = Records(local=source.local, strict=True)
    for path, data in files:
        form = source.format or (recognise(path, data) if _FIRST_LINE.search(data) else "courier")
        _check_goes_with(path, data, form, source)
        if form != "courier":
            raise AccessFileError(
                path, "", f"of several files each must be Courier's text, and this is {_NAMES[form]}"
            )
        _courier(path, data, records)
    return records.table


def _read_one(path: str, data: bytes, source: tables.AccessSource) -> AccessTable:
    form = source.format or recognise(path, data)
    _check_goes_with(path, data, form, source)
    if form == "toml":
        return _toml(path, data)
    if form == "cidr":
        return _cidr(path, data, source)
    records = Records(local=source.local, strict=form == "courier")
    if form == "courier":
        _courier(path, data, records)
    else:
        _database(path, data, form, records)
    return records.table


def recognise(path: str, data: bytes) -> Format:
    """Recognise the format of a file by the rules above.

    Raises:
        AccessFileError: the file matches no format, or its content does not tell.
    """
    _check_not_empty(path, data)
    database = databases.recognise(data)
    if database:
        return database
    if b"\0" in data:
        where = f"offset {data.index(0):#x}"
        raise AccessFileError(
            path, where, "neither a database (GDBM, Berkeley DB) nor text: it has a NUL character"
        )
    found = _FIRST_LINE.search(data)
    if found is None:
        raise AccessFileError(
            path, "", "there are only comments: cannot tell its format, so name it (format)"
        )
    line = found[1]
    if _TOML.match(line):
        return "toml"
    if _NETWORK_ALONE.fullmatch(line):
        return "cidr"
    if b"\t" in line:
        return "courier"
    raise AccessFileError(
        path,
        "",
        "cannot tell the format: neither a network alone (CIDR list), nor a network, a TAB and a value"
        " (Courier), nor TOML",
        _line(data, found.start(1)),
    )


def _check_not_empty(path: str, data: bytes) -> None:
    if not data:
        raise AccessFileError(path, "", "the file is empty")


def _check_goes_with(path: str, data: bytes, form: Format, source: tables.AccessSource) -> None:
    _check_not_empty(path, data)
    database = databases.recognise(data)
    if database and database != form:
        raise AccessFileError(
            path,
            "",
            f'this is {_NAMES[database]}, and format says "{form}": write format = "{database}",'
            " or leave it out",
        )
    if form == "cidr" and source.action is None:
        raise AccessFileError(path, "", 'this is a CIDR list, which needs action = "allow" or "deny"')
    if form != "cidr" and source.action is not None:
        raise AccessFileError(path, "", f"action goes with a CIDR list only, and this is {_NAMES[form]}")
    if source.local and form in {"cidr", "toml"}:
        raise AccessFileError(
            path, "", f"local goes with Courier's text and databases only, and this is {_NAMES[form]}"
        )


def _line(data: bytes, offset: int) -> int:
    return data.count(b"\n", 0, offset) + 1


def _database(path: str, data: bytes, form: databases.Format, records: Records) -> None:
    try:
        found = databases.records(data, form)
    except databases.DatabaseError as error:
        raise AccessFileError(path, f"offset {error.offset:#x}", str(error)) from None
    for written, value in found:
        key = courier_records.key(written)
        if key is None:
            records.table.dead.append(prefixes.shown(written))
            continue
        try:
            records.add(key, value)
        except ValueError as error:
            raise AccessFileError(path, "", f"record {prefixes.shown(written)}: {error}") from None


def _courier(path: str, data: bytes, records: Records) -> None:
    try:
        courier_access.read(data, records)
    except cidr.CidrLineError as error:
        raise AccessFileError(path, "", str(error), error.line, error.column) from None


def _cidr(path: str, data: bytes, source: tables.AccessSource) -> AccessTable:
    table = AccessTable()
    try:
        cidr.read(data, Rule(source.action or "deny"), table.peers)
    except cidr.CidrLineError as error:
        raise AccessFileError(path, "", str(error), error.line, error.column) from None
    return table


def _toml(path: str, data: bytes) -> AccessTable:
    """Return the table of a TOML access file, or raise the first of its errors."""
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise AccessFileError(path, "", "not UTF-8", _line(data, error.start)) from None
    source = SourceFile(path, text, {})
    try:
        written = parsed(text)
    except (ValueError, RecursionError) as error:
        problem = toml_errors.problem(source, error)
        raise AccessFileError(path, "", problem.text, problem.line, problem.column) from None
    try:
        return access_table.build(tables.AccessFile.model_validate(written).rules)
    except pydantic.ValidationError as error:
        finding = next(validation_errors.findings(error, written, tables.AccessFile))
        hint = f" ({finding.hint})" if finding.hint else ""
        text = f"{problems.dotted(finding.key)}: {finding.text}{hint}"
        raise AccessFileError(path, "", text, *_place(source, finding.key, finding.spot)) from None
    except DuplicateRuleError as error:
        key = ("rules", error.index)
        text = f"{problems.dotted(key)}: {error}"
        raise AccessFileError(path, "", text, *_place(source, key)) from None


def _place(source: SourceFile, key: positions.Key, spot: Spot = "value") -> tuple[int, int]:
    span = source.span(key, spot)
    return (span.line, span.column) if span else (0, 0)
