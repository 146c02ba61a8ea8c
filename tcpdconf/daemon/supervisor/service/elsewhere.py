"""Reports the connections that other hosts of the cluster have from a client, for `tcpdconf explain`."""

import ipaddress
from collections.abc import Callable, Mapping
from typing import Any

from tcpdconf.daemon.cluster import layout
from tcpdconf.daemon.cluster.client import ClusterClient, Counts
from tcpdconf.daemon.control.server import Reply
from tcpdconf.daemon.supervisor.service.managed import ManagedService


class Elsewhere:
    """Answers the command `elsewhere` for the running services."""

    def __init__(self, cluster: ClusterClient, services: Callable[[], Mapping[str, ManagedService]]) -> None:
        self._cluster = cluster
        self._services = services

    def answer(self, request: dict[str, Any], reply: Reply) -> None:
        """Reply with the connections of other hosts by prefix length and host; null if they are unknown."""
        name, address = request.get("service"), request.get("address")
        each = self._services().get(name) if isinstance(name, str) else None
        try:
            client = ipaddress.ip_address(address) if isinstance(address, str) else None
        except ValueError:
            client = None
        if each is None or each.setup is None or client is None:
            reply({"ok": False, "error": "service and address must name a service and an address"})
            return
        limits = each.setup.config.services[each.name].limits
        lengths = {one.limit.prefix(client.version) for one in layout.of(limits) if one.limit.seconds is None}
        prefixes = tuple(sorted(length for length in lengths if length is not None))
        if limits.scope == "host":
            reply({"ok": True, "counts": None})
            return

        def told(counts: Counts) -> None:
            found = None
            if counts is not None:
                found = {str(prefix): dict(one) for prefix, one in zip(prefixes, counts, strict=True)}
            reply({"ok": True, "counts": found})

        space = layout.space(each.name, limits)
        self._cluster.ask(space, client.version, int(client), prefixes, told)
