"""Decides which questions a connection needs for a service's DNS lists, and what the answers mean.

All questions are known at once. Lists are judged in the order written. A list is skipped when an earlier
list, an access rule or the service's environment has set its variable (manual, MULTIPLE DNS LISTS). A list
without an answer counts as not listing the client.

If a chain has a threshold for a variable, its block lists and its weighted allow lists add up (postconf(5),
postscreen_dnsbl_threshold). The sum is judged at the place of the last of them.

A zone may be a secret. Questions contain it; steps do not.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

from tcpdconf.policy import connection
from tcpdconf.policy.dns import answer as dns_answer
from tcpdconf.policy.dns import query
from tcpdconf.policy.dns.answer import Outcome
from tcpdconf.policy.dns.chain import Chain, Entry, Tally

Answers = Mapping[query.Question, query.Answer]
Effect = Literal["set", "scored", "none", "skipped", "exempt"]


class ListStep(NamedTuple):
    """Records how one list was judged.

    `outcome` is the class of its answer (None: not looked at), `addresses` are those that count, and `sets`
    names the variables that it sets.
    """

    entry: Entry
    outcome: Outcome | None
    addresses: tuple[str, ...]
    effect: Effect
    why: str
    sets: tuple[str, ...] = ()


class Judgement(NamedTuple):
    """Holds the result that the answers so far give.

    `variables` are to be added to the environment. `open` are the unanswered questions that could still
    change them; when it is empty, waiting is of no use. `sure` are the variables that no answer can change.
    """

    variables: dict[str, str]
    steps: tuple[ListStep, ...]
    open: frozenset[query.Question]
    sure: dict[str, str]


class _Finding(NamedTuple):
    """Holds what the answers say about one entry; `listed` is None while an answer is missing."""

    listed: bool | None
    outcome: Outcome
    addresses: tuple[str, ...] = ()
    text: str = ""
    missing: tuple[query.Question, ...] = ()


_NOT_LISTED: Final[dict[Outcome, _Finding]] = {
    outcome: _Finding(False, outcome) for outcome in ("unlisted", "suspended", *dns_answer.TROUBLE)
}
_ADDRESSES: Final[tuple[query.Type, ...]] = ("A",)
_WITH_TEXT: Final[tuple[query.Type, ...]] = ("A", "TXT")
_WORDS: Final[dict[Outcome, str]] = {
    "listed": "listed, but no answer matches",
    "unlisted": "not listed",
    "error": "answers with an error code",
    "outside": "answers with an address outside 127.0.0.0/8",
    "servfail": "the name server failed",
    "refused": "the name server refused",
    "timeout": "no answer in time",
    "unreachable": "no name server is reachable",
    "malformed": "the answer is malformed",
    "suspended": "suspended",
    "missing": "no answer yet",
}


def questions(
    chain: Chain, peer: connection.Endpoint, environment: Mapping[str, str]
) -> dict[query.Question, Entry]:
    """Return the questions to ask about a client, each once, with the entry that it is for.

    A list is not asked if its variable is set in `environment` or its chain exempts the client. Entries may
    share a question; the one with the longest deadline is returned.
    """
    labels = query.labels(peer) + "."
    exempt = _exempting(chain, peer)
    found: dict[query.Question, Entry] = {}
    for entry in chain.entries:
        if entry.variable in environment or entry.scope in exempt:
            continue
        for kind in _WITH_TEXT if entry.txt else _ADDRESSES:
            question = query.Question(labels + entry.zone, kind)
            known = found.get(question)
            if known is None or known.deadline < entry.deadline:
                found[question] = entry
    return found


def judge(
    chain: Chain, peer: connection.Endpoint, answers: Answers, environment: Mapping[str, str]
) -> Judgement:
    """Judge the lists by the answers received; pass the same `environment` as to `questions`."""
    labels = query.labels(peer) + "."
    exempt = _exempting(chain, peer)
    address = "::ffff:" + peer.text if chain.mapped and peer.version == 4 else peer.text
    judging = _Judging(address, len(chain.entries))
    scored: dict[int, list[tuple[Entry, _Finding]]] = {}
    for place, entry in enumerate(chain.entries):
        if entry.scope in exempt:
            judging.pass_over(entry, "exempt", "the client is exempt")
            continue
        if entry.variable in judging.variables or entry.variable in environment:
            judging.skip(entry)
            continue
        finding = _finding(entry, labels + entry.zone, answers)
        if entry.tally is None:
            judging.take(entry, finding)
            continue
        judging.score(entry, finding)
        scored.setdefault(entry.tally, []).append((entry, finding))
        tally = chain.tallies[entry.tally]
        if place == tally.last:
            judging.weigh(tally, scored[entry.tally])
    return Judgement(judging.variables, tuple(judging.steps), frozenset(judging.open), judging.sure())


class _Judging:
    """Accumulates the variables, steps and open questions of one judgement."""

    def __init__(self, address: str, most_allows: int) -> None:
        self.address = address
        self.variables: dict[str, str] = {}
        self.steps: list[ListStep] = []
        self.open: set[query.Question] = set()
        self._allows = 0
        self._most_allows = most_allows
        self._loose: set[str] = set()  # variables that missing answers could still change

    def sure(self) -> dict[str, str]:
        """Return the variables that no missing answer can change."""
        if not self._loose:
            return self.variables
        return {name: value for name, value in self.variables.items() if name not in self._loose}

    def pass_over(self, entry: Entry, effect: Effect, why: str) -> None:
        """Record an entry that is not looked at."""
        self.steps.append(ListStep(entry, None, (), effect, why))

    def skip(self, entry: Entry) -> None:
        """Record an entry whose variable is set already; it may still count if that value is not sure."""
        self.pass_over(entry, "skipped", f"{entry.variable} is already set")
        self._loosen(entry)

    def take(self, entry: Entry, finding: _Finding) -> None:
        """Judge an entry that decides alone."""
        self.open.update(finding.missing)
        self._loosen(entry, finding.missing)
        if finding.listed:
            sets = self._set(entry, finding)
            self.steps.append(
                ListStep(entry, finding.outcome, finding.addresses, "set", _said(finding), sets)
            )
        else:
            self.steps.append(ListStep(entry, finding.outcome, (), "none", _said(finding)))

    def score(self, entry: Entry, finding: _Finding) -> None:
        """Record an entry that adds to a score."""
        self._loosen(entry)
        if finding.listed:
            why = f"{_said(finding)}, weight {entry.weight}"
            self.steps.append(ListStep(entry, finding.outcome, finding.addresses, "scored", why))
        else:
            self.steps.append(ListStep(entry, finding.outcome, (), "none", _said(finding)))

    def weigh(self, tally: Tally, scored: Sequence[tuple[Entry, _Finding]]) -> None:
        """Judge the score of a variable from the known answers and the possible effect of missing ones."""
        total = sum(entry.weight for entry, finding in scored if finding.listed)
        unsure = [entry.weight for entry, finding in scored if finding.listed is None]
        least = total + sum(weight for weight in unsure if weight < 0)
        most = total + sum(weight for weight in unsure if weight > 0)
        if most < tally.threshold:
            return
        blocks = [pair for pair in scored if pair[0].action == "block"]
        listed = next((place for place, (_, finding) in enumerate(blocks) if finding.listed), len(blocks))
        # the first block list gives the text: once the score is sure, only those up to it matter
        for _, finding in blocks[: listed + 1] if least >= tally.threshold else scored:
            self.open.update(finding.missing)
            self._loosen(blocks[0][0], finding.missing)
        if total >= tally.threshold:
            entry, finding = blocks[listed]
            sets = self._set(entry, finding)
            why = f"score {total} of {tally.threshold}"
            self.steps.append(ListStep(entry, finding.outcome, finding.addresses, "set", why, sets))

    def _set(self, entry: Entry, finding: _Finding) -> tuple[str, ...]:
        """Set the variables of a listing and return their names.

        Source: manual, ADDITIONAL DNS ACCESS LIST VARIABLES.
        """
        name = entry.variable
        found: dict[str, str] = {}
        found[name] = "" if entry.action == "allow" else self._text(entry, finding)
        if finding.addresses:
            found[name + "_IP"] = finding.addresses[-1 if entry.message else 0]
        if finding.text:
            found[name + "_TXT"] = finding.text
        found[name + "_ZONE"] = entry.shown
        if entry.action == "allow" and finding.addresses:
            found[f"ALLOW_{self._allows}"] = name
            self._allows += 1
        self.variables.update(found)
        return tuple(found)

    def _loosen(self, entry: Entry, missing: Sequence[query.Question] = ()) -> None:
        """Mark the entry's variables as not sure, if its answer or one that it depends on is missing."""
        name = entry.variable
        if missing or name in self._loose:
            self._loose.update((name, name + "_IP", name + "_TXT", name + "_ZONE"))
            if entry.action == "allow":
                self._loose.update(f"ALLOW_{place}" for place in range(self._allows, self._most_allows))

    def _text(self, entry: Entry, finding: _Finding) -> str:
        if finding.text:
            return finding.text
        if entry.message:
            return entry.message.replace("@", self.address, 1)
        return f"Blacklisted by {entry.shown}"


