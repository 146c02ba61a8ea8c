"""Runs the HTTP process (`process`) for the supervisor, and writes the snapshots that it reads."""

import json
import os
import re
import socket
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, NamedTuple

from tcpdconf.config import host
from tcpdconf.config.model.http import Http
from tcpdconf.daemon.http import process, snapshot
from tcpdconf.daemon.http.unix_socket import UnixSocket
from tcpdconf.daemon.process import child, log, loop, throttle
from tcpdconf.daemon.process.helpers.helper import Helper

_INTERVAL: Final = 1.0  # least seconds between two snapshots
_LATEST: Final = 10.0  # most seconds between two snapshots
_SHARE: Final = 0.01  # most of the supervisor's time for snapshots, as a fraction
_ENVIRONMENT: Final = re.compile(r"\benvironment\b")

Status = Callable[[], Mapping[str, Any]]
Ask = Callable[[Callable[[Status], None]], None]


class _Setup(NamedTuple):
    """Holds the resources of one HTTP process; `made` is its Unix socket, if it has one."""

    settings: Http
    identity: host.Identity
    socket: socket.socket
    made: UnixSocket | None


class HttpClient:
    """Keeps the HTTP process of one daemon; `ask` calls back when the workers have reported.

    The callback is given a function that returns the answer to `status`. A reload calls `prepare`, and then
    `commit` or `discard`.
    """

    def __init__(self, events: loop.Loop, ask: Ask) -> None:
        self._loop = events
        self._ask = ask
        self._setup: _Setup | None = None
        self._next: _Setup | None = None
        self._helper = Helper(events, "http", self._start)
        self._memory: snapshot.Writer | None = None
        self._timer = 0
        self._stopping = False
        self._seldom = throttle.Seldom()

    def prepare(self, settings: Http, listener: socket.socket | None) -> None:
        """Prepare to serve; `listener` is the socket for an address, None for a Unix socket.

        Raises:
            OSError: the Unix socket cannot be made, or no memory is available.
            UnknownNameError: user or group does not exist (a LookupError).
        """
        identity = host.own_identity(settings.user)
        if self._memory is None:
            self._memory = snapshot.Writer()
        made = None
        if listener is None:
            present = None if self._setup is None else self._setup.made
            is_same = present is not None and present.is_there() and _place(settings) == _place(self._setup)
            made = present if is_same else UnixSocket(settings)
            assert made is not None  # noqa: S101 (for the type)
            listener = made.socket
        self._next = _Setup(settings, identity, listener, made)

    def discard(self) -> None:
        """Drop the prepared resources."""
        prepared, self._next = self._next, None
        present = None if self._setup is None else self._setup.made
        if prepared is not None and prepared.made is not None and prepared.made is not present:
            prepared.made.close()
        if self._setup is None:
            self._drop_memory()

    def commit(self, closed: Collection[socket.socket] = ()) -> None:
        """Serve with the prepared resources, or end the process if nothing was prepared.

        A process with the same setup continues. `closed` are sockets that the caller will close. A killed
        process may hold one of them a little longer, so this method stops its listening.
        """
        prepared, self._next = self._next, None
        before, self._setup = self._setup, prepared
        if prepared == before:
            return
        self._loop.cancel(self._timer)
        self._helper.end()
        if before is not None and before.socket in closed:
            before.socket.shutdown(socket.SHUT_RDWR)
        if prepared is not None and prepared.made is not None and not prepared.made.is_there():
            try:
                prepared.made.publish()
            except OSError as error:
                log.error(f"cannot serve HTTP at {prepared.settings.path}: {error.strerror}")
        if before is not None and before.made is not None and before.made is not (prepared and prepared.made):
            before.made.close()
        if prepared is None:
            self._drop_memory()
            return
        self._helper.begin()
        self._publish()

    def renew(self) -> None:
        """Replace the process by one with the supervisor's current log; clients wait in the backlog."""
        self._helper.renew()

    def drain(self) -> None:
        """Tell clients from now on that the daemon is stopping."""
        self._stopping = True
        if self._helper.wanted:
            self._publish()

    def ended(self, pid: int, status: int) -> bool:
        """Record the exit of a process, and return True if it is an HTTP process."""
        return self._helper.ended(pid, status)

    def close(self) -> None:
        """End the process and remove its Unix socket."""
        self._loop.cancel(self._timer)
        self._helper.close()
        self.discard()
        if self._setup is not None and self._setup.made is not None:
            self._setup.made.close()
        self._setup = None
        self._drop_memory()

    def _start(self) -> int:
        setup, memory, parent = self._setup, self._memory, os.getpid()
        if setup is None or memory is None:
            raise child.CannotStartError("it is not configured")
        return child.fork(
            lambda: process.main(setup.settings, setup.identity, setup.socket, memory.fd, parent),
            {setup.socket.fileno(), memory.fd},
        )

    def _publish(self) -> None:
        """Ask for the status and write it, at intervals."""
        self._again(_INTERVAL)  # first, in case of a defect
        self._ask(self._write)

    def _again(self, seconds: float) -> None:
        self._loop.cancel(self._timer)
        self._timer = self._loop.after(seconds, self._publish)

    def _write(self, status: Callable[[], Mapping[str, Any]]) -> None:
        """Write a snapshot of the status; a slow one makes the time until the next one longer."""
        if self._memory is None or self._setup is None:
            return
        begun = loop.now()
        answer = {**status(), "stopping": self._stopping}
        answer = _for_others(answer, addresses=self._setup.settings.addresses)
        text = json.dumps(answer).encode()
        if len(text) <= snapshot.LARGEST:
            self._memory.write(text)
        elif self._seldom.due("size", begun):
            log.error("cannot write the status for HTTP: it is too large", bytes=len(text))
        self._again(min(_LATEST, max(_INTERVAL, (loop.now() - begun) / _SHARE)))

    def _drop_memory(self) -> None:
        if self._memory is not None:
            self._memory.close()
            self._memory = None


def _for_others(answer: Mapping[str, Any], *, addresses: bool) -> dict[str, Any]:
    """Return the status without the data that HTTP clients, who may be any users of the host, must not see.

    A reload's differences lose the values of lines with `environment`, which may be secrets. Without
    `addresses` all lines lose their values, since access rules have addresses.
    """
    last = answer["last_reload"]
    if last is not None:
        details = [
            line if addresses and not _ENVIRONMENT.search(line) else _key(line) for line in last["details"]
        ]
        answer = {**answer, "last_reload": {**last, "details": details}}
    return dict(answer) if addresses else _without_addresses(answer)


def _key(line: str) -> str:
    """Return a line of a reload's differences without values: `smtp: limits.max_per_ip changed`."""
    if not any(sign in line for sign in (" = ", " -> ", "…")):  # "…": the end was cut off
        return line
    service, _, rest = line.partition(" ")
    return f"{service} {rest.partition(' ')[0]} changed"


def _without_addresses(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the status without the addresses of clients."""
    services = {}
    for name, service in answer["services"].items():
        penalties = service["penalties"]
        services[name] = (
            service if penalties is None else {**service, "penalties": {**penalties, "sources": []}}
        )
    hidden: dict[str, list[object]] = {"connections_by_address": [], "refused_by_address": [], "banned": []}
    return {**answer, **hidden, "services": services}


def _place(of: Http | _Setup | None) -> tuple[object, ...]:
    """Return the settings on which the Unix socket depends."""
    settings = of.settings if isinstance(of, _Setup) else of
    return () if settings is None else (settings.path, settings.group, settings.socket_mode)
