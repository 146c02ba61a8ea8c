"""The service manager's file descriptor store: listening sockets survive this process there.

When the daemon is restarted, or has crashed, it gets them back with its socket activation; clients that have
connected meanwhile wait in their queues. See sd_pid_notify_with_fds(3) and FileDescriptorStoreMax= in
systemd.service(5).
"""

from tcpdconf.daemon import listeners, notify, reloading


class Store:
    """Keeps in the store what is listened on: no more, no less."""

    def __init__(self, notifier: notify.Notifier, activated: listeners.Activated) -> None:
        self._notifier = notifier
        self._activated = activated
        self._names = set(activated.stored)

    def keep(self, wanted: reloading.Open) -> None:
        """Keep these sockets, and let go of others. A socket unit's are not ours to keep."""
        ours = {
            _name(key): sockets[0] for key, sockets in wanted.items() if not self._activated.lent(sockets[0])
        }
        for name in self._names - ours.keys():
            self._notifier.forget(name)
        for name in ours.keys() - self._names:
            self._notifier.store(name, ours[name])
        self._names = set(ours)


def _name(key: listeners.Key) -> str:
    """Names in the store have no colons."""
    return f"{listeners.STORED}{key.address.replace(':', '_')} {key.port}"
