"""Defines the messages between the supervisor and the watcher, in both directions."""

from dataclasses import dataclass
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import Field, TypeAdapter

from tcpdconf.config.file_signature import Signature
from tcpdconf.daemon.messages import wire


class WatchedFiles(NamedTuple):
    """Lists, in the memfd of a `Watch`, what to watch, and each file's signature as it was read."""

    directories: tuple[str, ...]
    files: tuple[str, ...]
    read: dict[str, Signature]


class ReadFiles(NamedTuple):
    """Gives, in the memfd of a `Reread`, each file's signature as it was read."""

    read: dict[str, Signature]


@dataclass(frozen=True, slots=True)
class Watch(wire.Parsed):
    """Asks the watcher to watch the files and directories in `WatchedFiles`, which comes beside it.

    After it comes standard error, which changes when the log is rotated.
    The supervisor began to read them at `since` (time.time). Changes are reported after a debounce of
    `settle` seconds. With `poll` the watcher does not use inotify.
    """

    since: float
    settle: float
    poll: bool
    kind: Literal["watch"] = "watch"


@dataclass(frozen=True, slots=True)
class Reread(wire.Parsed):
    """Tells the watcher that a restarted worker has read files; `ReadFiles` comes beside it."""

    kind: Literal["reread"] = "reread"


@dataclass(frozen=True, slots=True)
class Watching(wire.Parsed):
    """Reports that the watcher now watches what the latest `Watch` asked for."""

    polling: bool
    kind: Literal["watching"] = "watching"


@dataclass(frozen=True, slots=True)
class Changed(wire.Parsed):
    """Reports changed files and directory entries; their paths come beside it (`wire.paths_written`)."""

    kind: Literal["changed"] = "changed"


@dataclass(frozen=True, slots=True)
class Polling(wire.Parsed):
    """Reports, once, that the watcher polls because inotify is not available, and why."""

    why: str
    kind: Literal["polling"] = "polling"


ToWatcher = Watch | Reread
FromWatcher = Watching | Changed | Polling
TO_WATCHER: Final = TypeAdapter[ToWatcher](Annotated[ToWatcher, Field(discriminator="kind")])
FROM_WATCHER: Final = TypeAdapter[FromWatcher](Annotated[FromWatcher, Field(discriminator="kind")])
