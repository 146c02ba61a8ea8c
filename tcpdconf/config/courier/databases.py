"""Recognises Courier's databases, GDBM and Berkeley DB, and reads their records.

Courier's build decides which of the two it writes.
"""

from typing import Final, Literal

from tcpdconf.config.courier import berkeleydb, gdbm

Format = Literal["gdbm", "db"]

NAMES: Final = {"gdbm": "a GDBM database", "db": "a Berkeley DB database"}


class DatabaseError(ValueError):
    """Reports a database that cannot be read to its end; `offset` is in bytes."""

    def __init__(self, offset: int, text: str) -> None:
        super().__init__(text)
        self.offset = offset


def recognise(data: bytes) -> Format | None:
    """Return the format that the first bytes indicate, or None if it is no database."""
    if gdbm.is_database(data):
        return "gdbm"
    return "db" if berkeleydb.is_database(data) else None


def records(data: bytes, form: Format) -> list[tuple[bytes, bytes]]:
    """Return all (key, value) pairs of a database, in no particular order.

    Raises:
        DatabaseError: the file is not a database of this format, is damaged, or of a kind that is not read.
    """
    try:
        return gdbm.records(data) if form == "gdbm" else berkeleydb.records(data)
    except (gdbm.GdbmError, berkeleydb.BerkeleyDBError) as error:
        raise DatabaseError(error.offset, str(error)) from None
