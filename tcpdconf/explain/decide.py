"""Decides one connection without accepting it, and records every step.

It makes no decision of its own. It calls the functions that decide real connections, in the same order and
with the same files. It runs in a process with the service's rights, since it reads the service's files and
the answers of name servers.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from tcpdconf.config.load.loaded import Loaded
from tcpdconf.daemon.messages.assignment import Failure
from tcpdconf.daemon.worker import program
from tcpdconf.daemon.worker.connection import messages
from tcpdconf.daemon.worker.files import ServiceFiles
from tcpdconf.explain import dns as explain_dns
from tcpdconf.explain.admit import Admission
from tcpdconf.explain.dns import Listing, LookupRequest, UnknownListError
from tcpdconf.explain.listener import ListenerMatch, Request
from tcpdconf.explain.report import Explanation, Recorder, Verdict
from tcpdconf.policy import connection, decision, environ
from tcpdconf.policy.access import locate
from tcpdconf.policy.dns.chain import Chain
from tcpdconf.policy.proxy import trust

Banned = Mapping[str, Any]  # a ban, as the command `bans` shows it


class Live(NamedTuple):
    """Holds what the running daemon knows of its services: their present clients, and their penalties.

    The penalties have the form of `penalties` in the answer to `status`; None if they are unknown. `groups`
    are the services' `limits.group`.
    `other_hosts` are the connections of other hosts by prefix length and host, None if they are unknown.
    """

    clients: Mapping[str, Sequence[connection.Endpoint]]
    penalties: Mapping[str, Mapping[str, Any] | None]
    groups: Mapping[str, str | None] = MappingProxyType({})
    other_hosts: Mapping[str, Mapping[str, int]] | None = None

    def elsewhere(self, service: str, group: str | None) -> Iterator[connection.Endpoint]:
        """Yield the clients of the other services in this group."""
        for name, other in self.groups.items():
            if group is not None and other == group and name != service:
                yield from self.clients.get(name, ())


class CannotServeError(Exception):
    """Reports why the service could not be served at all, in a list of failures."""

    def __init__(self, failures: Sequence[Failure]) -> None:
        super().__init__("; ".join(failure.text for failure in failures))
        self.failures = list(failures)


class _Given(NamedTuple):
    """Holds the files' contents that a service runs with; `told` are the given answers of DNS lists."""

    sources: list[decision.NamedTable]
    chain: Chain
    base: dict[str, str]
    told: dict[str, tuple[Listing, ...]]


def decide(
    loaded: Loaded, request: Request, files: ServiceFiles, live: Live | None, banned: Banned | None
) -> Explanation:
    """Decide the connection and explain it.

    `live` is what the running daemon knows (None: unknown), `banned` is the ban of the client.

    Raises:
        CannotServeError: the service's files cannot be used, or it lacks a list that the request
            names.
    """
    files.enter_directory()
    sources, chain, base = files.sources(), files.chain(), files.base()
    if files.failures or chain is None:
        raise CannotServeError(files.failures)
    try:
        told = explain_dns.answers(request.listed, chain)
    except UnknownListError as error:
        raise CannotServeError([Failure(("dns_lists",), str(error))]) from None
    return _Decision(loaded, request, files, live, banned).decide(_Given(sources, chain, base, told))


