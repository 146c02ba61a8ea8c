"""Calls posix_spawn(3) through ctypes.

os.posix_spawn holds the interpreter's lock until the child has reached its exec. This one releases it, so
that another thread can start another program meanwhile.
"""

import ctypes
import errno
import os
from collections.abc import Iterable, Sequence
from typing import Any, Final

_C: Final = ctypes.CDLL(None)
# Structures that only the C library reads: glibc's largest, posix_spawnattr_t, has 336 bytes.
_Opaque: Final = ctypes.c_ulonglong * 64
_SETSIGDEF: Final = 0x04
_SETSIGMASK: Final = 0x08


class SpawnAttributes:
    """Sets a program's signals: `defaulted` ones get default handling; `unblocked` unblocks all."""

    def __init__(self, defaulted: Iterable[int], *, unblocked: bool) -> None:
        signals = _Opaque()
        self.attributes: Final = _Opaque()
        _C.posix_spawnattr_init(self.attributes)
        _C.sigemptyset(signals)
        _C.posix_spawnattr_setsigmask(self.attributes, signals)
        for number in defaulted:
            _C.sigaddset(signals, int(number))
        _C.posix_spawnattr_setsigdefault(self.attributes, signals)
        flags = _SETSIGDEF | _SETSIGMASK * unblocked
        _C.posix_spawnattr_setflags(self.attributes, ctypes.c_short(flags))


class Words:
    """Holds strings in the form that execve(2) takes: arguments, or an environment.

    Raises:
        ValueError: a string contains a NUL, where a program would see its end.
    """

    def __init__(self, words: Sequence[bytes]) -> None:
        if b"\0" in b"".join(words):
            raise ValueError("embedded null byte")
        self.array: Final[Any] = (ctypes.c_char_p * (len(words) + 1))(*words)


def start(path: bytes, argv: Words, environment: Words, fds: Sequence[int], signals: SpawnAttributes) -> int:
    """Start a program with `fds` as its standard input, output and so on; return its pid.

    Other threads run meanwhile.

    Raises:
        OSError: it cannot be run, or no process can be created; EMFILE: a descriptor is beyond RLIMIT_NOFILE,
            which somebody has lowered.
    """
    actions, pid = _Opaque(), ctypes.c_int()
    _C.posix_spawn_file_actions_init(actions)
    try:
        for place, fd in enumerate(fds):
            if code := _C.posix_spawn_file_actions_adddup2(actions, fd, place):
                code = errno.EMFILE if code == errno.EBADF else code
                raise OSError(code, os.strerror(code))
        code = _C.posix_spawn(
            ctypes.byref(pid), path, actions, signals.attributes, argv.array, environment.array
        )
    finally:
        _C.posix_spawn_file_actions_destroy(actions)
    if code:
        raise OSError(code, os.strerror(code), os.fsdecode(path))
    return pid.value
