"""Runs the cluster process. After its start it holds its connection to the engine, and its channels.

It opens the files of `[cluster]` while it still has the daemon's rights, by the rule of `descriptors`, and
reads them once it is its own user.
"""

import contextlib
import os
import resource
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from tcpdconf.config import host
from tcpdconf.config.model.cluster import Cluster
from tcpdconf.daemon.messages import cluster as messages
from tcpdconf.daemon.messages import wire
from tcpdconf.daemon.process import channel, descriptors, log, loop, privileges

if TYPE_CHECKING:
    import ssl

    from tcpdconf.daemon.cluster import engine
    from tcpdconf.daemon.cluster import hub as hubs

_DESCRIPTORS: Final = 4096  # a channel for each worker, and what the process holds
_MEMORY: Final = 1 << 30  # bytes of address space: the engine may name any length
_EARLIER: Final = 0.9  # of the deadline
_LARGEST: Final = 1 << 20  # bytes of a file


class Order(NamedTuple):
    """Holds what the process is started with.

    `host` and `daemon` are random ids; `alone` is as in `hub.Place`.
    """

    settings: Cluster
    identity: host.Identity
    host: str
    daemon: str
    alone: bool
    parent: int


class CannotUseError(Exception):
    """Reports a file of [cluster] that cannot be used; the text says which and why."""


