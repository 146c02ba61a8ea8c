"""Runs one DNS question: chooses which server to ask next and how long to wait, for all who asked it.

A failure that a server reports is final for that server, and the next one is asked at once. Silence costs a
share of the time left. An answer from a server whose turn is over still counts.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Final

from tcpdconf.daemon.dns import message as dns_message
from tcpdconf.daemon.dns import nameserver
from tcpdconf.daemon.process import loop
from tcpdconf.policy.dns import query

# Seconds after which an unanswered question is sent once more: it may have been lost, which happens all the
# time with a server on another host.
_AGAIN: Final = 1.0
_TIMEOUT: Final = query.Answer("timeout")
_UNREACHABLE: Final = query.Answer("unreachable")

Done = Callable[[query.Answer], None]
Ended = Callable[["Lookup", query.Answer | None], None]


class Lookup:
    """Asks one question section for several callers.

    The `servers` are asked in turn, each for at most `timeout` seconds; one that is in the list again is
    asked again. `ended` is called once, before the callers: with the answer, or with None if no caller is
    left.
    """

    def __init__(
        self,
        section: bytes,
        servers: Sequence[nameserver.NameServer],
        timeout: float,
        *,
        events: loop.Loop,
        clock: Callable[[], float],
        ended: Ended,
    ) -> None:
        self.section = section
        self._servers = list(servers)
        self._timeout = timeout
        self._loop = events
        self._clock = clock
        self._ended = ended
        self._server = servers[0]  # the one whose turn it is
        self._turn_ends = self._again_at = 0.0
        self._waiting: list[tuple[float, Done]] = []
        self._timer: int | None = None
        self._sent: list[nameserver.Drop] = []
        self._streams: list[nameserver.NameServer] = []
        self._told: query.Answer | None = None  # a failure that a server has reported
        self._silent = False  # True once a server has not answered within its turn

    def join(self, done: Done, until: float) -> None:
        """Add a caller, who is answered by the time `until` of the clock at the latest."""
        self._waiting.append((until, done))
        if self._timer is not None:
            self._wait()

    def start(self, beside: nameserver.NameServer | None = None) -> None:
        """Ask the first server, and also `beside`, for which the lookup does not wait."""
        if beside is not None:
            with contextlib.suppress(OSError):
                self._send(beside)
        self._next()

    def close(self) -> None:
        """Give up without calling anybody back."""
        if self._timer is not None:
            self._loop.cancel(self._timer)
        while self._sent:
            self._sent.pop()()

    def received(self, server: nameserver.NameServer, data: bytes) -> None:
        """Judge a message that arrived over UDP."""
        found = dns_message.read(data, self.section)
        if isinstance(found, query.Answer):
            self._judge(server, found)
        elif found == "foreign":
            server.strays += 1
        else:
            self._stream(server)

    def streamed(self, server: nameserver.NameServer, data: bytes) -> None:
        """Judge the message that arrived over TCP."""
        found = dns_message.read(data, self.section)
        self._judge(server, found if isinstance(found, query.Answer) else query.Answer("malformed"))

    def unreachable(self, server: nameserver.NameServer) -> None:
        """Continue without a server that cannot be reached."""
        server.missed(self._clock())
        self._leave_out(server)

    def _judge(self, server: nameserver.NameServer, answer: query.Answer) -> None:
        server.heard()
        if answer.status in {"answer", "nxdomain"}:
            self._end(answer)
        else:
            self._told = answer
            self._leave_out(server)

    def _stream(self, server: nameserver.NameServer) -> None:
        server.heard()
        if server in self._streams:
            return
        self._streams.append(server)
        try:
            drop = server.ask_stream(self)
        except OSError:
            self._leave_out(server)
            return
        if drop is not None:
            self._sent.append(drop)

    def _leave_out(self, server: nameserver.NameServer) -> None:
        self._servers = [other for other in self._servers if other is not server]
        if server is self._server:
            self._next()

    def _next(self) -> None:
        """Ask the next server that can be reached; without one, end the lookup."""
        while self._servers:
            self._server = server = self._servers.pop(0)
            now = self._clock()
            try:
                self._send(server)
            except OSError:
                server.missed(now)
                self._servers = [other for other in self._servers if other is not server]
                continue
            left = max(until for until, _ in self._waiting) - now
            self._turn_ends = now + min(self._timeout, left / (len(self._servers) + 1))
            self._again_at = min(now + _AGAIN, self._turn_ends)
            self._wait()
            return
        self._end(self._told or (_TIMEOUT if self._silent else _UNREACHABLE))

    def _send(self, server: nameserver.NameServer) -> None:
        drop = server.ask(self)
        if drop is not None:
            self._sent.append(drop)

    def _wait(self) -> None:
        """Set the timer for the next event: a repeat, the end of the turn, or a caller's deadline."""
        if self._timer is not None:
            self._loop.cancel(self._timer)
        at = min(self._again_at, *(until for until, _ in self._waiting))
        self._timer = self._loop.after(at - self._clock(), self._time_out)

    def _time_out(self) -> None:
        """Answer callers whose deadline has passed, and end the turn of a server that has not answered."""
        now = self._clock()
        late = [done for until, done in self._waiting if until <= now]
        self._waiting = [(until, done) for until, done in self._waiting if until > now]
        turn_over = self._turn_ends <= now
        if turn_over:
            self._silent = True
            self._server.missed(now)
        if not self._waiting:
            self._end(None)
        elif turn_over:
            self._next()
        else:
            if self._again_at <= now:
                self._again_at = self._turn_ends
                if self._server not in self._streams:
                    with contextlib.suppress(OSError):
                        self._send(self._server)
            self._wait()
        for done in late:
            done(self._told or _TIMEOUT)

    def _end(self, answer: query.Answer | None) -> None:
        self.close()
        waiting, self._waiting = self._waiting, []
        self._ended(self, answer)
        if answer is not None:
            for _, done in waiting:
                done(answer)
