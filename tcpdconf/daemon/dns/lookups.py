"""Looks up what a service needs to know about a connection: host names and DNS lists.

All questions of a connection are asked at once, except for the addresses of a name, which depend on its PTR
answer. Connections wait until each list has had its first test. Otherwise a broken list could refuse the
first ones, or a good list miss them.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Final

from tcpdconf.config.model.service import Service
from tcpdconf.daemon.dns import hostnames, lists, resolver
from tcpdconf.daemon.messages.worker import ListStatus, NamesStatus
from tcpdconf.daemon.process import loop
from tcpdconf.policy import connection, decision
from tcpdconf.policy.dns import hostname, judge, query
from tcpdconf.policy.dns.chain import Chain, Entry

Done = Callable[[dict[str, str]], None]
Probed = Callable[[list[dict[str, str]]], None]

_NAMES: Final = "(names)"  # a row among lists; no zone has such a name


class Lookups:
    """Runs the lookups of one service."""

    def __init__(
        self,
        events: loop.Loop,
        name: str,
        settings: Service,
        *,
        chain: Chain,
        asked: resolver.Resolver,
    ) -> None:
        self.names = settings.lookup_names
        self.seconds = settings.dns.deadline
        self.drop = settings.drop
        self.chain = chain
        self._lists = lists.Lists(events, name, chain, asked)
        self._hostnames = hostnames.Hostnames(name, asked, self.seconds, settings.dns.pause)

    def begin(self, link: connection.Link, environment: Mapping[str, str], done: Done) -> None:
        """Look up a connection; `done` is called with its variables, perhaps at once.

        `environment` is the program's environment without them: a list whose variable is in it is not asked.
        If the variables that are sure already refuse the connection, `done` is called with those alone.
        """
        self.when_tested(_Lookup(self, link, environment, done).start)

    def close(self) -> None:
        """Stop testing lists. Questions already sent are still answered."""
        self._lists.close()

    def when_tested(self, done: Callable[[], None]) -> None:
        """Call `done` when every list has had its first test, perhaps at once."""
        self._lists.when_tested(done)

    def report(self) -> list[dict[str, str]]:
        """Return each list's state and the result of its last test, as text for people."""
        return self._lists.report()

    def probe(self, done: Probed) -> None:
        """Call `done` with the report once every list has had its first test.

        If names are looked up, they are probed too and have a row in the report.
        """
        self.when_tested(functools.partial(self._probe_names, done))

    def status(self) -> dict[str, ListStatus]:
        """Each list's state and counts (`lists.Lists.status`)."""
        return self._lists.status()

    def names_status(self) -> NamesStatus | None:
        """The state and counts of names (`hostnames.Hostnames.status`); None where they are not wanted."""
        return self._hostnames.status() if self.names else None

    def ask(self, question: query.Question, done: lists.Answered, until: float, *, client: bool) -> None:
        """Ask for a name, of a client or of this host's end of a connection."""
        self._hostnames.ask(question, functools.partial(done, question), until, client=client)

    def ask_list(self, question: query.Question, entry: Entry, done: lists.Answered, now: float) -> None:
        """Ask a list about a client."""
        self._lists.ask(question, entry, done, now)

    def _probe_names(self, done: Probed) -> None:
        if self.names:
            self._hostnames.probe(lambda row: done([*self.report(), {"list": _NAMES, **row}]))
        else:
            done(self.report())


class _Lookup:
    """Collects the answers about one connection."""

    def __init__(
        self, lookups: Lookups, link: connection.Link, environment: Mapping[str, str], done: Done
    ) -> None:
        self._lookups = lookups
        self._link = link
        self._environment = environment
        self._done: Done | None = done
        self._answers: dict[query.Question, query.Answer] = {}
        self._missing: set[query.Question] = set()
        self._until = 0.0
        self._busy = True  # cached answers arrive while questions are still being asked
        self._told = lookups.names  # True if there is something to judge: most clients are on no list

    def start(self) -> None:
        """Ask all questions that can be asked at once."""
        lookups = self._lookups
        now = loop.now()
        self._until = now + lookups.seconds
        asked = judge.questions(lookups.chain, self._link.peer, self._environment)
        self._missing.update(asked)
        for question, entry in asked.items():
            lookups.ask_list(question, entry, self._answered, now)
        self._busy = False
        self._pass_on()

    def _answered(self, question: query.Question, answer: query.Answer) -> None:
        self._answers[question] = answer
        self._missing.discard(question)
        if answer.addresses or answer.texts:
            self._told = True
        if not self._busy and (self._told or not self._missing):
            self._pass_on()

    def _pass_on(self) -> None:
        """Pass on the variables once missing answers cannot change them or save the connection."""
        if self._done is None:
            return
        found = self._judge() if self._told else None if self._missing else {}
        if found is not None:
            done, self._done = self._done, None
            done(found)

    def _judge(self) -> dict[str, str] | None:
        self._busy = True
        names = self._names()
        self._busy = False
        judged = judge.judge(self._lookups.chain, self._link.peer, self._answers, self._environment)
        if names is not None and not judged.open:
            return {**names, **judged.variables}
        return judged.sure if decision.screen(self._lookups.drop, judged.sure) else None

    def _names(self) -> dict[str, str] | None:
        """Return the variables of both ends' names, or None while an answer about them is missing."""
        if not self._lookups.names:
            return {}
        found: dict[str, str] = {}
        complete = True
        for variable, end in (("TCPREMOTEHOST", self._link.peer), ("TCPLOCALHOST", self._link.local)):
            verdict = hostname.judge(end, self._answers)
            while verdict.open is not None and verdict.open not in self._missing:
                self._missing.add(verdict.open)
                client = variable == "TCPREMOTEHOST"
                self._lookups.ask(verdict.open, self._answered, self._until, client=client)
                verdict = hostname.judge(end, self._answers)
            if verdict.open is not None:
                complete = False
            elif verdict.value is not None:
                found[variable] = verdict.value
        return found if complete else None
