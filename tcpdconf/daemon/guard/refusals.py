"""Counts the refusals of one service by address, and logs them."""

import functools
from collections.abc import Callable, Mapping

from tcpdconf.daemon.guard.refused_addresses import RefusedAddresses
from tcpdconf.daemon.messages.worker import MOST_REFUSED, RefusedAddress
from tcpdconf.daemon.process import log, loop, throttle
from tcpdconf.policy.connection import Endpoint, Refused


class Refusals:
    """Counts and logs refusals, and also the clients that are served only because a limit is not enforced.

    A line has the fields that `ends` returns, which name the client. It is called only if the line is not
    suppressed.
    """

    def __init__(self, name: str, events: loop.Loop) -> None:
        self._name = name
        self._addresses = RefusedAddresses()
        self._lines = {
            event: throttle.Throttle(events.after, functools.partial(self._log_suppressed, event))
            for event in ("refuse", "would-refuse")
        }

    def count(self, peer: Endpoint) -> None:
        """Count a refusal by the address of its client."""
        self._addresses.count((peer.version, peer.value), loop.now())

    def addresses(self) -> tuple[RefusedAddress, ...]:
        """Return the addresses that were refused most in the last ten minutes."""
        found = self._addresses.most(loop.now(), MOST_REFUSED)
        return tuple(
            RefusedAddress(4 if version == 4 else 6, value, count) for (version, value), count in found
        )

    def log(self, ends: Callable[[], Mapping[str, object]], refused: Refused) -> None:
        """Log a refusal."""
        self._log("refuse", ends, refused)

    def log_observed(self, ends: Callable[[], Mapping[str, object]], refused: Refused) -> None:
        """Log that a client would be refused if the limit or source were enforced."""
        self._log("would-refuse", ends, refused)

    def _log(self, event: str, ends: Callable[[], Mapping[str, object]], refused: Refused) -> None:
        suppressed = self._lines[event].pass_(refused.reason, loop.now())
        if suppressed is not None:
            fields = {**ends(), **dict(refused.detail)}
            fields |= {"unlogged": suppressed} if suppressed else {}
            log.write("notice", event, service=self._name, reason=refused.reason, **fields)

    def log_suppressed(self) -> None:
        """Log the numbers of lines that were suppressed so far."""
        for each in self._lines.values():
            each.report()

    def _log_suppressed(self, event: str, reason: str, count: int) -> None:
        log.write("notice", "suppressed", service=self._name, line=event, reason=reason, unlogged=count)
