"""Implements the commands ban, unban, bans and disconnect (docs/reference/control.md)."""

import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from tcpdconf.config import printable
from tcpdconf.config.model import fields, values
from tcpdconf.config.model.service import Config
from tcpdconf.config.model.values import IPNetwork
from tcpdconf.daemon.cluster.client import ClusterClient
from tcpdconf.daemon.control.server import Command, Reply
from tcpdconf.daemon.guard import bans as ban_file
from tcpdconf.daemon.guard import protection
from tcpdconf.daemon.guard.bans import Ban, Bans, BansError
from tcpdconf.daemon.messages import cluster as cluster_messages
from tcpdconf.daemon.process import log, procfs
from tcpdconf.daemon.supervisor import commands
from tcpdconf.daemon.supervisor.service.managed import ManagedService
from tcpdconf.policy.connection import Endpoint

Services = Callable[[], Mapping[str, ManagedService]]

_AT_ONCE: Final = 1000  # networks in a request, and bans in an answer
_LOGGED: Final = 20  # networks of a request that are logged one by one
_HINTS: Final = 20  # errors of a request that name other bans
_SHOWN: Final = 100  # characters of a wrong value that an error quotes
_LONGEST: Final = 100 * 365 * 86400.0  # seconds of a ban
_CLUSTER: Final = "another host"
_LONGEST_MIRRORED: Final = 7 * 86400.0  # seconds; a host renews its bans
_WIDEST_MIRRORED: Final = {4: 16, 6: 32}  # prefix lengths of the widest networks that other hosts may ban


class RequestError(ValueError):
    """Reports that a request cannot be carried out; the text says why."""


class _Named(NamedTuple):
    """Holds a network of a request, its index there, and its text."""

    number: int
    text: str
    network: IPNetwork

    def error(self, why: str) -> dict[str, object]:
        """Return an element of the answer's `errors`."""
        return {"index": self.number, "network": self.text, "error": why}


