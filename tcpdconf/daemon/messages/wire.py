"""Writes and parses messages; long content goes into a memfd beside its message.

On a `channel` a message is a small JSON object, and its `kind` names its class. The receiver parses it once,
and rejects it unless every field has the right form. What it says may still be a lie.
"""

import functools
import os
import pickle
from collections.abc import Callable
from typing import Any, BinaryIO, ClassVar, Final, TypeVar

import pydantic_core
from pydantic import ConfigDict, TypeAdapter, ValidationError

from tcpdconf.daemon.process import channel

_LONGEST: Final = 200  # most characters of an error, which may quote the received data
_Read = TypeVar("_Read")
_Message = TypeVar("_Message")


class MalformedError(channel.ChannelError):
    """Reports data that is no message, or a message that its sender may not send."""


class Parsed:
    """Makes a subclass strict: it must have all of its fields, of their exact types, and no others."""

    __slots__ = ()
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def written(message: Parsed) -> bytes:
    """Return a message as JSON."""
    return pydantic_core.to_json(message)


def parsed(data: bytes, expected: TypeAdapter[_Message]) -> _Message:
    """Return the received message.

    Raises:
        MalformedError: the data is not one of the expected messages.
    """
    try:
        return expected.validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise MalformedError(f"no message: {where}: {first['msg']}"[:_LONGEST]) from None


def pickled(value: object) -> int:
    """Return a memfd that holds a value, for a process that the supervisor has forked.

    No process sends pickled data to the supervisor.

    Raises:
        OSError: no descriptor or memory is available.
    """
    return _memory(functools.partial(pickle.dump, value))


def unpickled(fd: int, kind: type[_Read]) -> _Read:
    """Return the value that the supervisor has pickled into a memfd.

    Raises:
        MalformedError: the value is not of this kind.
    """
    with _rewound(fd) as file:
        found: Any = pickle.load(file)  # noqa: S301 (from the supervisor, which forked this process)
    if not isinstance(found, kind):
        raise MalformedError(f"no {kind.__name__}")
    return found


def paths_written(paths: list[str]) -> int:
    """Return a memfd that holds paths, whatever bytes are in them.

    Raises:
        OSError: no descriptor or memory is available.
    """
    return _memory(lambda file: file.writelines(os.fsencode(path) + b"\0" for path in paths))


def paths_read(fd: int) -> list[str]:
    """Return the paths in a memfd; no content is an error."""
    with _rewound(fd) as file:
        return [os.fsdecode(path) for path in file.read().split(b"\0") if path]


def _memory(write: Callable[[BinaryIO], None]) -> int:
    fd = os.memfd_create("tcpdconf-message", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            write(file)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _rewound(fd: int) -> BinaryIO:
    os.lseek(fd, 0, os.SEEK_SET)
    return open(fd, "rb", closefd=False)