def main(order: Order, post: channel.Channel) -> int:
    """Serve until the supervisor is gone; return the exit status."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.dup2(0, 1)  # the log is standard error
    os.chdir("/")
    # Not by the supervisor: it is an optional dependency, and parses foreign bytes. And not with the user's
    # rights, with which it may not be readable.
    from tcpdconf.daemon.cluster import hosts, hub  # noqa: PLC0415

    try:
        access = prepared(order)
    except CannotUseError as error:
        log.error(f"[cluster]: {error}")
        return 1
    if not privileges.dies_with(order.parent):
        return 0
    settings, events = order.settings, loop.Loop()
    events.guard()
    about = hosts.Description(name=_name(settings), host=order.host, daemon=order.daemon)
    place = hub.Place(about, os.urandom(8).hex(), order.alone)
    # it answers before the worker's own deadline, so that a worker can tell the engine from this process
    made = hub.Hub(
        events,
        access,
        prefix=settings.prefix,
        deadline=settings.deadline * _EARLIER,
        place=place,
        changed=_Sender(post),
        tell=_Sender(post),
    )
    _Process(events, post, made)
    log.info("cluster ready", engine=settings.url, pid=os.getpid())
    events.run()
    return 0


def order(settings: Cluster, host_id: str, daemon: str, *, alone: bool) -> Order:
    """Return what this process's child is started with.

    Raises:
        UnknownNameError: the user does not exist (a LookupError).
    """
    return Order(settings, host.own_identity(settings.user), host_id, daemon, alone, os.getpid())


def prepared(order: Order) -> "engine.Access":
    """Give up all rights but those of the process's user, and return what is needed to log in.

    Raises:
        CannotUseError: a file of [cluster] cannot be used.
    """
    _bound_resources()
    opened = _open_files(order)
    privileges.become(order.identity)
    privileges.forbid_new()
    privileges.hide_memory()  # it has the password
    return _access(order.settings, opened)


class _Sender:
    """Sends messages to the supervisor, and ends this process if it does not read them."""

    def __init__(self, post: channel.Channel) -> None:
        self._post = post

    def __call__(self, message: messages.FromCluster) -> None:
        try:
            self._post.send(wire.written(message))
        except channel.ChannelError:
            os._exit(0)  # the supervisor starts another one, if it lives


class _Process:
    """Carries out what the supervisor says."""

    def __init__(self, events: loop.Loop, post: channel.Channel, hub: "hubs.Hub") -> None:
        self._loop = events
        self._post = post
        self._hub = hub
        self._send = _Sender(post)
        events.watch(post, self._read)
        hub.start()
        hub.mirror.pull()

    def _read(self) -> None:
        try:
            while (received := self._post.receive()) is not None:
                data, fds = received
                self._handle(wire.parsed(data, messages.TO_CLUSTER), fds)
        except channel.LostError:
            os._exit(1)  # a worker without its channel is attached again to the next process
        except channel.ChannelError:
            self._loop.stop()

    def _handle(self, message: messages.ToCluster, fds: list[int]) -> None:
        match message:
            case messages.Attach(service, space, brokered):
                (fd,) = fds
                post, state = channel.Channel.of(fd), self._hub.serving
                self._hub.members.add(service, space, post, state, brokered=brokered)
            case messages.Ask():
                self._hub.ask(message, self._send)
            case messages.BanPage():
                self._hub.mirror.page(message)
            case messages.BansChanged():
                self._hub.mirror.pull()
            case messages.Taken():
                self._hub.mirror.taken()
            case messages.Lift(bans):
                self._hub.mirror.lift(bans)
            case messages.GiveUp():
                self._hub.leave(self._loop.stop)


def _name(settings: Cluster) -> str:
    """Return the name of this host, of the characters that a name may have."""
    text = settings.name or os.uname().nodename
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in text)[:64] or "-"


def _open_files(order: Order) -> dict[str, int]:
    """Return descriptors of the files, by key."""
    found = {}
    for key, path in order.settings.files.items():
        try:
            found[key] = descriptors.regular(path, order.identity)
        except OSError as error:
            raise CannotUseError(f"{key}: cannot read {path}: {error.strerror}") from None
    return found


def _access(settings: Cluster, opened: dict[str, int]) -> "engine.Access":
    """Return what is needed to log in to the engine; close the files."""
    from tcpdconf.daemon.cluster import engine  # noqa: PLC0415 (as in `main`)

    texts = {}
    try:
        for key, fd in opened.items():
            try:
                texts[key] = descriptors.content(fd, _LARGEST).decode()
            except (OSError, UnicodeDecodeError) as error:
                raise CannotUseError(f"{key}: cannot read {settings.files[key]}: {error}") from None
        password = None
        if "password_file" in texts:
            password = texts["password_file"].split("\n", 1)[0].rstrip("\r")
            if not password:
                raise CannotUseError(f"password_file: the first line of {settings.password_file} is empty")
        tls = _context(settings, texts) if settings.url.tls else None
        return engine.Access(settings.url, settings.username, password, tls)
    finally:
        for fd in opened.values():
            os.close(fd)


def _context(settings: Cluster, texts: dict[str, str]) -> "ssl.SSLContext":
    import ssl  # noqa: PLC0415 (a large module, which the supervisor has no use for)

    try:
        context = ssl.create_default_context(cadata=texts.get("ca_file"))
    except (ssl.SSLError, ValueError):
        raise CannotUseError(f"ca_file: {settings.ca_file} has no certificate (PEM)") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if "certificate_file" in texts:
        # the module ssl reads a key from a path only, and this process may not open the files themselves
        with _memory(texts["certificate_file"]) as certificate, _memory(texts["key_file"]) as key:
            try:
                context.load_cert_chain(certificate, key, password=lambda: b"")
            except (ssl.SSLError, OSError):
                text = f"{settings.certificate_file} and {settings.key_file}"
                raise CannotUseError(f"certificate_file: {text} are no certificate and its key") from None
    return context


@contextlib.contextmanager
def _memory(text: str) -> Iterator[str]:
    """Keep a text in a memfd for a while, and yield its path."""
    fd = os.memfd_create("tcpdconf-cluster", os.MFD_CLOEXEC)
    try:
        os.write(fd, text.encode())
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _bound_resources() -> None:
    """Let this process open few descriptors, use little memory and leave no copy of it."""
    for which, most in (
        (resource.RLIMIT_NOFILE, _DESCRIPTORS),
        (resource.RLIMIT_AS, _MEMORY),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(which)
        few = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(which, (few, few))
