"""Makes the setup of a service from its part of a configuration, and opens the files that a worker needs."""

import socket
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from tcpdconf.config import dialect, host
from tcpdconf.config.model.service import Config
from tcpdconf.daemon.broker.client import BrokerClient
from tcpdconf.daemon.cluster.client import ClusterClient
from tcpdconf.daemon.descriptors import WorkerDescriptors
from tcpdconf.daemon.guard import passes
from tcpdconf.daemon.http.client import HttpClient
from tcpdconf.daemon.messages.assignment import Failure, Group, Role
from tcpdconf.daemon.process import log, loop
from tcpdconf.daemon.supervisor import logger, process_settings
from tcpdconf.daemon.supervisor.process_settings import ProcessSettings
from tcpdconf.daemon.supervisor.service.agent import Agents
from tcpdconf.daemon.supervisor.service.shares import SharedCounts

_ALONE: Final = Group()
Sockets = Sequence[tuple[int, socket.socket]]
"""Lists listening sockets, each with the place of its listener in the configuration."""


class Surroundings(NamedTuple):
    """Holds the resources that all services share.

    `environment` is that of the daemon's start. `bans` returns the descriptor of the table of banned
    networks. `http` runs the HTTP process, `agents` answers for the agents of services, and `cluster` runs
    the cluster process. With None that part is switched off, whatever the configuration says. `counts` has
    the shared memory of groups; with None each service counts for itself.
    """

    loop: loop.Loop
    environment: dict[str, str]
    ways: dialect.Dialect = dialect.TOML
    bans: Callable[[], int | None] = lambda: None
    http: HttpClient | None = None
    agents: Agents | None = None
    counts: SharedCounts | None = None
    cluster: ClusterClient | None = None
    broker: BrokerClient | None = None


class Setup(NamedTuple):
    """Holds the settings and resources of a service.

    `roles` describe the files that were opened, and `group` describes the group of the service.
    """

    config: Config
    process: ProcessSettings
    sockets: Sockets
    logger: logger.Logger | None
    roles: tuple[Role, ...] = ()
    group: Group = _ALONE


class CannotPrepareError(Exception):
    """Reports that the service cannot be served with these settings; `failures` say why."""

    def __init__(self, failures: Sequence[Failure]) -> None:
        super().__init__(*(failure.text for failure in failures))
        self.failures = failures


def make(  # noqa: PLR0917 (a setup has as many parts)
    name: str,
    config: Config,
    sockets: Sockets,
    around: Surroundings,
    present: logger.Logger | None,
    group: Group = _ALONE,
) -> Setup:
    """Return a setup for a configuration; keep the `present` (current) logger if its settings are the same.

    Raises:
        CannotPrepareError: a user or group is unknown.
        OSError: no pipe is available.
    """
    service = config.services[name]
    try:
        process = process_settings.of(service)
    except host.UnknownNameError as error:
        raise CannotPrepareError([Failure(error.key, str(error))]) from None
    order = logger.order(service, around.environment, around.ways)
    if order is None or (present is not None and present.order == order):
        return Setup(config, process, sockets, None if order is None else present, group=group)
    made = logger.Logger(around.loop, name, order)
    if around.ways.shares_logger:
        log.redirect(made.write)
    return Setup(config, process, sockets, made, group=group)


def opened(name: str, setup: Setup, ledger: int, memory: passes.Memory) -> WorkerDescriptors:
    """Return the descriptors for a worker with this setup; the caller closes them.

    Files that cannot be opened are listed in its `failures`.
    """
    service = setup.config.services[name]
    given = WorkerDescriptors()
    given.lend("ledger", ledger)
    if service.early_talker is not None:
        given.lend("passes", memory.use())
    for place, each in setup.sockets:
        given.lend("listener", each.fileno(), place)
    if setup.logger is not None:
        given.lend("stderr", setup.logger.write)
        given.lend("log_pipe", setup.logger.peek)
    given.open(service, setup.process.identity, setup.config.dns_chains)
    given.open_log(service, setup.process.identity)
    return given


def close(one: logger.Logger | None) -> None:
    """Close a setup's logger, if it has one."""
    if one is not None:
        one.close()
