"""Decides one connection without accepting it, and takes down every step.

Nothing is decided here: the functions are those that decide real connections, asked in the same order, with
the same files. It runs in a process with the service's rights, since it reads what the service reads and
what name servers answer.
"""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from tcpdconf import explanation, inquiry
from tcpdconf.config import host, load, positions, tables, values
from tcpdconf.daemon import assignment, listeners, material, program, server
from tcpdconf.policy import (
    access,
    accessfile,
    accessplace,
    connection,
    decision,
    dnschain,
    environ,
    limits,
    proxied,
    proxyheader,
)

Live = Mapping[str, Sequence[connection.Endpoint]]

_ANYWHERE: Final = {4: "0.0.0.0", 6: "::"}  # noqa: S104 (for an address that was not said)


_STANDINGS: Final[dict[proxied.Standing, str]] = {
    "elsewhere": "no header is expected at this local address",
    "exempt": "exempt: connects as itself, without a header",
    "trusted": "trusted",
    "stranger": "is no trusted proxy",
}
_OWN: Final = "trusted, and speaks for itself (LOCAL or UNKNOWN)"


class Request(NamedTuple):
    """Whose connection is asked about. A port of 0 is one that was not said.

    `local` is this host's end (None: the first listener's), `proxied_local` the one in a PROXY header.
    `listed` and `ask` say what lists answer, and whether name servers are asked about the others.
    """

    service: str
    client: connection.Endpoint
    local: connection.Endpoint | None = None
    proxied_by: connection.Endpoint | None = None
    proxied_local: connection.Endpoint | None = None
    listed: tuple[tuple[str, inquiry.Listing], ...] = ()
    ask: bool = True


class CannotServeError(Exception):
    """The service could not be served at all, for these reasons."""

    def __init__(self, failures: Sequence[assignment.Failure]) -> None:
        super().__init__("; ".join(failure.text for failure in failures))
        self.failures = list(failures)


class _Given(NamedTuple):
    """What a service is served with; `told` are the answers of DNS lists that are not asked."""

    sources: list[decision.Source]
    chain: dnschain.Chain
    base: dict[str, str]
    told: dict[str, tuple[inquiry.Listing, ...]]


def rehearse(
    loaded: load.Loaded, request: Request, files: material.Material, live: Live | None
) -> explanation.Explanation:
    """What would become of the connection; `live` are the clients that each service serves at present.

    Raises:
        CannotServeError: the service's files cannot be used, or the request names a list that it has not.
    """
    files.enter_directory()
    sources, chain, base = files.sources(), files.chain(), files.base()
    if files.failures or chain is None:
        raise CannotServeError(files.failures)
    try:
        told = inquiry.answers(request.listed, chain)
    except inquiry.UnknownListError as error:
        raise CannotServeError([assignment.Failure(("dns_lists",), str(error))]) from None
    return _Rehearsal(loaded, request, files, live).decide(_Given(sources, chain, base, told))


class _Slots(limits.Slots):
    """Slots that remember how far the limits were used when one was asked for."""

    seen: Sequence[limits.Use] = ()

    def take(
        self, peer: connection.Endpoint, max_per_ip: int | None, now: float
    ) -> connection.Refused | None:
        """Take note, then decide as ever."""
        self.seen = self.uses(peer, max_per_ip)
        return super().take(peer, max_per_ip, now)


