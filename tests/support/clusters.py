"""Hosts that count together, all in one process and one loop: a hub each, and workers' shares of it."""

import ipaddress
import os
import ssl
from collections.abc import Callable
from typing import Literal

from tcpdconf.config.model import tables, values
from tcpdconf.daemon.cluster import layout, scripts
from tcpdconf.daemon.cluster.engine import Access
from tcpdconf.daemon.cluster.hosts import Description
from tcpdconf.daemon.cluster.hub import Hub, Place
from tcpdconf.daemon.cluster.records import Answer
from tcpdconf.daemon.cluster.share import ClusterShare
from tcpdconf.daemon.messages import cluster as messages
from tcpdconf.daemon.messages.cluster import FromCluster, SharedBan, Status
from tcpdconf.daemon.process import channel, loop
from tcpdconf.policy.connection import Endpoint, endpoint

SECONDS = 10.0
DEADLINE = 1.0  # long, so that a busy machine is no failure of the engine


class World:
    """The loop that all hosts share."""

    def __init__(self) -> None:
        self.loop = loop.Loop()
        self.hosts: list[Host] = []
        self.workers: list[Worker] = []

    def close(self) -> None:
        """Close all that hosts and workers hold."""
        for worker in self.workers:
            worker.share.close()
        for host in self.hosts:
            for member in list(host.hub.members.all):
                host.hub.members.remove(member)
            host.hub.mirror.down()
            if host.hub._engine is not None:
                host.hub._engine.close()

    def until(self, true: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
        """Run until something is true."""
        end = loop.now() + seconds

        def look() -> None:
            if true():
                self.loop.stop()
                return
            assert loop.now() < end, f"still waiting for {what}"
            self.loop.after(0.001, look)

        self.loop.after(0, look)
        self.loop.run()

    def pass_(self, seconds: float) -> None:
        """Run for so long."""
        self.loop.after(seconds, self.loop.stop)
        self.loop.run()


class Host:
    """One host: its hub, and what it has reported."""

    def __init__(
        self,
        world: World,
        url: str,
        name: str = "mx1",
        *,
        login: tuple[str | None, str | None] = (None, None),
        tls: ssl.SSLContext | None = None,
        deadline: float = DEADLINE,
        lease: float = scripts.LEASE,
        host: str = "",
        prefix: str = "tcpdconf:",
    ) -> None:
        self.world = world
        self.reports: list[Status] = []
        self.own: list[SharedBan] = []  # what the supervisor's file has
        self.mirrored: dict[tuple[str, str | None], SharedBan] = {}  # what it has mirrored
        self.lifted: list[tuple[str, str | None]] = []
        self.life = os.urandom(8).hex()
        about = Description(name=name, host=host or os.urandom(8).hex(), daemon=os.urandom(8).hex())
        access = Access(values.engine_url(url), *login, tls)
        place = Place(about, self.life, True)
        self.hub = Hub(
            world.loop,
            access,
            prefix=prefix,
            deadline=deadline * 0.9,
            place=place,
            changed=self.reports.append,
            tell=self._told,
            lease=lease,
        )
        self.deadline = deadline
        self.hub.mirror.pull()
        world.hosts.append(self)
        self.hub.start()

    def _told(self, message: FromCluster) -> None:
        """Answer as the supervisor would."""
        match message:
            case messages.WantBans(start):
                some = tuple(self.own[start : start + messages.MOST_BANS])
                page = messages.BanPage(some, start + len(some), 1, more=start + len(some) < len(self.own))
                self.world.loop.soon(lambda: self.hub.mirror.page(page))
            case messages.Mirrored(bans):
                self.mirrored |= {(ban.network, ban.service): ban for ban in bans}
                self.world.loop.soon(self.hub.mirror.taken)
            case messages.Lifted(bans):
                self.lifted += bans
                for key in bans:
                    self.mirrored.pop(key, None)

    def ban(self, *networks: str, service: str | None = None, seconds: float | None = None) -> None:
        """Ban as `tcpdconf ban` does."""
        self.own += [SharedBan(each, service, seconds, "uid 0", "guesses", None) for each in networks]
        self.hub.mirror.pull()

    def up(self) -> "Host":
        """Wait until the engine is asked."""
        self.world.until(lambda: not self.hub._breaker.open, "the engine")
        return self

    def status(self) -> Status:
        """The latest report."""
        return self.reports[-1]

    def worker(self, service: str = "smtp", *, group: str | None = None, **limits: object) -> "Worker":
        """A worker of a service, with a channel to the hub; perhaps of a group with several users."""
        return Worker(self, service, tables.Limits.model_validate(limits, by_name=True), group)


class Worker:
    """One worker's share. `lost` counts the channels that were of no use any more."""

    def __init__(self, host: Host, service: str, limits: tables.Limits, group: str | None = None) -> None:
        self.host = host
        self.service = service
        self.group = group
        self.lost = 0
        self.penalised: list[messages.NetworkPenalty] = []
        self.share = ClusterShare(
            host.world.loop, (), host.deadline, lost=self._lost, penalised=self.penalised.extend
        )
        self.share.settle(layout.of(limits), host.deadline)
        host.world.workers.append(self)
        self.attach()

    def _lost(self) -> None:
        self.lost += 1

    def attach(self) -> None:
        """A new channel to the hub."""
        ours, theirs = channel.Channel.pair()
        space = self.service if self.group is None else f"@{self.group}"
        state, apart = self.host.hub.serving, self.group is not None
        self.host.hub.members.add(self.service, space, theirs, state, apart=apart)
        self.share.use(ours.detach())

    def await_serving(self) -> "Worker":
        """Wait until connections of this worker are asked for."""
        self.host.world.until(lambda: self.share.asks, "an engine that is asked")
        return self

    def ask(self, address: str, most: int | None = None) -> Answer:
        """Ask for one connection, and wait for the answer."""
        found: list[Answer] = []
        self.share.ask(peer(address), most, found.append)
        self.host.world.until(lambda: found, "an answer")
        return found[0]

    def ask_many(self, *addresses: str) -> list[Answer]:
        """Ask for several at once; the answers in their order."""
        found: dict[int, Answer] = {}
        for number, address in enumerate(addresses):
            self.share.ask(peer(address), None, lambda answer, number=number: found.update({number: answer}))  # type: ignore[misc]
        self.host.world.until(lambda: len(found) == len(addresses), "answers")
        return [found[number] for number in range(len(addresses))]

    def penalise(self, address: str, seconds: float) -> None:
        """Tell of a penalty of an address."""
        client = peer(address)
        size = 32 if client.version == 4 else 128
        version: Literal[4, 6] = 4 if client.version == 4 else 6
        self.share.penalise(messages.NetworkPenalty(version, client.value, size, seconds, "refused"))

    def release(self, address: str) -> None:
        """Let a connection end."""
        self.share.release(peer(address))


def peer(address: str) -> Endpoint:
    """A client at an address."""
    found = ipaddress.ip_address(address)
    return endpoint(found.version, int(found), 1)
