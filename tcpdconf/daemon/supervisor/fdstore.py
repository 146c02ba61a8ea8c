"""Keeps the listening sockets in the service manager's file descriptor store while no daemon runs.

After a restart or a crash the next daemon gets them back by socket activation. Clients that have connected
meanwhile wait in the sockets' queues. See sd_pid_notify_with_fds(3) and FileDescriptorStoreMax= in
systemd.service(5).
"""

import socket
from collections.abc import Callable

from tcpdconf.daemon.supervisor import listeners, notify
from tcpdconf.daemon.supervisor.reload.transaction import Open


class Store:
    """Keeps the store equal to the sockets on which the daemon listens."""

    def __init__(self, notifier: notify.Notifier, activated: listeners.Activated) -> None:
        self._notifier = notifier
        self._activated = activated
        self._kept = {name: list(sockets) for name, sockets in activated.stored.items()}

    def keep(self, wanted: Open) -> None:
        """Store these sockets, except those of socket units, and remove others from the store."""
        ours: dict[str, list[socket.socket]] = {}
        for key, sockets in wanted.items():
            own = [each for each in sockets if not self._activated.lent(each)]
            if own:
                ours[_name(key)] = own
        for name, kept in self._kept.items():
            if ours.get(name) != kept:
                self._notifier.forget(name)
        for name, sockets in ours.items():
            if self._kept.get(name) != sockets:
                for each in sockets:
                    self._notifier.store(name, each)
        self._kept = ours

    def release(self, unwanted: frozenset[socket.socket], then: Callable[[], None]) -> None:
        """Let the manager close its copies of these sockets, then call `then`.

        A copy that outlived ours would still listen, and no process would accept.
        """
        names = [name for name, kept in self._kept.items() if not unwanted.isdisjoint(kept)]
        for name in names:
            del self._kept[name]
            self._notifier.forget(name)
        if names:
            self._notifier.barrier(then)
        else:
            then()

    def clear(self) -> None:
        """Remove all sockets from the store."""
        for name in self._kept:
            self._notifier.forget(name)
        self._kept = {}


def _name(key: listeners.ListenerKey) -> str:
    """Return the name of a listener in the store; names there cannot contain colons."""
    return f"{listeners.STORED}{key.address.replace(':', '_')} {key.port}"
