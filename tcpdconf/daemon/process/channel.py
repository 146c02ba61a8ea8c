"""Carries messages between two processes, with file descriptors.

A message is one datagram of a socket pair; `daemon.messages` defines its bytes. Large data is passed in a
memfd among the descriptors. Neither side waits for the other: a full channel means that the other process
does not read.
"""

import contextlib
import os
import socket
from collections.abc import Sequence
from typing import Final, Self

LARGEST: Final = 64 * 1024  # bytes of a message
_FDS: Final = 250  # descriptors in one datagram; the kernel takes 253 (unix(7))
_MORE: Final = b"+"  # a datagram that only carries descriptors of the next message
_SO_PASSRIGHTS: Final = 83  # asm-generic/socket.h, Linux 6.16


class ChannelError(Exception):
    """Reports that the other side is gone, does not read, or has sent a malformed message."""


class LostError(ChannelError):
    """Reports that the descriptors of a message could not be received; the channel can still be used.

    This process may have reached its limit on descriptors. `message` is the message without them.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__("no room for descriptors")
        self.data = data


class Channel:
    """Implements one end of a channel."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._fds: list[int] = []
        self._lost = False  # some of the descriptors of the message that is being received
        self._most = _FDS

    def refuse_descriptors(self) -> None:
        """Refuse descriptors from the other side; a message with any raises ChannelError.

        A kernel that supports it makes the sender's call fail. Other kernels close the descriptors here,
        which may block for as long as the sender wishes (SO_LINGER).
        """
        self._most = 0
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)

    @classmethod
    def pair(cls) -> tuple[Self, Self]:
        """Return both ends of a new channel."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), cls(theirs)

    @classmethod
    def of(cls, fd: int) -> Self:
        """Return the channel whose end is a descriptor, which was received through another one."""
        return cls(socket.socket(fileno=fd))

    def detach(self) -> int:
        """Return the descriptor of this end, which the caller closes; the channel is not used any more."""
        return self._socket.detach()

    def fileno(self) -> int:
        """Return the descriptor, which is readable when a message waits or the other side is gone."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close this end, and descriptors that were received but never returned."""
        close_all(self._fds)
        self._socket.close()

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send a message; the descriptors are duplicated into it.

        Raises:
            ChannelError: the other side is gone or does not read, or the message is longer than `LARGEST`.
        """
        if len(data) > LARGEST:
            raise ChannelError(f"message of {len(data)} bytes")
        try:
            while len(fds) > _FDS:
                socket.send_fds(self._socket, [_MORE], list(fds[:_FDS]))
                fds = fds[_FDS:]
            socket.send_fds(self._socket, [data], list(fds))
        except OSError as error:
            raise ChannelError(error.strerror) from error

    def receive(self) -> tuple[bytes, list[int]] | None:
        """Return the next message and its descriptors, or None if no message is complete yet.

        Raises:
            ChannelError: the other side is gone, or sent more than a message may have.
            LostError: a message has come, but not all of its descriptors.
        """
        try:
            data, fds, flags, _ = socket.recv_fds(self._socket, LARGEST, self._most)
        except BlockingIOError:
            return None
        except OSError as error:
            raise ChannelError(error.strerror) from error
        for fd in fds:
            os.set_inheritable(fd, False)  # recv_fds drops its flags, so MSG_CMSG_CLOEXEC cannot be used
        self._fds += fds
        if not data:
            raise ChannelError("closed")
        if flags & socket.MSG_TRUNC:
            raise ChannelError("truncated message")
        if flags & socket.MSG_CTRUNC and not self._most:
            raise ChannelError("descriptors")
        self._lost = self._lost or bool(flags & socket.MSG_CTRUNC)
        if data == _MORE:
            return None
        fds, self._fds = self._fds, []
        lost, self._lost = self._lost, False
        if lost:
            close_all(fds)
            raise LostError(data)
        return data, fds


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors that are no longer needed."""
    for fd in fds:
        os.close(fd)
