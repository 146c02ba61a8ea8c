"""The table of a service's workers: every event in every state, and what no sequence of them brings about."""

import dataclasses
import random
from collections.abc import Callable
from functools import partial
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcpdconf.daemon.messages import worker as messages
from tcpdconf.daemon.messages.assignment import Failure
from tcpdconf.daemon.supervisor.service.lifecycle import (
    UNREADY,
    Action,
    Asked,
    Commit,
    Committed,
    Discard,
    Ended,
    Event,
    Failed,
    Keep,
    Kill,
    LeaveBehind,
    Prepared,
    Recount,
    Report,
    Restart,
    Retire,
    Retired,
    Serve,
    Started,
    Stop,
    Stopped,
    Tell,
    Worker,
    Workers,
    step,
)

# Workers by their pid, each with the number of its assignment.
A1, A2, A3, B1, B2, C1 = Worker(1, 1), Worker(1, 2), Worker(1, 3), Worker(2, 1), Worker(2, 2), Worker(3, 1)
A, B, C = 1, 2, 3
WHY: Final = (Failure(("program",), "no"),)
DROP, RETELL, STOP = messages.Discard(), messages.Retell(), messages.Stop(1, 2)

NOBODY = Workers()
STARTING = Workers(A1)
SERVES = Workers(A1, serves=True)
IN_PLACE = Workers(A2, serves=True, prepares=True)
STARTING_IN_PLACE = Workers(A2, prepares=True)
ALONE = Workers(coming=B1)
COMING = Workers(A1, serves=True, coming=B1)
WAITS = Workers(B1, elders=(A,), retiring=frozenset({A}))
RETIRED = Workers(B1, elders=(A,))
SERVES_AFTER = Workers(B1, serves=True, elders=(A,))
LEFT_ALONE = Workers(elders=(A,), retiring=frozenset({A}))
DROPPED = Workers(A1, serves=True, elders=(B,))

Row = tuple[Workers, Event, Workers, list[Action]]
UNREADY_REPORT = Report("failed", (UNREADY,))

