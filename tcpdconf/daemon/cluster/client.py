"""Runs the cluster process (`process`) for the supervisor, and gives workers their channels to it."""

import os
import re
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
from tcpdconf.daemon.process.helpers.helper import ConnectedHelper

_ASKED: Final = 0.5  # seconds in which the process answers a question
_LEAVE: Final = 0.5  # seconds for the process to give up its lease
_FILE: Final = "cluster.id"
_BURST: Final = 5000  # messages that the process may send at once: 50,000 bans of others, and its own
_STEADY: Final = 100.0  # messages a second

Counts = tuple[Mapping[str, int], ...] | None


class _Setup(NamedTuple):
    """Holds the settings of one cluster process."""

    settings: Cluster
    identity: host.Identity
    files: tuple[Signature, ...]


class ClusterClient:
    """Keeps the cluster process of one daemon.

    `renewed` is called when workers need new channels (`attach`). `page` returns this host's bans from an
    offset of their file on, and `mirrored` is called with bans of other hosts. `alone` is False while the
    daemon that this one replaces may run. A reload calls `prepare`, and then `commit` or `discard`.
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
        self._helper = ConnectedHelper(
            events,
            "cluster",
            "the cluster process",
            self._start,
            heard=self._hear,
            disconnected=self._forget_questions,
        )
        self._status: messages.Status | None = None
        self._status_at = 0.0
        self._since = time.time()  # time when the present state began
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
        """Drop the prepared settings."""
        self._next = None

    def commit(self) -> None:
        """Apply the prepared settings, or end the process without any; keep it if they are the same."""
        prepared, self._next = self._next, None
        if prepared == self._setup:
            return
        # The lease of the former process is over when the next one of this daemon starts, or after 15 s.
        self._helper.end()
        self._setup, self._status = prepared, None
        if prepared is not None:
            self._helper.begin()

    def renew(self) -> None:
        """Replace the process by one with the supervisor's current log."""
        self._status = None
        self._helper.renew()

    @property
    def pid(self) -> int | None:
        """Return the pid of the process, or None if it does not run."""
        return self._helper.pid

    def attach(self, service: str, space: str, *, apart: bool) -> int | None:
        """Return the worker's end of a new channel, which the caller closes; None without a process.

        Services with the same `space` count an address together. If they have several users (`apart`), the
        process decides for them by the counts of this host while the engine does not answer.
        """
        if self._setup is None:
            return None
        apart = apart and self._setup.settings.on_failure == "local"
        return self._helper.attach(wire.written(messages.Attach(service, space, apart)), service)

    def bans_changed(self) -> None:
        """Have the process share new bans."""
        self._tell(messages.BansChanged())

    def lift(self, bans: Sequence[tuple[str, str | None]]) -> None:
        """Have bans, given as (network, service), lifted on all hosts."""
        for first in range(0, len(bans), messages.MOST_LIFTED):
            self._tell(messages.Lift(tuple(bans[first : first + messages.MOST_LIFTED])))

    def ask(
        self, space: str, version: int, value: int, prefixes: tuple[int, ...], then: Callable[[Counts], None]
    ) -> None:
        """Call `then` with the connections of other hosts by name, for each prefix length of an address.

        None means that they are unknown.
        """
        if not self._helper.connected:
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
        found |= {"pid": self.pid, "restarts": self._helper.failures}
        if last is None:
            return {**found, "state": "connecting", "why": "the cluster process is starting", "hosts": []}
        passed = time.monotonic() - self._status_at
        found |= {"state": last.state, "since": round(self._since, 1), "why": last.why}
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
                "connections": last.connections if each.own else each.connections,
            }
            for each in last.hosts
        ]
        return found

    def ended(self, pid: int, status: int) -> bool:
        """Record the exit of a process, and return True if it is a cluster process."""
        return self._helper.ended(pid, status)

    def close(self) -> None:
        """End the process, which gives up its lease first, if it can do so at once."""
        self._tell(messages.GiveUp())
        self._setup = self._status = None
        self._helper.close(_LEAVE)

    def _start(self) -> int:
        """Fork the process, and have workers get channels to it."""
        setup, parent = self._setup, os.getpid()
        if setup is None:
            raise child.CannotStartError("it is not configured")
        if self._host is None:
            self._host = _host_id(self._environment)
        order = process.Order(setup.settings, setup.identity, self._host, self._daemon, self._alone, parent)
        pid = self._helper.fork(lambda post: process.main(order, post))
        self._loop.soon(self._renewed)
        return pid

    def _hear(self, data: bytes) -> None:
        """Handle a message of the process.

        Raises:
            ChannelError: it is malformed, or one too many.
        """
        self._charge()
        message = wire.parsed(data, messages.FROM_CLUSTER)
        match message:
            case messages.Status():
                self._note(message)
            case messages.WantBans(start):
                self._tell(self._page(start))
            case messages.Mirrored():
                self._mirrored(message)
                self._tell(messages.Taken())
            case messages.Lifted():
                self._mirrored(message)
            case messages.Told(number, counts):
                self._answer(number, counts)

    def _note(self, status: messages.Status) -> None:
        """Keep a status, and the time when its state began."""
        if self._status is None or (self._status.state == "up") != (status.state == "up"):
            self._since = time.time()
        self._status, self._status_at = status, time.monotonic()

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

    def _forget_questions(self) -> None:
        """Answer that nobody knows: the process that was asked is gone."""
        for number in list(self._asked):
            self._answer(number, None)

    def _tell(self, message: messages.ToCluster) -> None:
        if self._helper.connected:
            self._helper.tell(wire.written(message))


def _signature(path: str) -> Signature:
    try:
        return signature(os.stat(path))
    except OSError:
        return ()


def _host_id(environment: Mapping[str, str]) -> str:
    """Return the random id of this host, from its state directory.

    Without a state directory the id lasts as long as the daemon.
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
