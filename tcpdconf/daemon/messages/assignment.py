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
from tcpdconf.policy.shared_limits import Shape

_Position = Annotated[int, Field(gt=0, lt=1 << 31)]  # lines or columns that a file can have
Kind = Literal[
    "ledger",
    "counts",
    "wake",
    "passes",
    "listener",
    "inherited",
    "access",
    "environment",
    "zone",
    "stderr",
    "log_pipe",
]


class Role(NamedTuple):
    """Describes a descriptor: its kind, its place among the service's listeners or files, a file's path.

    Of shared counts, `place` is that of the worker.

    Files with the same `signature` (`file_signature.signature`) have the same content. For a log file it is
    only device and inode.
    """

    kind: Kind
    place: int = 0
    path: str = ""
    signature: tuple[int, ...] = ()


class Group(NamedTuple):
    """Describes the group of a service: what its other services count.

    `brokered` is True if they have several users: the broker then counts for all of them.
    """

    shapes: frozenset[Shape] = frozenset()
    brokered: bool = False


class Assignment(NamedTuple):
    """Tells a worker what to serve and what its descriptors are, in the memfd of a `Prepare` or a `Try`.

    `name` is the service's name in `config`. `environment` is the one that the daemon was started with.
    `first` is False for all workers of the service but
    one, which the kernel wakes for each client.
    """

    name: str
    config: Config
    environment: dict[str, str]
    roles: tuple[Role, ...]
    ways: dialect.Dialect = dialect.TOML
    group: Group = Group()
    first: bool = True

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

    `place` is the place in the file that the key names, if it is known. `hint` says what to do. The text goes
    to the log and to the service manager. Neither contains a line break, whatever it quotes.
    """

    key: tuple[str | int, ...]
    text: str
    place: FilePlace | None = None
    code: Literal["cannot-use", "needs-capability"] = "cannot-use"
    hint: str | None = None

    def __post_init__(self) -> None:
        """Replace characters that are not printable."""
        object.__setattr__(self, "text", printable.replaced(self.text))
        if self.hint is not None:
            object.__setattr__(self, "hint", printable.replaced(self.hint))


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
        return loaded.problem(key, failure.text, failure.code, hint=failure.hint)
    return problems.Problem(
        place.file,
        place.line,
        place.column,
        problems.dotted(key),
        place.text,
        "wrong-access-file",
        source=place.source,
    )
