"""What a worker that is being replaced says of its connections, and how it is read.

It has no ledger any more: each entry is a message, which the supervisor hands to the worker that has. What is
not of the right form is not handed on.
"""

import contextlib
from typing import Any, Final

from tcpdconf.daemon import channel, ledger
from tcpdconf.policy import access, connection

_LAST_PID: Final = 1 << 22  # PID_MAX_LIMIT (proc(5))


class Relay:
    """Books kept by the successor: see `server.Books`."""

    def __init__(self, post: channel.Channel) -> None:
        self._post = post

    def set(self, name: str, value: int) -> None:
        """Nothing: the successor has a count of its own."""

    def count(self, name: str) -> None:
        """Let the successor count."""
        self._send("count", name=name)

    def hold(self, pid: int, peer: connection.Endpoint) -> ledger.Held:
        """Let the successor record a program that was started just now."""
        held = ledger.Held(-1, pid, peer, ledger.boot_time())
        self._send("adopt", pid=pid, peer=[peer.version, peer.value, peer.port], started=held.started)
        return held

    def release(self, held: ledger.Held) -> None:
        """Let the successor forget a program that has ended."""
        self._send("release", pid=held.pid)

    def _send(self, kind: str, **content: object) -> None:
        with contextlib.suppress(channel.ChannelError):  # the supervisor is gone: the worker hears of it
            self._post.send(kind, (), **content)


def checked(message: dict[str, Any]) -> dict[str, Any] | None:
    """The message if it is one of a relay's, without anything else in it."""
    match message:
        case {"kind": "count", "name": str(name)} if name in ledger.COUNTERS:
            return {"kind": "count", "name": name}
        case {"kind": "release", "pid": int(pid)} if 1 < pid <= _LAST_PID:
            return {"kind": "release", "pid": pid}
        case {"kind": "adopt", "pid": int(pid), "peer": [int(version), int(value), int(port)]} if (
            1 < pid <= _LAST_PID
            and version in access.BITS
            and 0 <= value < 1 << access.BITS[version]
            and 0 <= port < 1 << 16
            and isinstance(started := message.get("started"), float)
        ):
            return {"kind": "adopt", "pid": pid, "peer": [version, value, port], "started": started}
    return None
