"""Writes messages and parses them; what is long is written into a memfd beside its message.

On a `channel` a message is a small JSON object whose `kind` says which. It is parsed once, where it has been
received: it is of the right form in every field then, or is none. It may still be a lie.
"""

import functools
import os
import pickle
from collections.abc import Callable
from typing import Any, BinaryIO, ClassVar, Final, TypeVar

import pydantic_core
from pydantic import ConfigDict, TypeAdapter, ValidationError

from tcpdconf.daemon.process import channel

_LONGEST: Final = 200  # characters of an error, which may quote what was received
_Read = TypeVar("_Read")
_Message = TypeVar("_Message")


class MalformedError(channel.ChannelError):
    """What was received is no message, or none that its sender may send."""


class Parsed:
    """A message or a part of one: it is read with all of its fields, each of its type, and no other."""

    __slots__ = ()
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def written(message: Parsed) -> bytes:
    """Return a message as it travels."""
    return pydantic_core.to_json(message)


def parsed(data: bytes, expected: TypeAdapter[_Message]) -> _Message:
    """Return the message that was received.

    Raises:
        MalformedError: it is none of those that are expected.
    """
    try:
        return expected.validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise MalformedError(f"no message: {where}: {first['msg']}"[:_LONGEST]) from None


def pickled(value: object) -> int:
    """Return a memfd that holds a value, for a process that the supervisor has forked.

    Nothing pickled ever travels back.

    Raises:
        OSError: no descriptor or memory is to be had.
    """
    return _memory(functools.partial(pickle.dump, value))


def unpickled(fd: int, kind: type[_Read]) -> _Read:
    """Return what the supervisor has pickled into a memfd.

    Raises:
        MalformedError: it is of another kind.
    """
    with _rewound(fd) as file:
        found: Any = pickle.load(file)  # noqa: S301 (from the supervisor, which forked this process)
    if not isinstance(found, kind):
        raise MalformedError(f"no {kind.__name__}")
    return found


def paths_written(paths: list[str]) -> int:
    """Return a memfd that holds paths, whatever bytes are in them.

    Raises:
        OSError: no descriptor or memory is to be had.
    """
    return _memory(lambda file: file.writelines(os.fsencode(path) + b"\0" for path in paths))


def paths_read(fd: int) -> list[str]:
    """Return the paths in a memfd: any bytes are some."""
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
