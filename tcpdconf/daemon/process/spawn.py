"""Starts programs, in one of two ways.

The native way does not wait for the exec (`_spawn.c`, on x86-64 and aarch64). It is available if a C compiler
was present when tcpdconf was installed. The portable way calls posix_spawn(3) through ctypes, which suspends
this process until the exec. os.posix_spawn cannot be used: it refuses a variable without a name, which a
program of couriertcpd may get.
"""

import ctypes
import errno
import os
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

try:
    from tcpdconf.daemon.process import _spawn as native
except ImportError:  # no compiler, or another processor
    has_native = False
else:
    has_native = True

__all__ = [
    "WISH",
    "SpawnAttributes",
    "UnknownWayError",
    "Way",
    "Words",
    "has_native",
    "native",
    "start",
    "way",
]

Way = Literal["native", "portable"]
WISH: Final = "TCPDCONF_SPAWN"  # a variable that chooses the way, for tests

_C: Final = ctypes.CDLL(None)
# Structures that only the C library reads: glibc's largest, posix_spawnattr_t, has 336 bytes.
_Opaque: Final = ctypes.c_ulonglong * 64
_SETSIGDEF: Final = 0x04
_SETSIGMASK: Final = 0x08


class UnknownWayError(Exception):
    """Reports that `WISH` names no way, or one that is not available."""


def way() -> Way:
    """Return the way of starting programs: native if it is available, unless `WISH` names the other one.

    Raises:
        UnknownWayError: `WISH` names an unknown way, or one that is not available.
    """
    wish = os.environ.get(WISH) or ("native" if has_native else "portable")
    if wish not in {"native", "portable"}:
        raise UnknownWayError(f'{WISH} must be "native" or "portable", not {wish!r}')
    if wish == "native" and not has_native:
        raise UnknownWayError(f'{WISH} cannot be "native": tcpdconf was installed without a C compiler')
    return "native" if wish == "native" else "portable"


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
    """Start a program with `fds` as its standard input, output and so on; return its pid after its exec.

    Raises:
        OSError: it cannot be run, or no process can be created; EMFILE: a descriptor is beyond RLIMIT_NOFILE,
            which was lowered after the start.
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