def _finding(entry: Entry, name: str, answers: Answers) -> _Finding:
    question = query.Question(name, "A")
    answer = answers.get(question)
    if answer is None:
        text = query.Question(name, "TXT")
        missing = (question, text) if entry.txt and text not in answers else (question,)
        return _Finding(None, "missing", missing=missing)
    outcome = dns_answer.outcome(answer, entry.reading)
    if not entry.txt:
        if outcome != "listed":
            return _NOT_LISTED[outcome]
        passing = dns_answer.passing(answer, entry.reading, entry.filters)
        return _Finding(bool(passing), "listed", passing)
    return _with_text(entry, name, answers, answer, outcome)


def _with_text(entry: Entry, name: str, answers: Answers, answer: query.Answer, outcome: Outcome) -> _Finding:
    """Judge an entry with `txt`, reading the text only if the addresses show no trouble with the list.

    An error code comes with a text as well. For couriertcpd, any text is a listing if there is no filter.
    """
    passing = dns_answer.passing(answer, entry.reading, entry.filters) if outcome == "listed" else ()
    without = answer.status == "answer" if entry.reading == "safe" else answer.status != "suspended"
    if not passing and (answer.addresses or entry.filters or not without):
        return _Finding(False, outcome)
    question = query.Question(name, "TXT")
    said = answers.get(question)
    if said is None:
        return _Finding(True if passing else None, outcome, passing, missing=(question,))
    text = dns_answer.text(said)
    if passing or text:
        return _Finding(True, "listed", passing, text)
    return _Finding(False, outcome)


def _said(finding: _Finding) -> str:
    """Describe a finding in words."""
    if finding.addresses:
        return "listed as " + ", ".join(finding.addresses)
    if finding.listed:
        return "listed by its text"
    return _WORDS[finding.outcome]


def _exempting(chain: Chain, peer: connection.Endpoint) -> list[int]:
    """Return the indices of the scopes that exempt a client."""
    return [
        place
        for place, scope in enumerate(chain.scopes)
        if scope.exempt
        and any(
            version == peer.version and peer.value >> shift == bits for version, shift, bits in scope.exempt
        )
    ]