# state, event, the state after it, actions
STARTS: list[Row] = [
    (NOBODY, Started(A1), STARTING, []),
    (STARTING, Prepared(A1), STARTING, [Serve(A, ())]),
    (STARTING, Failed(A1, WHY), STARTING, [Report("broken", WHY)]),
    (STARTING, Committed(A1), SERVES, [Report("serves")]),
    (STARTING, Ended(A, 9), NOBODY, [LeaveBehind(A), Restart(9), Report("stopped")]),
    (SERVES, Committed(A1), SERVES, [Report("serves again")]),
    (SERVES, Prepared(A1), SERVES, []),  # it has nothing to begin with
    (SERVES, Ended(A, 9), NOBODY, [LeaveBehind(A), Restart(9), Report("stopped")]),
    (NOBODY, Prepared(A1), NOBODY, []),
    (NOBODY, Ended(A, 9), NOBODY, []),
]
IN_ITS_PLACE: list[Row] = [
    (SERVES, Asked(A2), IN_PLACE, []),
    (IN_PLACE, Prepared(A1), IN_PLACE, []),  # about an earlier assignment
    (IN_PLACE, Failed(A1, WHY), IN_PLACE, []),
    (IN_PLACE, Committed(A1), IN_PLACE, []),
    (IN_PLACE, Prepared(A2), IN_PLACE, [Report("prepared")]),
    (IN_PLACE, Failed(A2, WHY), IN_PLACE, [Report("failed", WHY)]),
    (IN_PLACE, Commit(), Workers(A2, serves=True), [Serve(A, ())]),
    (Workers(A2, serves=True), Committed(A2), Workers(A2, serves=True), [Report("serves again")]),
    (Workers(A2, serves=True), Ended(A, 9), NOBODY, [LeaveBehind(A), Restart(9), Report("stopped")]),
    (IN_PLACE, Discard(), Workers(A2, serves=True), [Tell(A, DROP)]),
    (Workers(A2, serves=True), Prepared(A2), Workers(A2, serves=True), []),  # said before it heard of that
    (IN_PLACE, Ended(A, 9), NOBODY, [LeaveBehind(A), Restart(9), Report("stopped"), UNREADY_REPORT]),
    (IN_PLACE, Asked(A3), dataclasses.replace(IN_PLACE, worker=A3), []),  # the worker drops the other itself
    (STARTING, Asked(A2), STARTING_IN_PLACE, []),
    (STARTING_IN_PLACE, Prepared(A2), STARTING_IN_PLACE, [Report("prepared")]),
    (STARTING_IN_PLACE, Commit(), Workers(A2), [Serve(A, ())]),
    (STARTING_IN_PLACE, Discard(), Workers(A2), [Kill(A)]),  # it has no other setup, and is started again
    (STARTING_IN_PLACE, Ended(A, 9), NOBODY, [LeaveBehind(A), Restart(9), Report("stopped"), UNREADY_REPORT]),
]
IN_ANOTHER_PROCESS: list[Row] = [
    (NOBODY, Asked(B1), ALONE, []),
    (ALONE, Prepared(B1), ALONE, [Report("prepared")]),
    (ALONE, Commit(), Workers(B1), [Keep(B), Serve(B, ())]),
    (ALONE, Discard(), Workers(elders=(B,)), [Kill(B)]),
    (ALONE, Ended(B, 1), NOBODY, [UNREADY_REPORT]),
    (SERVES, Asked(B1), COMING, []),
    (COMING, Prepared(B1), COMING, [Report("prepared")]),
    (COMING, Prepared(B2), COMING, []),
    (COMING, Failed(B1, WHY), COMING, [Report("failed", WHY)]),
    (COMING, Committed(B1), COMING, []),  # nobody has told it to
    (COMING, Commit(), WAITS, [Keep(B), Retire(A)]),
    (COMING, Discard(), DROPPED, [Kill(B)]),
    (COMING, Ended(B, 1), SERVES, [UNREADY_REPORT]),
    (COMING, Ended(A, 9), ALONE, [LeaveBehind(A), Restart(9), Report("stopped")]),
    (ALONE, Started(C1), Workers(C1, coming=B1), []),  # the worker with the setup that still counts
    (Workers(C1, coming=B1), Prepared(C1), Workers(C1, coming=B1), [Serve(C, ())]),
    (DROPPED, Prepared(B1), DROPPED, []),  # said before it was killed
    (DROPPED, Stopped(B), DROPPED, []),
    (DROPPED, Ended(B, 9), SERVES, [LeaveBehind(B), Recount()]),
    (COMING, Asked(C1), Workers(A1, serves=True, coming=C1, elders=(B,)), [Kill(B)]),
    (COMING, Asked(A2), dataclasses.replace(IN_PLACE, elders=(B,)), [Kill(B)]),
    (IN_PLACE, Asked(B1), Workers(A2, serves=True, coming=B1), [Tell(A, DROP)]),
    (STARTING_IN_PLACE, Asked(B1), Workers(A2, coming=B1), [Kill(A)]),
]
SUCCESSION: list[Row] = [
    (WAITS, Retired(A), RETIRED, [Serve(B, (A,))]),
    (WAITS, Ended(A, 0), Workers(B1), [LeaveBehind(A), Recount(), Serve(B, ())]),  # before it had retired
    (RETIRED, Retired(A), RETIRED, []),
    (RETIRED, Committed(B1), SERVES_AFTER, [Report("serves")]),
    (WAITS, Ended(B, 9), LEFT_ALONE, [LeaveBehind(B), Restart(9), Report("stopped")]),
    (LEFT_ALONE, Retired(A), Workers(elders=(A,)), []),
    (LEFT_ALONE, Ended(A, 0), NOBODY, [LeaveBehind(A), Recount()]),
    (LEFT_ALONE, Started(C1), dataclasses.replace(WAITS, worker=C1), []),
    (WAITS, Prepared(B1), WAITS, []),  # the elder still accepts
    (RETIRED, Prepared(B1), RETIRED, [Serve(B, (A,)), Tell(A, RETELL)]),  # it was started again
    (RETIRED, Ended(B, 9), Workers(elders=(A,)), [LeaveBehind(B), Restart(9), Report("stopped")]),
    (SERVES_AFTER, Stopped(A), SERVES_AFTER, []),
    (SERVES_AFTER, Ended(A, 0), Workers(B1, serves=True), [LeaveBehind(A), Recount()]),
    (SERVES, Retired(A), SERVES, []),  # nobody has told it to
    (SERVES_AFTER, Asked(C1), dataclasses.replace(SERVES_AFTER, coming=C1), []),
    (
        dataclasses.replace(SERVES_AFTER, coming=C1),
        Commit(),
        Workers(C1, elders=(A, B), retiring=frozenset({B})),
        [Keep(C), Retire(B)],
    ),
    (
        Workers(C1, elders=(A, B), retiring=frozenset({B})),
        Retired(B),
        Workers(C1, elders=(A, B)),
        [Serve(C, (A, B)), Tell(A, RETELL)],
    ),
    # A reload that a defect has ended can be followed by the next one while the worker still waits.
    (WAITS, Asked(B2), dataclasses.replace(WAITS, worker=B2, prepares=True), []),
    (dataclasses.replace(WAITS, prepares=True), Commit(), WAITS, []),
    (
        dataclasses.replace(WAITS, prepares=True),
        Retired(A),
        dataclasses.replace(RETIRED, prepares=True),
        [],  # what it has prepared does not count yet
    ),
    (dataclasses.replace(RETIRED, prepares=True), Commit(), RETIRED, [Serve(B, (A,)), Tell(A, RETELL)]),
    (WAITS, Asked(C1), dataclasses.replace(WAITS, coming=C1), []),
    (
        dataclasses.replace(WAITS, coming=C1),
        Commit(),
        Workers(C1, elders=(A, B), retiring=frozenset({A, B})),
        [Keep(C), Retire(B)],
    ),
    (
        Workers(C1, elders=(A, B), retiring=frozenset({A, B})),
        Ended(B, 0),
        dataclasses.replace(WAITS, worker=C1),
        [LeaveBehind(B), Recount()],
    ),
]
STOPS: list[Row] = [
    (NOBODY, Stop(1, 2), NOBODY, []),
    (SERVES, Stop(1, 2), SERVES, [Tell(A, STOP)]),
    (COMING, Stop(1, 2), COMING, [Tell(A, STOP), Kill(B)]),
    (WAITS, Stop(1, 2), WAITS, [Tell(B, STOP), Tell(A, STOP)]),
    (SERVES, Stopped(A), SERVES, [Report("stopped")]),
    (SERVES, Commit(), SERVES, []),  # there is nothing to commit
    (SERVES, Discard(), SERVES, []),
    (NOBODY, Discard(), NOBODY, []),
    (NOBODY, Commit(), NOBODY, []),
]