class Guard:
    """Answers these commands for the running services.

    Args:
        bans: the bans of the daemon.
        services: returns the services by name.
        config: returns their configuration.
        stopping: returns whether the daemon stops. Bans then stay unchanged, because a successor may have
            read them already.
        ask_workers: asks the workers for reports, and calls its argument after their answers.
        cluster: the client of the cluster process, if the daemon is in a cluster.
    """

    def __init__(
        self,
        bans: Bans,
        services: Services,
        config: Callable[[], Config],
        *,
        stopping: Callable[[], bool],
        ask_workers: Callable[[Callable[[], None]], None],
        cluster: ClusterClient | None = None,
    ) -> None:
        self._bans = bans
        self._services = services
        self._config = config
        self._stopping = stopping
        self._ask_workers = ask_workers
        self._cluster = cluster

    def all(self) -> dict[str, Command]:
        """Return the commands by name."""
        return {
            "ban": _answering(self._ban),
            "unban": _answering(self._unban),
            "bans": self._bans_and_penalties,
            "disconnect": _answering(self._disconnect),
        }

    def _ban(self, request: Mapping[str, Any], reply: Reply) -> dict[str, object]:
        """Ban networks. A network that must not be banned is an error of its own; the others are banned."""
        self._require_running()
        service, by = self._service(request), _by(reply)
        seconds = request.get("for")
        if seconds is not None and not (_is_number(seconds) and 0 < seconds <= _LONGEST):
            raise RequestError(f"for must be a number of seconds above 0, at most {_LONGEST:.0f}")
        reason = request.get("reason", "")
        if not isinstance(reason, str) or len(reason) > ban_file.REASON:
            raise RequestError(f"reason must be a text of at most {ban_file.REASON} characters")
        now = time.time()
        until = math.inf if seconds is None else now + seconds
        named, errors = self._networks(request)
        force = request.get("force") is True
        protected = [] if force else [*protection.networks(self._config())]
        wanted = {}
        for each in named:
            why = None if force else protection.forbidden(each.network, protected)
            if why is None:
                made = Ban(each.network, service, until, now, by, printable.replaced(reason))
                wanted[made.key] = made
            else:
                errors.append(each.error(f"{why}; --force bans it all the same"))
        self._bans.ban([*wanted.values()])
        if self._cluster is not None:
            self._cluster.bans_changed()
        length = "for ever" if seconds is None else f"{seconds:g}s"
        more = {**_of(service), "for": length, "by": by, "reason": printable.replaced(reason)}
        _log("ban", [each.network for each in wanted.values()], more)
        return {"ok": not errors, "count": len(wanted), "errors": errors}

    def _unban(self, request: Mapping[str, Any], reply: Reply) -> dict[str, object]:
        """Lift the bans of exactly these networks, and of exactly one service or of all services."""
        self._require_running()
        if "host" in request:
            return self._unban_host(request, _by(reply))
        service, by = self._service(request, may_be_gone=True), _by(reply)
        named, errors = self._networks(request)
        lifted = self._bans.unban([each.network for each in named], service, by)
        _log("unban", lifted, {**_of(service), "by": by})
        self._lift_everywhere((each, service) for each in lifted)
        known = set(lifted)
        for each in named:
            if each.network not in known:
                errors.append(
                    each.error(self._not_banned(each.network, service, explain=len(errors) < _HINTS))
                )
        return {"ok": not errors, "count": len(lifted), "errors": errors}

    def _lift_everywhere(self, lifted: Iterable[tuple[IPNetwork, str | None]]) -> None:
        if self._cluster is not None:
            self._cluster.lift([(ban_file.shown(network), service) for network, service in lifted])

    def _unban_host(self, request: Mapping[str, Any], by: str) -> dict[str, object]:
        """Lift all bans that one host of the cluster has made."""
        host = request["host"]
        if not isinstance(host, str) or not values.HOST_LABEL.fullmatch(host):
            raise RequestError("host must be the name of a host")
        found: dict[str | None, list[IPNetwork]] = {}
        start: int | None = 0
        while start is not None:
            page = self._bans.page(start, _AT_ONCE)
            for each in page.bans:
                if each.host == host:
                    found.setdefault(each.service, []).append(each.network)
            start = page.next
        count = 0
        for service, networks in found.items():
            lifted = self._bans.unban(networks, service, by)
            count += len(lifted)
            self._lift_everywhere((each, service) for each in lifted)
        log.info("unban", networks=count, host=host, by=by)
        return {"ok": True, "count": count, "errors": []}

    def page(self, start: int) -> cluster_messages.BanPage:
        """Return some bans for the cluster process, from an offset of the file on."""
        try:
            page = self._bans.page(start, cluster_messages.MOST_BANS)
        except BansError as error:
            log.warning(f"bans are not shared: {error}")
            return cluster_messages.BanPage((), start, 0, more=False)
        now = time.time()
        bans = []
        for each in page.bans:
            left = None if each.until == math.inf else min(each.until - now, _LONGEST)
            if left is None or left > 0:
                bans.append(
                    cluster_messages.SharedBan(
                        ban_file.shown(each.network), each.service, left, each.by, each.reason, each.host
                    )
                )
        return cluster_messages.BanPage(tuple(bans), page.end, page.file, more=page.next is not None)

    def mirror(self, message: cluster_messages.Mirrored | cluster_messages.Lifted) -> None:
        """Adopt or lift bans of other hosts, except for networks that must not be banned here.

        A ban that this host has made stays unchanged.
        """
        if self._stopping():
            return
        try:
            if isinstance(message, cluster_messages.Lifted):
                by_service: dict[str | None, list[IPNetwork]] = {}
                for text, service in message.bans:
                    by_service.setdefault(service, []).append(ban_file.network(text))
                for service, networks in by_service.items():
                    lifted = self._bans.unban(networks, service, _CLUSTER)
                    _log("unban", lifted, {**_of(service), "by": _CLUSTER})
                return
            self._mirror(message.bans)
        except (BansError, ValueError) as error:
            log.warning(f"bans of other hosts are not mirrored: {error}")

    def _mirror(self, bans: Sequence[cluster_messages.SharedBan]) -> None:
        now, protected, known = time.time(), [*protection.networks(self._config())], self._services()
        wanted: dict[str, list[Ban]] = {}
        for each in bans:
            network = ban_file.network(each.network)
            if (
                each.host is None
                or each.seconds is None
                or not (each.service is None or each.service in known)
            ):
                continue
            too_wide = network.prefixlen < _WIDEST_MIRRORED[network.version]
            if too_wide or protection.forbidden(network, protected):
                continue
            until = now + min(each.seconds, _LONGEST_MIRRORED)
            made = Ban(network, each.service, until, now, each.by, each.reason, each.host)
            if not self._bans.is_own(made.key):
                wanted.setdefault(each.host, []).append(made)
        for host, some in wanted.items():
            self._bans.ban(some)
            _log("ban", [each.network for each in some], {"host": host, "by": some[0].by})

    def _bans_and_penalties(self, request: dict[str, Any], reply: Reply) -> None:
        """List bans; the first page also has the penalties, which only the workers know."""
        listing = _answering(self._list)
        if request.get("address") is None and not request.get("start"):
            self._ask_workers(lambda: listing(request, reply))
        else:
            listing(request, reply)

    def _list(self, request: Mapping[str, Any], _: Reply) -> dict[str, object]:
        """List bans from an offset on, or all bans that cover an address."""
        address, start = request.get("address"), request.get("start", 0)
        if address is not None:
            if not isinstance(address, str):
                raise RequestError("address must be a text")
            found = self._bans.covering([_network(address)], self._services())
            return {"bans": [each.data() for each in found], "next": None}
        if isinstance(start, bool) or not isinstance(start, int) or start < 0:
            raise RequestError("start must be the number next of an answer")
        page = self._bans.page(start, _AT_ONCE)
        answer: dict[str, object] = {"bans": [each.data() for each in page.bans]}
        answer |= {"next": page.next, "file": page.file}
        return answer if start else {**answer, "penalties": [*self._penalties()]}

    def _penalties(self) -> Iterator[dict[str, object]]:
        """Yield the enforced penalties of the workers' latest reports; a report has a limited number."""
        for name, each in self._services().items():
            report = each.report.penalties
            for row in () if report is None else report.sources:
                if row.active:
                    yield {"service": name, **commands.penalty(row)}

    def _disconnect(self, request: Mapping[str, Any], reply: Reply) -> dict[str, object]:
        """Send SIGTERM to the programs of some clients.

        A program gets no signal unless /proc proves that a worker of the service has started it.
        """
        service, pid = self._service(request), request.get("pid")
        if (pid is None) == ("networks" not in request):
            raise RequestError("either networks or pid must be given")
        if pid is not None and (isinstance(pid, bool) or not isinstance(pid, int)):
            raise RequestError("pid must be a number")
        named, errors = ([], []) if pid is not None else self._networks(request)
        wanted = _by_prefix(named)
        ended: dict[str, int] = {}
        doubtful: dict[str, int] = {}
        for name, each in self._services().items():
            if service is not None and name != service:
                continue
            lineage = each.lineage()
            for held in each.snapshot().held:
                if held.pid != pid and not _within(held.peer, wanted):
                    continue
                runs = procfs.look(held.pid)
                if runs is None or runs.ended or not runs.fits(held.started):
                    continue
                sent = lineage.proves(runs) and procfs.send(held.pid, runs.start, signal.SIGTERM)
                counted = ended if sent else doubtful
                counted[name] = counted.get(name, 0) + 1
        for name, count in ended.items():
            who = {"pid": pid} if pid is not None else {"network": ",".join(one.text for one in named[:10])}
            log.info("disconnect", service=name, **who, programs=count, by=_by(reply))
        return {"ok": not errors, "ended": ended, "doubtful": doubtful, "errors": errors}

    def _require_running(self) -> None:
        if self._stopping():
            raise RequestError("the daemon is stopping")

    def _not_banned(self, network: IPNetwork, service: str | None, *, explain: bool) -> str:
        """Return the error for a network without this ban; `explain` adds the bans that cover the network."""
        text = "is not banned" + (f" for {service}" if service else "")
        covering = self._bans.covering([network], self._services()) if explain else []
        others = [
            ban_file.shown(each.network) + (f" for {each.service}" if each.service else "")
            for each in covering
        ]
        return f"{text} itself, but {', '.join(others)} is" if others else text

    def _networks(self, request: Mapping[str, Any]) -> tuple[list[_Named], list[dict[str, object]]]:
        """Parse the networks of a request; return them, and the errors of wrong ones."""
        texts = request.get("networks")
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise RequestError("networks must be an array of texts")
        if not 0 < len(texts) <= _AT_ONCE:
            raise RequestError(f"networks must have 1 to {_AT_ONCE} elements")
        found, errors = [], []
        for index, text in enumerate(texts):
            shown = printable.replaced(text[:_SHOWN])
            try:
                found.append(_Named(index, shown, ban_file.network(text)))
            except ValueError as error:
                errors.append({"index": index, "network": shown, "error": str(error)})
        return found, errors

    def _service(self, request: Mapping[str, Any], *, may_be_gone: bool = False) -> str | None:
        name, known = request.get("service"), self._services()
        if name is None:
            return None
        if isinstance(name, str) and (name in known or (may_be_gone and fields.NAME.fullmatch(name))):
            return name
        shown = printable.replaced(str(name)[:_SHOWN])
        raise RequestError(f'there is no service "{shown}"; there are: {", ".join(known)}')


