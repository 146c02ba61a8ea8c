"""Runs the cluster process (`process`) for the supervisor, and gives workers their channels to it."""

import os
import re
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TextIO

from tcpdconf.config import host
from tcpdconf.config.file_signature import Signature, signature
from tcpdconf.config.model.cluster import Cluster
from tcpdconf.daemon.cluster import process, scripts
from tcpdconf.daemon.guard import state_directory
from tcpdconf.daemon.messages import cluster as messages
from tcpdconf.daemon.messages import wire
from tcpdconf.daemon.messages.measures import CLUSTER_BOUNDS
from tcpdconf.daemon.process import channel, child, log, loop

_ASKED: Final = 0.5  # seconds in which the process answers a question
_LEAVE: Final = 0.5  # seconds that it has to give up its lease
_FILE: Final = "cluster.id"
_BURST: Final = 5000  # messages that the process may send at once: 50,000 bans of others, and its own
_STEADY: Final = 100.0  # messages a second
_AT_ONCE: Final = 16  # messages read in one turn

Counts = tuple[Mapping[str, int], ...] | None


class _Setup(NamedTuple):
    """Holds what one cluster process works with."""

    settings: Cluster
    identity: host.Identity
    files: tuple[Signature, ...]


class ClusterClient:
    """Keeps the cluster process of one daemon.

    `renewed` is called when workers need new channels (`attach`). `page` returns this host's bans from a
    place of their file on, and `mirrored` is called with those of other hosts. `alone` is False while the
    daemon that this one replaces may live. A reload calls `prepare`, and then `commit` or `discard`.
    """

    def __init__(
        self,
        events: loop.Loop,
        environment: Mapping[str, str],
        renewed: Callable[[], None],
        *,
        alone: bool,
        page: Callable[[int], messages.BanPage] = lambda _: messages.BanPage((), 0, 0, more=False),
        mirrored: Callable[[messages.Mirrored | messages.Lifted], None] = lambda _: None,
    ) -> None:
        self._loop = events
        self._environment = environment
        self._renewed = renewed
        self._alone = alone
        self._page = page
        self._mirrored = mirrored
        self._daemon = os.urandom(8).hex()
        self._host: str | None = None
        self._setup: _Setup | None = None
        self._next: _Setup | None = None
        self._process: child.Child | None = None
        self._post: channel.Channel | None = None
        self._killed: set[int] = set()
        self._status: messages.Status | None = None
        self._status_at = 0.0
        self._asked: dict[int, Callable[[Counts], None]] = {}
        self._number = 0
        self._budget, self._charged_at = float(_BURST), 0.0

    def prepare(self, settings: Cluster) -> None:
        """Prepare to count in this engine.

        Raises:
            UnknownNameError: the user does not exist (a LookupError).
        """
        files = tuple(_signature(path) for path in settings.files.values())
        self._next = _Setup(settings, host.own_identity(settings.user), files)

    def discard(self) -> None:
        """Forget what was prepared."""
        self._next = None

    def commit(self) -> None:
        """Count as was prepared, or end the process if that is nothing. It goes on if nothing differs."""
        prepared, self._next = self._next, None
        if prepared == self._setup:
            return
        self._end()
        self._setup = prepared
        if prepared is not None:
            self._begin()

    def renew(self) -> None:
        """Replace the process by one that logs as this process does now."""
        if self._process is not None:
            self._end()
            self._begin()

    @property
    def pid(self) -> int | None:
        """Return the pid of the process, or None if it does not run."""
        return None if self._process is None else self._process.pid

    def attach(self, service: str, space: str, *, brokered: bool = False) -> int | None:
        """Return the worker's end of a new channel, which the caller closes; None without a process.

        Services with the same `space` count an address together; `brokered` is as in `Attach`.
        """
        if self._post is None:
            return None
        try:
            ours, theirs = channel.Channel.pair()
        except OSError as error:
            log.error(f"cannot make a channel to the cluster process: {error.strerror}", service=service)
            return None
        fd = ours.detach()
        try:
            self._tell(messages.Attach(service, space, brokered), fd)
        finally:
            os.close(fd)
        return theirs.detach()

    def bans_changed(self) -> None:
        """Have the process share new bans."""
        self._tell(messages.BansChanged())

    def lift(self, bans: Sequence[tuple[str, str | None]]) -> None:
        """Have bans lifted on all hosts, each a network and a service."""
        for first in range(0, len(bans), messages.MOST_LIFTED):
            self._tell(messages.Lift(tuple(bans[first : first + messages.MOST_LIFTED])))

    def ask(
        self, space: str, version: int, value: int, prefixes: tuple[int, ...], then: Callable[[Counts], None]
    ) -> None:
        """Call `then` with the connections of other hosts by name, for each prefix length of an address.

        None means that nobody knows.
        """
        if self._post is None:
            then(None)
            return
        self._number += 1
        number = self._number
        self._asked[number] = then
        self._tell(messages.Ask(number, space, 4 if version == 4 else 6, value, prefixes))
        self._loop.after(_ASKED, lambda: self._answer(number, None))

    def status(self) -> dict[str, Any] | None:
        """Return the status as JSON data, or None if nothing is configured."""
        if self._setup is None:
            return None
        settings, last = self._setup.settings, self._status
        found: dict[str, Any] = {"engine": str(settings.url), "on_failure": settings.on_failure}
        found |= {"pid": self.pid, "restarts": 0 if self._process is None else self._process.failures}
        if last is None:
            return {**found, "state": "connecting", "why": "the cluster process is starting", "hosts": []}
        passed = time.monotonic() - self._status_at
        found |= {"state": last.state, "why": last.why}
        found |= {"connections": last.connections, "addresses": last.addresses}
        for key in ("asked", "admitted", "refused", "unanswered"):
            found[key] = getattr(last, key)
        found["times"] = {"bounds": CLUSTER_BOUNDS, "counts": list(last.times), "sum": last.seconds}
        found["hosts"] = [
            {
                "name": each.name,
                "id": each.host,
                "lease_age": round(each.renewed + passed, 1),
                "alive": each.alive and each.renewed + passed < scripts.LEASE,
                "own": each.own,
            }
            for each in last.hosts
        ]
        return found

    def ended(self, pid: int, status: int) -> bool:
        """Record the exit of a process, and return True if it is a cluster process."""
        if pid in self._killed:
            self._killed.discard(pid)
            return True
        if self._process is None or self._process.pid != pid:
            return False
        self._drop_post()
        self._process.ended(status)
        return True

    def close(self) -> None:
        """End the process, which gives up its lease first, if it can do so at once."""
        if self._process is not None and self._process.pid is not None:
            self._process.finish()
            self._tell(messages.GiveUp())
            end = time.monotonic() + _LEAVE
            while time.monotonic() < end:
                pid, _ = os.waitpid(self._process.pid, os.WNOHANG)
                if pid:
                    self._process = None
                    break
                time.sleep(0.005)
        self._setup = None
        self._end()
        for pid in self._killed:
            os.waitpid(pid, 0)
        self._killed.clear()

    def _begin(self) -> None:
        self._process = child.Child(self._loop, "cluster", self._start)
        self._process.start()

    def _start(self) -> int:
        """Fork the process, and have workers get channels to it."""
        setup, parent = self._setup, os.getpid()
        if setup is None:
            raise child.CannotStartError("it is not configured")
        if self._host is None:
            self._host = _host_id(self._environment)
        order = process.Order(setup.settings, setup.identity, self._host, self._daemon, self._alone, parent)
        ours, theirs = channel.Channel.pair()
        ours.refuse_descriptors()
        try:
            pid = child.fork(lambda: process.main(order, theirs), {theirs.fileno()})
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._drop_post()
        self._post = ours
        self._loop.watch(ours, self._read)
        self._loop.soon(self._renewed)
        return pid

    def _read(self) -> None:
        try:
            for _ in range(_AT_ONCE):
                received = None if self._post is None else self._post.receive()
                if received is None:
                    return
                self._charge()
                message = wire.parsed(received[0], messages.FROM_CLUSTER)
                match message:
                    case messages.Status():
                        self._status, self._status_at = message, time.monotonic()
                    case messages.WantBans(start):
                        self._tell(self._page(start))
                    case messages.Mirrored():
                        self._mirrored(message)
                        self._tell(messages.Taken())
                    case messages.Lifted():
                        self._mirrored(message)
                    case messages.Told(number, counts):
                        self._answer(number, counts)
        except channel.ChannelError as error:
            log.debug(f"channel to cluster: {error}")
            self._kill()

    def _charge(self) -> None:
        """Charge the process for a message.

        Raises:
            ChannelError: it sends too many.
        """
        now = time.monotonic()
        self._budget = min(_BURST, self._budget + (now - self._charged_at) * _STEADY) - 1
        self._charged_at = now
        if self._budget < 0:
            raise channel.ChannelError("messages without end")

    def _answer(self, number: int, counts: Counts) -> None:
        then = self._asked.pop(number, None)
        if then is not None:
            then(counts)

    def _tell(self, message: messages.ToCluster, *fds: int) -> None:
        if self._post is None:
            return
        try:
            self._post.send(wire.written(message), fds)
        except channel.ChannelError as error:
            log.debug(f"channel to cluster: {error}")
            self._kill()

    def _kill(self) -> None:
        """Kill a process that does not read or misbehaves; another one follows."""
        self._drop_post()
        if self._process is not None and self._process.pid is not None:
            os.kill(self._process.pid, signal.SIGKILL)

    def _end(self) -> None:
        """Kill the process. Its lease is over when the next one of this daemon starts, or after 15 s."""
        former, self._process = self._process, None
        self._drop_post()
        self._status = None
        if former is None:
            return
        former.finish()
        if former.pid is not None:
            os.kill(former.pid, signal.SIGKILL)
            self._killed.add(former.pid)

    def _drop_post(self) -> None:
        if self._post is not None:
            self._loop.forget(self._post)
            self._post.close()
            self._post = None
        for number in list(self._asked):
            self._answer(number, None)


def _signature(path: str) -> Signature:
    try:
        return signature(os.stat(path))
    except OSError:
        return ()


def _host_id(environment: Mapping[str, str]) -> str:
    """Return the random id of this host, from its state directory.

    Without one it lasts as long as the daemon.
    """
    made = os.urandom(8).hex()
    try:
        with state_directory.opened(state_directory.find(environment)) as directory:
            with _opened(directory, os.O_RDONLY) as file:
                text = file.read(100).strip()
            if re.fullmatch("[0-9a-f]{16}", text):
                return text
            log.warning(f"{_FILE} in the state directory has no id, so it is written anew")
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        log.warning(f"cannot read {_FILE} in the state directory: {error}")
        return made
    try:
        with (
            state_directory.opened(state_directory.find(environment)) as directory,
            _opened(directory, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file,
        ):
            file.write(f"{made}\n")
    except OSError as error:
        log.warning(f"cannot write {_FILE} to the state directory: {error.strerror}")
    return made


def _opened(directory: int, flags: int) -> TextIO:
    fd = os.open(_FILE, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=directory)
    return open(fd, "r" if flags == os.O_RDONLY else "w", encoding="ascii")