@pytest.mark.parametrize(
    ("now", "event", "after", "actions"), [*STARTS, *IN_ITS_PLACE, *IN_ANOTHER_PROCESS, *SUCCESSION, *STOPS]
)
def test_a_row(now: Workers, event: Event, after: Workers, actions: list[Action]) -> None:
    assert step(now, event) == (after, actions)


def test_pids_name_the_worker_first_and_elders_last() -> None:
    assert Workers(A1, coming=B1, elders=(C,)).pids == [A, B, C]


class Process:
    """A worker as `worker.main` has it: it obeys what is in its inbox, and what it says is in its outbox."""

    def __init__(self) -> None:
        self.prepared: tuple[int, int] | None = None  # the number of an assignment and its setup
        self.committed: list[tuple[int, int]] = []
        self.accepts = False
        self.alive = True
        self.inbox: list[object] = []
        self.outbox: list[Callable[[int], Event]] = []

    def obey(self, *, well: bool) -> None:
        """Handle the next message; an assignment may be prepared well or not."""
        match self.inbox.pop(0):
            case (int(number), int(setup)) if well:
                self.prepared = (number, setup)
                self.outbox.append(lambda pid: Prepared(Worker(pid, number)))
            case (int(number), int()):
                self.prepared = None
                self.outbox.append(lambda pid: Failed(Worker(pid, number), WHY))
                self.alive = bool(self.committed)
            case "serve" if self.prepared is not None:
                number, _ = self.prepared
                self.committed.append(self.prepared)
                self.accepts, self.prepared = True, None
                self.outbox.append(lambda pid: Committed(Worker(pid, number)))
            case "discard":
                self.prepared = None
            case "retire":
                self.accepts, self.alive = False, bool(self.committed)
                self.outbox.append(Retired)

    def end(self) -> None:
        """End; nobody has waited for it yet."""
        self.alive = self.accepts = False


