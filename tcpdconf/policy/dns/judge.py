"""The DNS lists of a service: which questions a connection needs, and what the answers mean.

All questions are known at once; lists are judged in the order written, each skipped when its variable is set
already, by an earlier list, by an access rule or by the service's environment (manual, MULTIPLE DNS LISTS).
What is not answered is not listed. Where a chain has a threshold for a variable, its block lists and its
allow lists with a weight add up (postconf(5), postscreen_dnsbl_threshold), and the sum is judged at the
place of the last of them.

A zone may be a secret, and the name of a question contains it: steps do not.
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
    """What became of one list.

    The class of its answer (None: it was not looked at), the addresses that count, the effect, why, and the
    names of the variables that it sets.
    """

    entry: Entry
    outcome: Outcome | None
    addresses: tuple[str, ...]
    effect: Effect
    why: str
    sets: tuple[str, ...] = ()


class Judgement(NamedTuple):
    """What the answers so far mean.

    `variables` are to be added to the environment. `open` are the questions that are not answered and could
    still change them: when it is empty, waiting for others is of no use. `sure` are those of the variables
    that no answer can change.
    """

    variables: dict[str, str]
    steps: tuple[ListStep, ...]
    open: frozenset[query.Question]
    sure: dict[str, str]


class _Finding(NamedTuple):
    """What the answers say of one entry; `listed` is None while it cannot be said."""

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
    "listed": "listed, but no answer that matches",
    "unlisted": "not listed",
    "error": "answers an error code",
    "outside": "answers an address outside of 127.0.0.0/8",
    "servfail": "the name server failed",
    "refused": "the name server refused",
    "timeout": "no answer in time",
    "unreachable": "no name server is there",
    "malformed": "an answer that cannot be read",
    "suspended": "suspended",
    "missing": "no answer yet",
}


def questions(
    chain: Chain, peer: connection.Endpoint, environment: Mapping[str, str]
) -> dict[query.Question, Entry]:
    """What to ask about a client, each question once, with the entry that it is for.

    Nothing is asked for lists whose variable is set in `environment` or that exempt the client. Of entries
    with the same question, the one that may wait longest.
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
    """Judge the lists by the answers that are there; `environment` is what `questions` was given."""
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
    """The state of one judgement."""

    def __init__(self, address: str, most_allows: int) -> None:
        self.address = address
        self.variables: dict[str, str] = {}
        self.steps: list[ListStep] = []
        self.open: set[query.Question] = set()
        self._allows = 0
        self._most_allows = most_allows
        self._loose: set[str] = set()  # variables that answers could still change

    def sure(self) -> dict[str, str]:
        """The variables that nothing can change."""
        if not self._loose:
            return self.variables
        return {name: value for name, value in self.variables.items() if name not in self._loose}

    def pass_over(self, entry: Entry, effect: Effect, why: str) -> None:
        """An entry that is not looked at."""
        self.steps.append(ListStep(entry, None, (), effect, why))

    def skip(self, entry: Entry) -> None:
        """An entry whose variable is set already; if that is not sure, the entry may count yet."""
        self.pass_over(entry, "skipped", f"{entry.variable} is set already")
        self._loosen(entry)

    def take(self, entry: Entry, finding: _Finding) -> None:
        """An entry that decides alone."""
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
        """An entry that adds to a score."""
        self._loosen(entry)
        if finding.listed:
            why = f"{_said(finding)}, weight {entry.weight}"
            self.steps.append(ListStep(entry, finding.outcome, finding.addresses, "scored", why))
        else:
            self.steps.append(ListStep(entry, finding.outcome, (), "none", _said(finding)))

    def weigh(self, tally: Tally, scored: Sequence[tuple[Entry, _Finding]]) -> None:
        """The score of a variable: what is sure of it, and what missing answers can make of it."""
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
        """Set a listing's variables (manual, ADDITIONAL DNS ACCESS LIST VARIABLES); returns their names."""
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
        """Note what an entry may still set, because its answer is missing or another one's that it needs."""
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
        return _unknown(question, entry.txt, answers)
    outcome = dns_answer.outcome(answer, entry.reading)
    if not entry.txt:
        if outcome != "listed":
            return _NOT_LISTED[outcome]
        passing = dns_answer.passing(answer, entry.reading, entry.filters)
        return _Finding(bool(passing), "listed", passing)
    return _with_text(entry, name, answers, answer, outcome)


def _unknown(question: query.Question, txt: bool, answers: Answers) -> _Finding:
    missing = [question]
    if txt and (text := query.Question(question.name, "TXT")) not in answers:
        missing.append(text)
    return _Finding(None, "missing", missing=tuple(missing))


def _with_text(entry: Entry, name: str, answers: Answers, answer: query.Answer, outcome: Outcome) -> _Finding:
    """An entry with `txt`: the text is read only where the addresses do not say that the list is in trouble.

    An error code comes with a text as well. For couriertcpd any text is a listing where no filter is set.
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
    """A finding in words."""
    if finding.addresses:
        return "listed as " + ", ".join(finding.addresses)
    if finding.listed:
        return "listed by its text"
    return _WORDS[finding.outcome]


def _exempting(chain: Chain, peer: connection.Endpoint) -> list[int]:
    """The scopes that do not ask about a client."""
    return [
        place
        for place, scope in enumerate(chain.scopes)
        if scope.exempt
        and any(
            version == peer.version and peer.value >> shift == bits for version, shift, bits in scope.exempt
        )
    ]