class _Decision:
    """Takes one connection through all decisions."""

    def __init__(
        self, loaded: Loaded, request: Request, files: ServiceFiles, live: Live | None, banned: Banned | None
    ) -> None:
        self._loaded = loaded
        self._banned = banned
        self._request = request
        self._files = files
        self._service = loaded.config.services[request.service]
        self._recorder = Recorder(loaded, request.service)
        self._match = ListenerMatch(request, self._service, self._recorder)
        present = None if live is None else live.clients.get(request.service, ())
        charged = None if live is None else live.penalties.get(request.service)
        other_hosts = None if live is None else live.other_hosts
        elsewhere = () if live is None else tuple(live.elsewhere(request.service, self._service.limits.group))
        self._admission = Admission(
            self._service,
            files,
            present,
            charged,
            self._recorder,
            elsewhere=elsewhere,
            other_hosts=other_hosts,
        )

    def decide(self, given: _Given) -> Explanation:
        """Decide from the listener to the program."""
        listener = self._match.listener()
        if listener is None:
            return self._refused(None)
        refused = self._match.proxy(*listener)
        link = self._match.link
        if refused is trust.STRANGER:
            charged = self._admission.penalty(link.peer)
            penalised = None if charged is None else charged.enforced(link.peer, 0.0)
            return self._refused(penalised or refused)
        refused = refused or self._ban()
        if refused is not None:
            return self._refused(refused)
        admitted = self._admission.admit(given.sources, link)
        if isinstance(admitted, connection.Refused):
            return self._refused(admitted)
        variables = environ.of(link, {}, admitted.variables, self._service.address_format)
        found = explain_dns.look_up(self._lookup_request(given), link, {**given.base, **variables})
        self._recorder.steps += found.steps
        variables |= found.variables
        self._early_talker({**given.base, **variables})
        refused = self._screen(variables, given.base) or self._program()
        if refused is not None:
            return self._refused(refused)
        return self._explained(
            "admitted", environment={**given.base, **variables}, unenforced=admitted.unenforced
        )

    def _ban(self) -> connection.Refused | None:
        """Refuse a client that is banned."""
        found = self._banned
        if found is None:
            return None
        until = "for ever"
        if found["until"] is not None:
            until = f"until {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(found['until']))}"
        text = f"is banned {until}, by {found['by']}" + (f": {found['reason']}" if found["reason"] else "")
        self._recorder.step("ban", found["network"], "refuses", text)
        return connection.Refused("banned", (("network", found["network"]),))

    def _lookup_request(self, given: _Given) -> LookupRequest:
        return LookupRequest(
            self._request.service,
            self._service,
            given.chain,
            list(self._lists()),
            self._files.name_servers(),
            given.told,
            self._request.ask,
        )

    def _lists(self) -> Iterator[locate.RulePlace | None]:
        """Yield the place of each DNS list in the configuration, in the order of the chain."""
        for index, item in enumerate(self._service.dns_lists):
            if isinstance(item, str):
                lists = self._loaded.config.dns_chains[item].lists
                yield from (self._recorder.at(("dns_chains", item, "lists", n)) for n in range(len(lists)))
            else:
                yield self._recorder.place("dns_lists", index)

    def _early_talker(self, known: Mapping[str, str]) -> None:
        """Note whether a client has to wait; whether it talks cannot be known."""
        settings = self._service.early_talker
        if settings is None:
            return
        waits = settings.variable not in known
        text = "is set already, so the client does not wait"
        if waits:
            text = f'is "1" if the client sends data within {settings.wait:g} s, unless it has a pass'
        place = self._recorder.place("early_talker")
        self._recorder.step(
            "early_talker", settings.variable, "waits" if waits else "none", text, place=place
        )

    def _screen(self, variables: Mapping[str, str], base: Mapping[str, str]) -> connection.Refused | None:
        dropped = decision.screen(self._service.drop, variables, base)
        guilty = None if dropped is None else dict(dropped.detail)["variable"]
        for name in self._service.drop:
            text = "is not empty" if name == guilty else "is empty"
            effect = "drops" if name == guilty else "none"
            self._recorder.step("drop", name, effect, text, place=self._recorder.place("drop"))
            if name == guilty:
                break
        return dropped

    def _program(self) -> connection.Refused | None:
        path = self._service.program[0]
        try:
            program.check(path)
        except OSError as error:
            self._recorder.step(
                "program",
                path,
                "fails",
                f"cannot run: {error.strerror}",
                place=self._recorder.place("program"),
            )
            return connection.Refused("spawn", (("error", error.strerror),))
        return None

    def _refused(self, refused: connection.Refused | None) -> Explanation:
        """Explain a refusal; None means that no listener would accept."""
        if refused is None:
            return self._explained("refused", reason="listener")
        message = messages(self._service).get(refused.reason)
        said = None if message is None else message.decode()
        return self._explained("refused", reason=refused.reason, message=said)

    def _explained(
        self,
        verdict: Verdict,
        *,
        reason: str | None = None,
        message: str | None = None,
        environment: Mapping[str, str] | None = None,
        unenforced: connection.Refused | None = None,
    ) -> Explanation:
        link = self._match.link
        return Explanation(
            service=self._request.service,
            verdict=verdict,
            reason=reason,
            would_refuse=None if unenforced is None else unenforced.reason,
            message=message,
            client=_shown(link.peer),
            local=_shown(link.local),
            proxy=None if link.proxy is None else _shown(link.proxy.peer),
            steps=tuple(self._recorder.steps),
            program=self._service.program,
            environment=environment,
        )


def _shown(end: connection.Endpoint) -> str:
    """Return an end as text, without the port if it was not given."""
    return str(end) if end.port else end.text