def _by_prefix(named: Iterable[_Named]) -> dict[tuple[int, int], set[int]]:
    """Return the prefixes of networks as numbers, by (IP version, number of host bits)."""
    found: dict[tuple[int, int], set[int]] = {}
    for _, _, network in named:
        shift = network.max_prefixlen - network.prefixlen
        found.setdefault((network.version, shift), set()).add(int(network.network_address) >> shift)
    return found


def _within(peer: Endpoint, wanted: Mapping[tuple[int, int], set[int]]) -> bool:
    return any(
        version == peer.version and peer.value >> shift in values
        for (version, shift), values in wanted.items()
    )


def _answering(act: Callable[[Mapping[str, Any], Reply], Mapping[str, object]]) -> Command:
    """Return a command that answers with what `act` returns, or with the text of its error."""

    def run(request: dict[str, Any], reply: Reply) -> None:
        try:
            reply(act(request, reply))
        except (RequestError, BansError) as error:
            reply({"ok": False, "error": str(error)})

    return run


def _network(text: str) -> IPNetwork:
    try:
        return ban_file.network(text)
    except ValueError as error:
        raise RequestError(str(error)) from None


def _log(event: str, networks: Sequence[IPNetwork], more: Mapping[str, object]) -> None:
    """Log a change of bans: one line for each network, or a single line for more than `_LOGGED`."""
    if len(networks) > _LOGGED:
        log.info(event, networks=len(networks), first=ban_file.shown(networks[0]), **more)
        return
    for network in networks:
        log.info(event, network=ban_file.shown(network), **more)


def _of(service: str | None) -> dict[str, str]:
    return {} if service is None else {"service": service}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _by(reply: Reply) -> str:
    """Return the uid and the name of the process that has sent a command.

    The user's name is not looked up, because a directory service may be slow.
    """
    try:
        with open(f"/proc/{reply.pid}/comm", encoding="utf-8", errors="replace") as file:
            name = printable.replaced(file.read().strip())
    except OSError:
        name = "unknown"
    return f"uid {reply.uid} ({name})"
