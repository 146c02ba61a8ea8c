"""Runs the HTTP process. After its start it holds its listener, its log and a snapshot to read."""

import os
import resource
import socket
from collections.abc import Callable
from typing import Final

from tcpdconf.config import collisions, host
from tcpdconf.config.model.http import Http
from tcpdconf.daemon.http import snapshot
from tcpdconf.daemon.process import log, loop, privileges, throttle
from tcpdconf.daemon.process.helpers import confinement

_LIMITS: Final = {
    resource.RLIMIT_NOFILE: 128,  # for clients and for the process itself
    resource.RLIMIT_NPROC: 0,
}


def main(settings: Http, identity: host.Identity, listener: socket.socket, status: int, parent: int) -> int:
    """Serve until killed; return the exit status.

    `status` is a descriptor of the snapshots. `parent` is the pid of the supervisor: this process ends with
    it.
    """
    # not by the supervisor, which has no use for it; and with the user's rights it may not be readable
    from tcpdconf.daemon.http import answers, server  # noqa: PLC0415

    confinement.settle()  # it answers while the daemon stops
    confinement.confine(identity, _LIMITS)
    if not privileges.dies_with(parent):
        return 0
    names = None
    if settings.path is None:
        names = {"localhost", os.uname().nodename.lower(), *settings.hosts}
    events = loop.Loop()
    events.guard()
    answering = answers.Answers(snapshot.Reader(status), names)
    server.Server(events, listener, answering, _admitting(settings))
    answering.sample(events)
    log.info("http ready", listen=settings.model_dump()["listen"], pid=os.getpid())
    events.run()
    return 0


def _admitting(settings: Http) -> Callable[[str], bool]:
    """Return the function that takes a client's address and returns whether to answer it."""
    allowed = settings.allow
    seldom = throttle.Seldom()
    if not allowed:
        return lambda _: True

    def admits(address: str) -> bool:
        if collisions.is_within(address, allowed):
            return True
        if seldom.due("refused", loop.now()):
            log.write("notice", "http refused", peer=collisions.unmapped(address))
        return False

    return admits