class World:
    """A service with workers whose messages take their time, and reloads that commit or discard."""

    def __init__(self) -> None:
        self.now = Workers()
        self.processes: dict[int, Process] = {}
        self.numbers: dict[int, int] = {}  # of the latest assignment, by pid
        self.counts = 0  # the setup that counts
        self.next = 0
        self.reload = ""  # "", "waits", "prepared", "failed"
        self.due = False  # a restart

    def take(self, event: Event) -> None:
        """Pass an event to the table, and carry out the actions."""
        self.now, actions = step(self.now, event)
        for action in actions:
            match action:
                case Serve(pid):
                    self.processes[pid].inbox.append("serve")
                case Retire(pid):
                    self.processes[pid].inbox.append("retire")
                case Tell(pid, messages.Discard()):
                    self.processes[pid].inbox.append("discard")
                case Kill(pid):
                    self.processes[pid].end()
                case Keep():
                    self.due = False
                case Restart():
                    self.due = True
                case Report("prepared") if self.reload == "waits":
                    self.reload = "prepared"
                case Report("failed"):
                    assert self.reload
                    self.reload = "failed"

    def assign(self, known: Worker | None, setup: int) -> Worker:
        """Ask a worker, or a new one, to prepare a setup."""
        pid = len(self.numbers) + 1 if known is None else known.pid
        self.numbers[pid] = self.numbers.get(pid, 0) + 1
        self.processes.setdefault(pid, Process()).inbox.append((self.numbers[pid], setup))
        return Worker(pid, self.numbers[pid])

    def ask(self, known: Worker | None) -> None:
        """Begin a reload."""
        self.next, self.reload = self.next + 1, "waits"
        self.take(Asked(self.assign(known, self.next)))

    def commit(self) -> None:
        """End a reload that has prepared."""
        self.counts, self.reload = self.next, ""
        self.take(Commit())

    def discard(self) -> None:
        """End a reload before its commit."""
        self.reload = ""
        self.take(Discard())

    def restart(self) -> None:
        """Start a worker in place of one that has ended."""
        self.due = False
        self.take(Started(self.assign(None, self.counts)))

    def hear(self, pid: int) -> None:
        """Receive the next message of a worker."""
        self.take(self.processes[pid].outbox.pop(0)(pid))

    def reap(self, pid: int) -> None:
        """Wait for a worker that has ended; what it has said before counts."""
        while self.processes[pid].outbox:
            self.hear(pid)
        del self.processes[pid]
        self.take(Ended(pid, 9))

    def useful(self) -> list[Callable[[], None]]:
        """Return what brings a reload or a restart to its end."""
        found: list[Callable[[], None]] = []
        if self.reload in {"prepared", "failed"}:
            found.append(self.commit if self.reload == "prepared" else self.discard)
        if self.due:
            found.append(self.restart)
        for pid, each in self.processes.items():
            if each.alive and each.inbox:
                found.append(partial(each.obey, well=True))
            elif each.alive and pid in self.now.elders and pid not in self.now.retiring:
                found.append(each.end)  # its last program has ended
            if each.outbox:
                found.append(partial(self.hear, pid))
            elif not each.alive:
                found.append(partial(self.reap, pid))
        return found

    def others(self) -> list[Callable[[], None]]:
        """Return what else can happen now."""
        found: list[Callable[[], None]] = []
        if self.reload:
            found.append(self.discard)
        else:
            found += [partial(self.ask, None), partial(self.ask, self.now.worker)]
        for pid, each in self.processes.items():
            if each.alive:
                found.append(each.end)
                found += [partial(each.obey, well=False)] if each.inbox else []
            else:
                found.append(partial(self.reap, pid))
        return found

    def check(self) -> None:
        """Assert what is true at any time."""
        assert sum(each.accepts for each in self.processes.values()) <= 1
        assert sorted(self.now.pids) == sorted(self.processes)  # nobody is forgotten
        for each in self.processes.values():
            assert len({*each.committed}) == len(each.committed)


@settings(max_examples=500)
@given(st.randoms(use_true_random=True))
def test_one_worker_accepts_and_ends_with_the_setup_that_counts(chance: random.Random) -> None:
    """No setup is committed twice or lost, at most one worker accepts at any time, and every elder ends."""
    world = World()
    world.commit()
    world.restart()
    for _ in range(60):
        moves = (world.useful() if chance.randrange(3) else []) or world.others()
        chance.choice(moves)()
        world.check()
    while moves := world.useful():
        moves[0]()
        world.check()

    assert not world.now.elders
    assert world.now.coming is None
    (process,) = world.processes.values()
    assert process.accepts
    assert process.committed[-1][1] == world.counts


PIDS: Final = st.integers(1, 6)
NAMED: Final = st.builds(Worker, PIDS, st.just(1))
SAID: st.SearchStrategy[Event] = st.one_of(
    *(st.builds(each, NAMED) for each in (Prepared, Committed)),
    st.builds(Failed, NAMED, st.just(WHY)),
    *(st.builds(each, PIDS) for each in (Retired, Stopped)),
    st.builds(Ended, PIDS, st.just(9)),
    st.sampled_from([Commit(), Discard(), Stop(0, 0)]),
)


@given(st.lists(st.one_of(SAID, st.none()), max_size=40))
def test_whatever_workers_say_each_is_known_until_it_has_ended(events: list[Event | None]) -> None:
    """None stands for another worker that is forked and asked to prepare."""
    now, known, forked = Workers(), set[int](), 0
    for said in events:
        forked += said is None
        event = Asked(Worker(forked, 1)) if said is None else said
        known |= {forked} if said is None else set()
        known -= {event.pid} if isinstance(event, Ended) else set()
        now, actions = step(now, event)
        assert sorted(now.pids) == sorted(known)
        assert now.retiring <= {*now.elders}
        assert {each.pid for each in actions if isinstance(each, Tell | Serve | Retire | Kill)} <= known
        if any(isinstance(each, Serve) for each in actions):
            assert not now.retiring
