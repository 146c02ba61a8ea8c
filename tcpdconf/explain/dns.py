"""Looks up host names and DNS lists for one connection as a worker would, and records every step.

The questions go through the daemon's own lookups and resolver, after their tests of the lists, and are judged
by the daemon's rules. Answers of some lists may be given instead, and asking can be turned off.
"""

import functools
import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from tcpdconf.config.model import notations
from tcpdconf.config.model.service import Service
from tcpdconf.daemon.dns import lists, lookups, resolvconf, resolver
from tcpdconf.daemon.process import loop
from tcpdconf.explain.report import Step
from tcpdconf.policy import connection
from tcpdconf.policy.access import locate
from tcpdconf.policy.dns import hostname, judge, query
from tcpdconf.policy.dns.chain import Chain, Entry

_NOT_ASKED: Final = "not asked (--no-dns)"
_ENDS: Final = ("TCPREMOTEHOST", "TCPLOCALHOST")
_WORDS: Final = {"answer": "no records", "nxdomain": "no such name", "timeout": "no answer in time"}


class Listing(NamedTuple):
    """Holds an answer given for a list: an address, and the text that goes with it."""

    address: str
    text: str = ""


def listing(text: str) -> tuple[str, Listing]:
    """Parse ZONE=ADDRESS or ZONE=ADDRESS=TEXT into a zone and its answer.

    Raises:
        ValueError: the text has neither form.
    """
    zone, _, rest = text.partition("=")
    address, _, said = rest.partition("=")
    try:
        found = str(ipaddress.IPv4Address(address))
    except ValueError:
        raise ValueError(f"must be ZONE=ADDRESS, such as dnsbl.example.org=127.0.0.2, not {text!r}") from None
    return zone, Listing(found, said)


class UnknownListError(LookupError):
    """Reports that the service has no such list."""


def answers(told: Sequence[tuple[str, Listing]], chain: Chain) -> dict[str, tuple[Listing, ...]]:
    """Return the given answers by zone; a list is named by its displayed name or its zone.

    Raises:
        UnknownListError: the service has no such list.
    """
    found: dict[str, tuple[Listing, ...]] = {}
    for name, each in told:
        zones = {entry.zone for entry in chain.entries if name in {entry.shown, entry.zone}}
        if not zones:
            known = ", ".join(dict.fromkeys(entry.shown for entry in chain.entries)) or "none"
            raise UnknownListError(f"there is no DNS list {name!r}; there are: {known}")
        for zone in zones:
            found[zone] = (*found.get(zone, ()), each)
    return found


class LookupRequest(NamedTuple):
    """Describes a lookup. `places` tell where each list of the chain is configured.

    `listed` has given answers by zone. Without `ask`, neither other lists nor names are looked up.
    """

    name: str
    service: Service
    chain: Chain
    places: Sequence[locate.RulePlace | None]
    servers: resolvconf.ResolverSettings
    listed: Mapping[str, tuple[Listing, ...]]
    ask: bool


class Answers(NamedTuple):
    """Holds the variables that the answers set, and the steps."""

    variables: dict[str, str]
    steps: list[Step]


def look_up(request: LookupRequest, link: connection.Link, known: Mapping[str, str]) -> Answers:
    """Ask and judge; `known` is the environment of the program without the answers."""
    service = request.service
    if not service.lookup_names and not service.dns_lists:
        return Answers({}, [])
    events = loop.Loop()
    asked = _Lookups(events, request)
    found: list[dict[str, str]] = []

    def done(variables: dict[str, str]) -> None:
        found.append(variables)
        events.stop()

    asked.begin(link, known, done)
    if not found:
        events.run()
    names = list(_names(request, link, asked)) if service.lookup_names else []
    if any(step.effect == "failed" for step in names) and not _reaches_servers(events, asked):
        names = [
            step._replace(text=f"{step.text}; no name server answers") if step.effect == "failed" else step
            for step in names
        ]
    judged = judge.judge(asked.chain, link.peer, asked.answers, known)
    return Answers(found[0], [*names, *_lists(request, link, asked, judged)])


