"""The messages between the supervisor and the watcher, in both directions."""

from dataclasses import dataclass
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import Field, TypeAdapter

from tcpdconf.config.file_signature import Signature
from tcpdconf.daemon.messages import wire


class WatchedFiles(NamedTuple):
    """In the memfd of a `Watch`: what to watch, and each file's signature as it was read."""

    directories: tuple[str, ...]
    files: tuple[str, ...]
    read: dict[str, Signature]


class ReadFiles(NamedTuple):
    """In the memfd of a `Reread`: each file's signature as it was read."""

    read: dict[str, Signature]


@dataclass(frozen=True, slots=True)
class Watch(wire.Parsed):
    """Watch these from now on; beside it `WatchedFiles`.

    The supervisor began to read them at `since` (time.time); changes are told when nothing has stirred for
    `settle` seconds. `poll`: without inotify.
    """

    since: float
    settle: float
    poll: bool
    kind: Literal["watch"] = "watch"


@dataclass(frozen=True, slots=True)
class Reread(wire.Parsed):
    """A worker was started again and has read files; beside it `ReadFiles`."""

    kind: Literal["reread"] = "reread"


@dataclass(frozen=True, slots=True)
class Watching(wire.Parsed):
    """It watches what it was told to, from now on."""

    polling: bool
    kind: Literal["watching"] = "watching"


@dataclass(frozen=True, slots=True)
class Changed(wire.Parsed):
    """Files have changed, or come and gone in directories; beside it their paths (`wire.paths_written`)."""

    kind: Literal["changed"] = "changed"


@dataclass(frozen=True, slots=True)
class Polling(wire.Parsed):
    """There is no inotify to be had, and why; it is said once."""

    why: str
    kind: Literal["polling"] = "polling"


ToWatcher = Watch | Reread
FromWatcher = Watching | Changed | Polling
TO_WATCHER: Final = TypeAdapter[ToWatcher](Annotated[ToWatcher, Field(discriminator="kind")])
FROM_WATCHER: Final = TypeAdapter[FromWatcher](Annotated[FromWatcher, Field(discriminator="kind")])
