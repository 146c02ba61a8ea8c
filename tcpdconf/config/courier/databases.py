"""Tells Courier's databases apart, GDBM and Berkeley DB, and reads the records of either.

Which of the two Courier writes was chosen when it was built.
"""

from typing import Final, Literal

from tcpdconf.config.courier import berkeleydb, gdbm

Format = Literal["gdbm", "db"]

NAMES: Final = {"gdbm": "a GDBM database", "db": "a Berkeley DB database"}


class DatabaseError(ValueError):
    """A database that cannot be read to its end; `offset` of the place, in bytes."""

    def __init__(self, offset: int, text: str) -> None:
        super().__init__(text)
        self.offset = offset


def recognise(data: bytes) -> Format | None:
    """The format that the first bytes announce; None when it is no database."""
    if gdbm.is_database(data):
        return "gdbm"
    return "db" if berkeleydb.is_database(data) else None


def records(data: bytes, form: Format) -> list[tuple[bytes, bytes]]:
    """All (key, value) pairs of a database, in no particular order.

    Raises:
        DatabaseError: it is no database of this format, a damaged one, or of a kind that is not read.
    """
    try:
        return gdbm.records(data) if form == "gdbm" else berkeleydb.records(data)
    except (gdbm.GdbmError, berkeleydb.BerkeleyDBError) as error:
        raise DatabaseError(error.offset, str(error)) from None