class _Lookups(lookups.Lookups):
    """Runs a worker's lookups, keeps every answer, and skips lists and names that are not to be asked."""

    def __init__(self, events: loop.Loop, request: LookupRequest) -> None:
        self.answers: dict[query.Question, query.Answer] = {}
        self._request = request
        entries = tuple(
            entry if self.asks(entry) else entry._replace(probe=False) for entry in request.chain.entries
        )
        super().__init__(
            events,
            request.name,
            request.service,
            chain=request.chain._replace(entries=entries),
            asked=resolver.Resolver(events, request.servers),
        )
        self.drop = ()  # so that a refusal does not end the lookup: all lists are shown

    def asks(self, entry: Entry) -> bool:
        """Return whether name servers are asked about a list."""
        return self._request.ask and entry.zone not in self._request.listed

    def ask(self, question: query.Question, done: lists.Answered, until: float, *, client: bool) -> None:
        """Look up a name, unless asking is turned off."""
        keep = functools.partial(self._keep, done)
        if self._request.ask:
            super().ask(question, keep, until, client=client)
        else:
            keep(question, query.SUSPENDED)

    def ask_list(self, question: query.Question, entry: Entry, done: lists.Answered, now: float) -> None:
        """Ask a list, or use its given answer."""
        keep = functools.partial(self._keep, done)
        if self.asks(entry):
            super().ask_list(question, entry, keep, now)
        else:
            keep(question, _told(self._request.listed.get(entry.zone), question.type))

    def _keep(self, done: lists.Answered, question: query.Question, answer: query.Answer) -> None:
        self.answers[question] = answer
        done(question, answer)


def _told(listings: tuple[Listing, ...] | None, kind: query.Type) -> query.Answer:
    """Return the given answer of a list, or SUSPENDED if there is none."""
    if listings is None:
        return query.SUSPENDED
    if kind == "TXT":
        texts = tuple((listing.text.encode(),) for listing in listings if listing.text)
        return query.Answer("answer", texts=texts)
    return query.Answer("answer", addresses=tuple(listing.address for listing in listings))


def _names(request: LookupRequest, link: connection.Link, asked: _Lookups) -> Iterator[Step]:
    for variable, end in zip(_ENDS, (link.peer, link.local), strict=True):
        verdict = hostname.judge(end, asked.answers)
        text = f"{end.text}: {verdict.why if request.ask else _NOT_ASKED}"
        sets = {} if verdict.value is None else {variable: verdict.value}
        effect = "found" if sets else "none"
        if verdict.value == hostname.SOFT:
            effect = "failed"
        yield Step("name", variable, effect if request.ask else "not-asked", text, sets=sets)


def _reaches_servers(events: loop.Loop, asked: _Lookups) -> bool:
    """Return whether any name server answers at all."""
    rows: list[dict[str, str]] = []

    def done(found: list[dict[str, str]]) -> None:
        rows.extend(found)
        events.stop()

    asked.probe(done)
    if not rows:
        events.run()
    return rows[-1]["state"] == "up"


def _lists(
    request: LookupRequest, link: connection.Link, asked: _Lookups, judged: judge.Judgement
) -> Iterator[Step]:
    states = {row["list"]: f"{row['state']}: {row['why']}" for row in asked.report()}
    for step in judged.steps:
        entry = step.entry
        effect: str = step.effect
        text = step.why
        if step.outcome == "suspended":
            effect, text = (effect, states[entry.shown]) if asked.asks(entry) else ("not-asked", _NOT_ASKED)
        elif step.outcome is not None:
            text = f"{_answered(entry, link, asked)}; {text}"
        place = request.places[next(n for n, each in enumerate(asked.chain.entries) if each is entry)]
        sets = {name: judged.variables[name] for name in step.sets}
        yield Step("list", entry.shown, effect, text, place, sets)


def _answered(entry: Entry, link: connection.Link, asked: _Lookups) -> str:
    """Describe the questions and answers of a list.

    A zone that may be secret is hidden: it differs from the displayed name.
    """
    labels = query.labels(link.peer)
    said = []
    for kind in ("A", "TXT") if entry.txt else ("A",):
        answer = asked.answers.get(query.Question(f"{labels}.{entry.zone}", kind))
        if answer is not None:
            texts = [b"".join(strings).decode(errors="replace") for strings in answer.texts]
            words = [*answer.addresses, *(f'"{text}"' for text in texts)]
            said.append(f"{kind} {' '.join(words) or _WORDS.get(answer.status, answer.status)}")
    zone = entry.shown if entry.shown.lower().removesuffix(".") == entry.zone else notations.HIDDEN
    return f"{labels}.{zone} {', '.join(said)}"
