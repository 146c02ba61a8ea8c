"""posix_spawn(3) by way of ctypes.

os.posix_spawn keeps the interpreter's lock until the child has reached its exec. This one lets go of it, so
that another thread can start another program meanwhile.
"""

import ctypes
import errno
import os
from collections.abc import Iterable, Sequence
from typing import Any, Final

_C: Final = ctypes.CDLL(None)
# Structures of the C library that only it looks into: glibc's largest, posix_spawnattr_t, has 336 bytes.
_Opaque: Final = ctypes.c_ulonglong * 64
_SETSIGDEF: Final = 0x04
_SETSIGMASK: Final = 0x08


class SpawnAttributes:
    """What a program's signals are: those in `defaulted` as by default; with `unblocked` none is blocked."""

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
    """Text for a program, as execve(2) takes it: arguments, or an environment.

    Raises:
        ValueError: one has a NUL within, where a program would see its end.
    """

    def __init__(self, words: Sequence[bytes]) -> None:
        if b"\0" in b"".join(words):
            raise ValueError("embedded null byte")
        self.array: Final[Any] = (ctypes.c_char_p * (len(words) + 1))(*words)


def start(path: bytes, argv: Words, environment: Words, fds: Sequence[int], signals: SpawnAttributes) -> int:
    """Start a program with `fds` as its standard input, output and so on; returns its pid.

    Other threads go on meanwhile.

    Raises:
        OSError: it cannot be run, or no process is to be had; EMFILE: a descriptor is beyond RLIMIT_NOFILE,
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
