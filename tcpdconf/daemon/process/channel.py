"""Passes messages with file descriptors between the supervisor and a worker.

A message is a small JSON object in one datagram of a socket pair; its "kind" gives its type. Large content
travels in a memfd among the descriptors. Neither side waits for the other: if a channel is full, the process
at its other end does not respond.
"""

import contextlib
import json
import os
import socket
from collections.abc import Sequence
from typing import Any, Final, Self

LARGEST: Final = 64 * 1024  # bytes of a message
_FDS: Final = 250  # descriptors in one datagram; the kernel takes 253 (unix(7))
_MORE: Final = b"+"  # a datagram that only carries descriptors of the next message
_SO_PASSRIGHTS: Final = 83  # asm-generic/socket.h, Linux 6.16


class ChannelError(Exception):
    """Reports that the other side is gone, does not read, or sent something that is no message."""


class LostError(ChannelError):
    """Reports that the descriptors of a message could not be received; the channel can still be used.

    This process may have reached its limit on descriptors. `message` is the message without them.
    """

    def __init__(self, message: dict[str, Any]) -> None:
        super().__init__("no room for descriptors")
        self.message = message


class Channel:
    """Implements one end of a channel."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._fds: list[int] = []
        self.size = 0  # bytes of the last datagram received
        self._lost = False  # True once descriptors of the message being received are lost
        self._most = _FDS

    def refuse_descriptors(self) -> None:
        """Refuse descriptors from the other side; a message with any raises ChannelError.

        A kernel that supports it makes the sender's call fail. Other kernels close the descriptors here,
        which may take as long as their maker wishes (SO_LINGER).
        """
        self._most = 0
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)

    @classmethod
    def pair(cls) -> tuple[Self, Self]:
        """Return both ends of a new channel."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), cls(theirs)

    def fileno(self) -> int:
        """Return the descriptor, which is readable when a message waits or the other side is gone."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close this end, and descriptors that were received but never returned."""
        close_all(self._fds)
        self._socket.close()

    def send(self, kind: str, fds: Sequence[int] = (), **content: object) -> None:
        """Send a message; the descriptors are duplicated into it.

        Raises:
            ChannelError: the other side is gone or does not read.
        """
        data = json.dumps({"kind": kind, **content}).encode()
        if len(data) > LARGEST:
            raise ChannelError(f"message of {len(data)} bytes")
        try:
            while len(fds) > _FDS:
                socket.send_fds(self._socket, [_MORE], list(fds[:_FDS]))
                fds = fds[_FDS:]
            socket.send_fds(self._socket, [data], list(fds))
        except OSError as error:
            raise ChannelError(error.strerror) from error

    def receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """Return the next message and its descriptors, or None if none is complete yet.

        Raises:
            ChannelError: the other side is gone, or sent something that is no message.
            LostError: a message has arrived, but not all of its descriptors.
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
        self.size = len(data)
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
            raise LostError(_parse(data))
        return _parse(data), fds


def _parse(data: bytes) -> dict[str, Any]:
    try:
        message = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ChannelError("no JSON") from error
    if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
        raise ChannelError("no message")
    return message


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors that are no longer needed."""
    for fd in fds:
        os.close(fd)
