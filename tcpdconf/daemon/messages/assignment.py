"""What a worker is to serve, and why it cannot.

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
    """What a worker is told to serve, in the memfd of a `Prepare` or a `Try`, and what its descriptors are.

    The service is named by its name in `config`; `environment` is the daemon's own as it was started.
    """

    name: str
    config: Config
    environment: dict[str, str]
    roles: tuple[Role, ...]
    ways: dialect.Dialect = dialect.TOML

    @property
    def service(self) -> Service:
        """The service itself."""
        return self.config.services[self.name]


@dataclass(frozen=True, slots=True)
class FilePlace(wire.Parsed):
    """A place in a file of the service, from 1; `source` is the line, and `text` what is wrong there.

    Nothing in them can end a line, whatever they are made of; `source` keeps its tabs.
    """

    file: str
    line: _Position
    column: _Position
    source: str
    text: str

    def __post_init__(self) -> None:
        """Replace what is not printable."""
        object.__setattr__(self, "file", printable.replaced(self.file))
        object.__setattr__(self, "source", printable.replaced(self.source, but="\t"))
        object.__setattr__(self, "text", printable.replaced(self.text))


@dataclass(frozen=True, slots=True)
class Failure(wire.Parsed):
    """Why a service cannot be served: the key below the service, and what is wrong with its value.

    `place` is where in the file that the key names, if that is known. The text goes to the log and to the
    service manager: nothing in it can end a line, whatever it is made of.
    """

    key: tuple[str | int, ...]
    text: str
    place: FilePlace | None = None

    def __post_init__(self) -> None:
        """Replace what is not printable."""
        object.__setattr__(self, "text", printable.replaced(self.text))


@dataclass(frozen=True, slots=True)
class Unusable(wire.Parsed):
    """What is wrong with the files of a service, if anything, from a process that only reads them."""

    failures: tuple[Failure, ...]
    kind: Literal["unusable"] = "unusable"


FROM_READER: Final = TypeAdapter(Unusable)


def problem(loaded: Loaded, name: str, failure: Failure) -> problems.Problem:
    """Return the problem that a failure of a service is: at its place, or at the key."""
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
