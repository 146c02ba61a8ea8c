"""Defines the order to a worker to serve a service, and the reasons why it cannot.

An `Assignment` travels in a memfd beside a message (`wire.pickled`), a `Failure` in messages.
"""

from dataclasses import dataclass
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import Field, TypeAdapter

from tcpdconf.config import dialect, printable, problems
from tcpdconf.config.load.loaded import Loaded
from tcpdconf.config.model.service import Config, Service
from tcpdconf.daemon.messages import wire

_Position = Annotated[int, Field(gt=0, lt=1 << 31)]  # lines or columns that a file can have
Kind = Literal["ledger", "listener", "inherited", "access", "environment", "zone", "stderr", "log_pipe"]


class Role(NamedTuple):
    """Describes a descriptor: its kind, its place among the service's listeners or files, a file's path.

    Files with the same `signature` (`file_signature.signature`) have the same content. For a log file it is
    only device and inode.
    """

    kind: Kind
    place: int = 0
    path: str = ""
    signature: tuple[int, ...] = ()


class Assignment(NamedTuple):
    """Tells a worker what to serve and what its descriptors are, in the memfd of a `Prepare` or a `Try`.

    `name` is the service's name in `config`. `environment` is the one that the daemon was started with.
    """

    name: str
    config: Config
    environment: dict[str, str]
    roles: tuple[Role, ...]
    ways: dialect.Dialect = dialect.TOML

    @property
    def service(self) -> Service:
        """Return the service's settings."""
        return self.config.services[self.name]


@dataclass(frozen=True, slots=True)
class FilePlace(wire.Parsed):
    """Locates an error in a file of the service; `source` is the line, and `text` is the error.

    `line` and `column` count from 1. No text here contains a line break, whatever is in the file. `source`
    keeps its tabs.
    """

    file: str
    line: _Position
    column: _Position
    source: str
    text: str

    def __post_init__(self) -> None:
        """Replace characters that are not printable."""
        object.__setattr__(self, "file", printable.replaced(self.file))
        object.__setattr__(self, "source", printable.replaced(self.source, but="\t"))
        object.__setattr__(self, "text", printable.replaced(self.text))


@dataclass(frozen=True, slots=True)
class Failure(wire.Parsed):
    """Says why a service cannot be served: the key below the service, and the error in its value.

    `place` is the place in the file that the key names, if it is known. The text goes to the log and to the
    service manager. It contains no line break, whatever it quotes.
    """

    key: tuple[str | int, ...]
    text: str
    place: FilePlace | None = None

    def __post_init__(self) -> None:
        """Replace characters that are not printable."""
        object.__setattr__(self, "text", printable.replaced(self.text))


@dataclass(frozen=True, slots=True)
class Unusable(wire.Parsed):
    """Reports the failures in the files of a service, if any, from a process that only reads them."""

    failures: tuple[Failure, ...]
    kind: Literal["unusable"] = "unusable"


FROM_READER: Final = TypeAdapter(Unusable)


def problem(loaded: Loaded, name: str, failure: Failure) -> problems.Problem:
    """Return a service's failure as a problem of the configuration: at its place if known, or at its key."""
    key = ("services", name, *failure.key)
    place = failure.place
    if place is None:
        return loaded.problem(key, failure.text, "cannot-use")
    return problems.Problem(
        place.file,
        place.line,
        place.column,
        problems.dotted(key),
        place.text,
        "wrong-access-file",
        source=place.source,
    )