class _Rehearsal:
    """One connection on its way; `steps` are those so far."""

    def __init__(
        self, loaded: load.Loaded, request: Request, files: material.Material, live: Live | None
    ) -> None:
        self._loaded = loaded
        self._request = request
        self._files = files
        self._live = None if live is None else live.get(request.service, ())
        self._service = loaded.config.services[request.service]
        self._steps: list[explanation.Step] = []
        self._peer = request.proxied_by or request.client
        own = request.local or _at_port(_ANYWHERE[self._peer.version], 0)
        self._link = connection.Connection(self._peer, own)

    def decide(self, given: _Given) -> explanation.Explanation:
        """From the listener to the program."""
        listener = self._listener()
        if listener is None:
            return self._refused(None)
        refused = self._proxy(*listener)
        if refused is not None:
            return self._refused(refused)
        admitted = self._admit(given.sources)
        if isinstance(admitted, connection.Refused):
            return self._refused(admitted)
        variables = environ.of(self._link, {}, admitted.variables, self._service.address_format)
        known = {**given.base, **variables}
        found = inquiry.inquire(self._inquiry(given), self._link, known)
        self._steps += found.steps
        variables |= found.variables
        refused = self._screen(variables, given.base) or self._program()
        if refused is not None:
            return self._refused(refused)
        return self._explained("admitted", environment={**given.base, **variables})

    def _note(
        self,
        kind: explanation.Kind,
        subject: str,
        effect: str,
        text: str,
        *,
        place: accessplace.Place | None = None,
        sets: Mapping[str, str] | None = None,
    ) -> None:
        self._steps.append(explanation.Step(kind, subject, effect, text, place, sets or {}))

    def _place(self, *key: str | int) -> accessplace.Place | None:
        """Where a key of the service is written."""
        return _at(self._loaded, ("services", self._request.service, *key))

    def _listener(self) -> tuple[int, tables.Listener] | None:
        """The listener that would accept, with its place; this host's end becomes known with it."""
        candidates = [
            (index, listener)
            for index, listener in enumerate(self._service.listeners)
            if self._suits(listener)
        ]
        if not candidates:
            self._note("listener", str(self._link.local), "none", "no listener accepts such a connection")
            return None
        index, listener = min(candidates, key=lambda each: self._preference(each[1]))
        port = host.port_number(listener.port)
        if self._request.local is None:
            address = _ANYWHERE[self._peer.version] if listener.address == "*" else listener.address
            self._link = self._link._replace(local=_at_port(address, port))
        name = listeners.name(listener.address, port)
        self._note("listener", name, "accepts", "accepts", place=self._place("listeners", index))
        return index, listener

    def _suits(self, listener: tables.Listener) -> bool:
        """Whether a connection between these ends would come to a listener."""
        wanted = self._request.local
        if wanted is not None and (
            wanted.version != self._peer.version or wanted.port != host.port_number(listener.port)
        ):
            return False
        if listener.address == "*":
            return True
        end = _at_port(listener.address, 0)
        return end.version == self._peer.version and (wanted is None or end.value == wanted.value)

    def _preference(self, listener: tables.Listener) -> tuple[bool, bool]:
        """Of two that suit: for a proxy one that expects it; for the kernel an address before all of them."""
        behind = self._request.proxied_by is not None
        told = self._request.local is not None
        return (listener.haproxy is not None) != behind, told and listener.address == "*"

    def _proxy(self, index: int, listener: tables.Listener) -> connection.Refused | None:
        """Whose addresses count."""
        if listener.haproxy is None:
            if self._request.proxied_by is not None:
                text = "no header is read here: the proxy itself is the client"
                self._note("proxy", self._peer.text, "none", text)
            return None
        terms = proxied.Terms(listener.haproxy)
        standing = terms.standing(self._link)
        refused: connection.Refused | None = None
        text = _STANDINGS[standing]
        if standing == "stranger":
            refused = proxied.STRANGER
        elif standing == "trusted":
            taken = terms.take(self._link, self._header())
            if isinstance(taken, connection.Refused):
                refused, text = taken, str(dict(taken.detail)["error"])
            else:
                text = _OWN if taken == self._link else f"trusted: the client is {taken.peer.text}"
                self._link = taken
        place = self._place("listeners", index, "haproxy")
        self._note("proxy", self._peer.text, standing, text, place=place)
        return refused

    def _header(self) -> proxyheader.Header:
        """What the proxy would send: the client's ends, or that the connection is its own."""
        if self._request.proxied_by is None:
            return proxyheader.Header(1, local=True)
        client, own = self._request.client, self._link.local
        same = own if own.version == client.version else _at_port(_ANYWHERE[client.version], own.port)
        return proxyheader.Header(
            1, local=False, source=client, destination=self._request.proxied_local or same
        )

    def _admit(self, sources: list[decision.Source]) -> decision.Admitted | connection.Refused:
        """Access rules and limits."""
        self._access(sources)
        slots = _Slots(self._service.limits)
        for held in self._live or ():
            slots.hold(held)
        total = slots.total
        full = slots.full
        verdict = decision.admit(sources, slots, self._link, 0.0)
        if slots.seen:
            effect = "waits" if full else "free"
            use = limits.Use("max_connections", "all", total, slots.most)
            text = self._used(use) + (": the client waits until one has ended" if full else "")
            if self._live is None:
                text += "; how many there are is not known: no daemon was asked"
            self._note("limit", use.limit, effect, text, place=self._place("limits", use.limit))
        over = dict(verdict.detail).get("limit") if isinstance(verdict, connection.Refused) else None
        for use in slots.seen:
            effect = "over" if use.limit == over else "free" if use.held is not None else "unknown"
            self._note("limit", use.limit, effect, self._used(use), place=self._place("limits", use.limit))
        return verdict

    def _used(self, use: limits.Use) -> str:
        whose = "" if use.network == "all" else f" from {use.network}"
        if use.held is None:
            return f"at most {use.most} in {use.seconds:g} s{whose}; how many came lately is not known"
        if self._live is None:
            return f"at most {use.most}{whose}"
        return f"{use.held} of {use.most}{whose}"

    def _access(self, sources: list[decision.Source]) -> None:
        """The rules that count; of the client's also the sources that have none."""
        counted = decision.consult(sources, self._link)
        decided = len(sources)
        for stage, source, rule in counted:
            index = next(place for place, each in enumerate(sources) if each is source)
            if stage == "peer":
                decided = index
                self._silent(sources[:index])
            self._rule(index, source, stage, rule)
        if decided == len(sources) and all(rule.action == "allow" for _, _, rule in counted):
            self._silent(sources)
            if sources:
                self._note("access", "", "allow", "no source has a rule for the client: allowed")

    def _silent(self, sources: Sequence[decision.Source]) -> None:
        for source in sources:
            self._note("access", source.name, "none", "has no rule for the client")

    def _rule(self, index: int, source: decision.Source, stage: access.Stage, rule: access.Rule) -> None:
        wanted = accessplace.sought(source.table, stage, self._link)
        assert wanted is not None  # noqa: S101 (the rule was found there)
        text = f"{rule.action} {wanted}"
        if rule.max_per_ip is not None:
            text += f", max_per_ip {rule.max_per_ip}"
        place = self._written(index, wanted)
        self._note("access", source.name, rule.action, text, place=place, sets=dict(rule.environment))

    def _written(self, index: int, wanted: accessplace.Sought) -> accessplace.Place | None:
        source = self._service.access[index]
        if source.rules is not None:
            return self._place("access", index, "rules", accessplace.in_rules(source.rules, wanted))
        try:
            return accessplace.in_files(self._files.access(index), source, wanted)
        except (OSError, accessfile.AccessFileError):
            return None  # it was written while it was read

    def _inquiry(self, given: _Given) -> inquiry.Inquiry:
        return inquiry.Inquiry(
            self._request.service,
            self._service,
            given.chain,
            list(self._lists()),
            self._files.name_servers(),
            given.told,
            self._request.ask,
        )

    def _lists(self) -> Iterator[accessplace.Place | None]:
        """Where each DNS list is written, in the order of the chain."""
        for index, item in enumerate(self._service.dns_lists):
            if isinstance(item, str):
                lists = self._loaded.config.dns_chains[item].lists
                yield from (_at(self._loaded, ("dns_chains", item, "lists", n)) for n in range(len(lists)))
            else:
                yield self._place("dns_lists", index)

    def _screen(self, variables: Mapping[str, str], base: Mapping[str, str]) -> connection.Refused | None:
        dropped = decision.screen(self._service.drop, variables, base)
        guilty = None if dropped is None else dict(dropped.detail)["variable"]
        for name in self._service.drop:
            text = "is not empty" if name == guilty else "is empty"
            self._note("drop", name, "drops" if name == guilty else "none", text, place=self._place("drop"))
            if name == guilty:
                break
        return dropped

    def _program(self) -> connection.Refused | None:
        path = self._service.program[0]
        try:
            program.check(path)
        except OSError as error:
            self._note(
                "program", path, "fails", f"cannot run: {error.strerror}", place=self._place("program")
            )
            return connection.Refused("spawn", (("error", error.strerror),))
        return None

    def _refused(self, refused: connection.Refused | None) -> explanation.Explanation:
        """A refusal; None where nobody would have accepted."""
        if refused is None:
            return self._explained("refused", reason="listener")
        message = server.messages(self._service).get(refused.reason)
        said = None if message is None else message.decode()
        return self._explained("refused", reason=refused.reason, message=said)

    def _explained(
        self,
        verdict: explanation.Verdict,
        *,
        reason: str | None = None,
        message: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> explanation.Explanation:
        proxy = self._link.proxy
        return explanation.Explanation(
            service=self._request.service,
            verdict=verdict,
            reason=reason,
            message=message,
            client=_shown(self._link.peer),
            local=_shown(self._link.local),
            proxy=None if proxy is None else _shown(proxy.peer),
            steps=tuple(self._steps),
            program=self._service.program,
            environment=environment,
        )


def _at(loaded: load.Loaded, key: positions.Key) -> accessplace.Place | None:
    found = loaded.origin(key)
    return None if found is None else accessplace.Place(*found, "")


def end(text: str, default: int | None) -> connection.Endpoint:
    """An end of a connection as people write it; see `values.end`.

    Raises:
        ValueError: it is none.
    """
    return _at_port(*values.end(text, default))


def _at_port(address: str, port: int) -> connection.Endpoint:
    found = ipaddress.ip_address(address)
    return connection.endpoint(found.version, int(found), port)


def _shown(end: connection.Endpoint) -> str:
    """An end without the port that was not said."""
    return str(end) if end.port else end.text
