"""What a worker is told to serve: the message, and what its descriptors are.

It travels from the supervisor to a worker only, pickled in a memfd; nothing pickled ever travels back.
"""

import os
import pickle
from typing import Any, Final, Literal, NamedTuple

from tcpdconf.config import dialect, printable, problems
from tcpdconf.config.load.loaded import Loaded
from tcpdconf.config.model.service import Config, Service

_MOST: Final = 1 << 31  # lines or columns that a file can have
Kind = Literal["ledger", "listener", "inherited", "access", "environment", "zone", "stderr", "overflow"]


class Role(NamedTuple):
    """What a descriptor is, its place among the service's listeners or files, the path of a file.

    Files with the same `signature` (`load.files.signature`) have the same content.
    """

    kind: Kind
    place: int = 0
    path: str = ""
    signature: tuple[int, ...] = ()


class Assignment(NamedTuple):
    """A service, by its name in `config`; `environment` is the daemon's own as it was started."""

    name: str
    config: Config
    environment: dict[str, str]
    roles: tuple[Role, ...]
    ways: dialect.Dialect = dialect.TOML

    @property
    def service(self) -> Service:
        """The service itself."""
        return self.config.services[self.name]


class FilePlace(NamedTuple):
    """A place in a file of the service, from 1; `source` is the line, and `text` what is wrong there."""

    file: str
    line: int
    column: int
    source: str
    text: str


class Failure(NamedTuple):
    """Why a service cannot be served: the key below the service, and what is wrong with its value.

    `place` is where in the file that the key names, if that is known.
    """

    key: tuple[str | int, ...]
    text: str
    place: FilePlace | None = None


def write(assignment: Assignment) -> int:
    """A memfd that holds the assignment.

    Raises:
        OSError: no descriptor or memory is to be had.
    """
    fd = os.memfd_create("tcpdconf-assignment", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            pickle.dump(assignment, file)
    except BaseException:
        os.close(fd)
        raise
    return fd


def read(fd: int) -> Assignment:
    """The assignment in a memfd of the supervisor's."""
    with open(fd, "rb", closefd=False) as file:
        file.seek(0)
        found: Assignment = pickle.load(file)  # noqa: S301 (from the supervisor, which forked this process)
    return found


def failures(message: dict[str, Any]) -> list[Failure]:
    """The failures that a worker reports; a report that is malformed is one failure of the whole service.

    They go to the log and to the service manager, so that nothing in them may end a line.
    """
    said = message.get("failures")
    found = []
    for item in said if isinstance(said, list) else []:
        match item:
            case [[*key], str(text), *rest] if all(isinstance(part, str | int) for part in key):
                found.append(Failure(tuple(key), printable.replaced(text), _place(rest)))
    return found or [Failure((), "the worker could not start")]


def problem(loaded: Loaded, name: str, failure: Failure) -> problems.Problem:
    """Return the problem that a failure of a service is: at its place, or at the key."""
    key = ("services", name, *failure.key)
    if failure.place is None:
        return loaded.problem(key, failure.text, "cannot-use")
    file, line, column, source, text = failure.place
    return problems.Problem(
        file, line, column, problems.dotted(key), text, "wrong-access-file", source=source
    )


def _place(said: list[object]) -> FilePlace | None:
    """Return the place that a worker names, as far as it is one."""
    match said:
        case [[str(file), int(line), int(column), str(source), str(text)]] if (
            0 < line < _MOST and 0 < column < _MOST
        ):
            return FilePlace(printable.replaced(file), line, column, source, printable.replaced(text))
    return None
