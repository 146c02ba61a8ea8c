"""Resolves DNS questions for a worker: many at once, equal ones joined, each answered by its deadline.

It asks recursive name servers, accepts answers from no other host, and caches them for as long as they allow.
A worker makes it after the fork, so that its random numbers are its own.
"""

import functools
import os
from collections.abc import Callable, Iterator
from typing import Final, get_args

from tcpdconf.daemon.dns import exchange, nameserver, resolvconf
from tcpdconf.daemon.dns import message as dns_message
from tcpdconf.daemon.dns.cache import Cache
from tcpdconf.daemon.process import loop
from tcpdconf.policy.dns import query

_STATUSES: Final = tuple(status for status in get_args(query.Status) if status != "suspended")
_RENEW: Final = 5.0  # seconds between two checks for other settings
_RANDOM: Final = 512  # random octets fetched at a time
_IMPOSSIBLE: Final = query.Answer("nxdomain")
_TOO_LATE: Final = query.Answer("timeout")


class Resolver:
    """Asks the name servers of its settings.

    `random` returns the given number of octets that nobody can guess. `renewed` is called every few seconds
    while there are questions. It returns None, or other settings to use from then on, except for those of the
    cache.

    `counts` are totals: questions asked, answered from the cache, and joined to an equal one in progress;
    lookups that ended, by status; and strays, messages that match no question.
    """

    def __init__(
        self,
        events: loop.Loop,
        settings: resolvconf.ResolverSettings,
        *,
        random: Callable[[int], bytes] = os.urandom,
        clock: Callable[[], float] = loop.now,
        renewed: Callable[[], resolvconf.ResolverSettings | None] = lambda: None,
    ) -> None:
        self._loop = events
        self._clock = clock
        self._renewed = renewed
        self._renew_at = clock() + _RENEW
        self._tokens = _tokens(random)
        self._known: dict[tuple[str, int], nameserver.NameServer] = {}  # all servers ever asked
        self._use(settings)
        self._cache = Cache(settings.cache_entries, settings.min_ttl, settings.max_ttl)
        self._lookups: dict[bytes, exchange.Lookup] = {}
        self._counts = dict.fromkeys(("asked", "cached", "joined", *_STATUSES), 0)

    @property
    def counts(self) -> dict[str, int]:
        """Return the totals since the start."""
        return {**self._counts, "strays": sum(server.strays for server in self._known.values())}

    def ask(
        self,
        question: query.Question,
        done: exchange.Done,
        until: float,
        *,
        fresh: bool = False,
        heard: exchange.Done | None = None,
    ) -> None:
        """Call `done` once with the answer: by `until` at the latest, perhaps before this returns.

        `until` is a time of the loop's clock. The answer is "timeout" if no server has answered by then, and
        "nxdomain" for an impossible name. With `fresh` the cache is not used.

        If this call makes name servers be asked, `heard` is called with the answer before `done`, even if the
        attempt fails at once. It is not called for a cached answer, nor if an equal question is in progress.
        """
        self._counts["asked"] += 1
        try:
            section = dns_message.question(self._qualified(question))
        except ValueError:
            done(_IMPOSSIBLE)
            return
        now = self._clock()
        answer = None if fresh else self._cache.get(section, now)
        if answer is not None:
            self._counts["cached"] += 1
            done(answer)
        elif until <= now:
            done(_TOO_LATE)
        elif section in self._lookups:
            self._counts["joined"] += 1
            self._lookups[section].join(done, until)
        elif heard is None:
            self._look_up(section, done, until)
        else:
            self._look_up(section, functools.partial(_tell_both, heard, done), until)

    def close(self) -> None:
        """Close every socket and timer. Callers that wait are not called back."""
        for lookup in self._lookups.values():
            lookup.close()
        self._lookups.clear()

    def _use(self, settings: resolvconf.ResolverSettings) -> None:
        """Use these servers; state is kept of servers that were asked before."""
        self._settings = settings
        for address in settings.servers:
            if address not in self._known:
                self._known[address] = nameserver.NameServer(self._loop, address, self._tokens.__next__)
        self._servers = [self._known[address] for address in settings.servers]

    def _qualified(self, question: query.Question) -> query.Question:
        """Append this host's domain to a host name without a dot (A only), as couriertcpd does."""
        if self._settings.domain and question.type == "A" and "." not in question.name:
            return question._replace(name=f"{question.name}.{self._settings.domain}")
        return question

    def _look_up(self, section: bytes, done: exchange.Done, until: float) -> None:
        now = self._clock()
        if now >= self._renew_at:
            self._renew_at = now + _RENEW
            settings = self._renewed()
            if settings is not None:
                self._use(settings)
        servers, beside = self._order()
        lookup = exchange.Lookup(
            section,
            servers * self._settings.attempts,
            self._settings.timeout,
            events=self._loop,
            clock=self._clock,
            ended=self._ended,
        )
        self._lookups[section] = lookup
        lookup.join(done, until)
        lookup.start(beside)

    def _order(self) -> tuple[list[nameserver.NameServer], nameserver.NameServer | None]:
        """Return the servers, silent ones last, and a silent server that is due for a try, or None."""
        servers = self._servers
        if self._settings.rotate:
            self._servers = servers = [*servers[1:], servers[0]]
        silent = [server for server in servers if server.silent]
        if not silent or len(silent) == len(servers):
            return servers, None
        now = self._clock()
        heard = [server for server in servers if not server.silent]
        return heard + silent, next((server for server in silent if server.due(now)), None)

    def _ended(self, lookup: exchange.Lookup, answer: query.Answer | None) -> None:
        del self._lookups[lookup.section]
        self._counts["timeout" if answer is None else answer.status] += 1
        if answer is not None:
            self._cache.put(lookup.section, answer, self._clock())


def _tell_both(first: exchange.Done, second: exchange.Done, answer: query.Answer) -> None:
    first(answer)
    second(answer)


def _tokens(random: Callable[[int], bytes]) -> Iterator[bytes]:
    """Yield pairs of random octets for ever."""
    while True:
        pool = random(_RANDOM)
        for start in range(0, _RANDOM, 2):
            yield pool[start : start + 2]
