"""Decides one connection without accepting it, and records every step.

It makes no decision of its own. It calls the functions that decide real connections, in the same order and
with the same files. It runs in a process with the service's rights, since it reads the service's files and
the answers of name servers.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from tcpdconf.config.load.loaded import Loaded
from tcpdconf.daemon.messages.assignment import Failure
from tcpdconf.daemon.worker import program
from tcpdconf.daemon.worker.connection import messages
from tcpdconf.daemon.worker.files import ServiceFiles
from tcpdconf.explain import dns as explain_dns
from tcpdconf.explain import notebook
from tcpdconf.explain.admit import Admission
from tcpdconf.explain.dns import Inquiry, Listing, UnknownListError
from tcpdconf.explain.listener import Arrival, Request
from tcpdconf.explain.report import Explanation, Verdict
from tcpdconf.policy import connection, decision, environ
from tcpdconf.policy.access import locate
from tcpdconf.policy.dns.chain import Chain

Live = Mapping[str, Sequence[connection.Endpoint]]


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


def rehearse(loaded: Loaded, request: Request, files: ServiceFiles, live: Live | None) -> Explanation:
    """Decide the connection and explain it; `live` are the clients that each service has at present.

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
    return _Rehearsal(loaded, request, files, live).decide(_Given(sources, chain, base, told))


class _Rehearsal:
    """Takes one connection through all decisions."""

    def __init__(self, loaded: Loaded, request: Request, files: ServiceFiles, live: Live | None) -> None:
        self._loaded = loaded
        self._request = request
        self._files = files
        self._service = loaded.config.services[request.service]
        self._notes = notebook.Notebook(loaded, request.service)
        self._arrival = Arrival(request, self._service, self._notes)
        present = None if live is None else live.get(request.service, ())
        self._admission = Admission(self._service, files, present, self._notes)

    def decide(self, given: _Given) -> Explanation:
        """Decide from the listener to the program."""
        listener = self._arrival.listener()
        if listener is None:
            return self._refused(None)
        refused = self._arrival.proxy(*listener)
        if refused is not None:
            return self._refused(refused)
        link = self._arrival.link
        admitted = self._admission.admit(given.sources, link)
        if isinstance(admitted, connection.Refused):
            return self._refused(admitted)
        variables = environ.of(link, {}, admitted.variables, self._service.address_format)
        found = explain_dns.inquire(self._inquiry(given), link, {**given.base, **variables})
        self._notes.steps += found.steps
        variables |= found.variables
        refused = self._screen(variables, given.base) or self._program()
        if refused is not None:
            return self._refused(refused)
        return self._explained("admitted", environment={**given.base, **variables})

    def _inquiry(self, given: _Given) -> Inquiry:
        return Inquiry(
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
                yield from (self._notes.at(("dns_chains", item, "lists", n)) for n in range(len(lists)))
            else:
                yield self._notes.place("dns_lists", index)

    def _screen(self, variables: Mapping[str, str], base: Mapping[str, str]) -> connection.Refused | None:
        dropped = decision.screen(self._service.drop, variables, base)
        guilty = None if dropped is None else dict(dropped.detail)["variable"]
        for name in self._service.drop:
            text = "is not empty" if name == guilty else "is empty"
            effect = "drops" if name == guilty else "none"
            self._notes.note("drop", name, effect, text, place=self._notes.place("drop"))
            if name == guilty:
                break
        return dropped

    def _program(self) -> connection.Refused | None:
        path = self._service.program[0]
        try:
            program.check(path)
        except OSError as error:
            self._notes.note(
                "program", path, "fails", f"cannot run: {error.strerror}", place=self._notes.place("program")
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
    ) -> Explanation:
        link = self._arrival.link
        return Explanation(
            service=self._request.service,
            verdict=verdict,
            reason=reason,
            message=message,
            client=_shown(link.peer),
            local=_shown(link.local),
            proxy=None if link.proxy is None else _shown(link.proxy.peer),
            steps=tuple(self._notes.steps),
            program=self._service.program,
            environment=environment,
        )


def _shown(end: connection.Endpoint) -> str:
    """Return an end as text, without the port if it was not given."""
    return str(end) if end.port else end.text
