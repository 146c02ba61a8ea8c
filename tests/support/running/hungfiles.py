"""A file system that does not answer, as of a network that is gone: FUSE without libfuse (fuse(4))."""

import contextlib
import ctypes
import errno
import os
import pathlib
import select
import stat
import struct
import threading
from collections.abc import Iterator
from typing import Final

import pytest
from support import peers

_HEADER: Final = struct.Struct("=IIQQIIII")  # fuse_in_header: length, opcode, unique, node, ...
_LOOKUP, _GETATTR, _OPEN, _READ, _INIT = 1, 3, 14, 15, 26
_SILENT: Final = frozenset({2, 36, 42})  # no answer is due: FORGET, INTERRUPT, BATCH_FORGET
_SIZE: Final = 4096
_MNT_DETACH: Final = 2


class HungFiles:
    """A file system in which every name is that of one executable file; every read of it waits."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.folder = folder
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._device},rootmode=40000,user_id=0,group_id=0,allow_other"
        if self._libc.mount(b"hung", os.fsencode(folder), b"fuse", 6, options.encode()):
            os.close(self._device)
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self._over, self._end = os.pipe()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def let_go(self) -> None:
        """Unmount it, and fail all requests that wait: the kernel does so when the device is closed."""
        if self._thread.is_alive():
            self._libc.umount2(os.fsencode(self.folder), _MNT_DETACH)
            os.close(self._end)
            self._thread.join()
            os.close(self._device)
            os.close(self._over)

    def _serve(self) -> None:
        waiting = select.poll()
        for fd in (self._device, self._over):
            waiting.register(fd, select.POLLIN)
        while self._over not in dict(waiting.poll()):
            with contextlib.suppress(OSError):  # a request that has been taken back, or the unmount
                self._reply(os.read(self._device, 1 << 20))

    def _reply(self, request: bytes) -> None:
        _, opcode, unique, node, *_ = _HEADER.unpack_from(request)
        if opcode == _READ or opcode in _SILENT:
            return
        answer = _answer(opcode, node)
        code = -errno.ENOSYS if answer is None else 0
        data = answer or b""
        os.write(self._device, struct.pack("=IiQ", 16 + len(data), code, unique) + data)


def _answer(opcode: int, node: int) -> bytes | None:
    """The answer to a request; None if this file system has no such requests."""
    if opcode == _INIT:
        return struct.pack("=IIIIHHIIHHI28x", 7, 31, 65536, 0, 16, 16, _SIZE, 1, 1, 0, 0)
    if opcode == _LOOKUP:
        return struct.pack("=QQQQII", 2, 0, 60, 60, 0, 0) + _attributes(2)
    if opcode == _GETATTR:
        return struct.pack("=QII", 60, 0, 0) + _attributes(node)
    if opcode == _OPEN:
        return struct.pack("=QII", 1, 0, 0)
    return None


def _attributes(node: int) -> bytes:
    mode = stat.S_IFDIR | 0o755 if node == 1 else stat.S_IFREG | 0o755
    return struct.pack("=QQQQQQIIIIIIIIII", node, _SIZE, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


@contextlib.contextmanager
def mounted(folder: pathlib.Path) -> Iterator[HungFiles]:
    """Mount one at a new folder."""
    peers.need_root()
    if not os.access("/dev/fuse", os.W_OK):
        pytest.skip("needs /dev/fuse, which a container may not have")
    folder.mkdir()
    try:
        made = HungFiles(folder)
    except OSError as error:
        pytest.skip(f"cannot mount FUSE here: {error.strerror}")
    try:
        yield made
    finally:
        made.let_go()
