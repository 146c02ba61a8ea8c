"""The table of a reload: every event at every stage, and what no sequence of events can bring about."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpdconf.daemon.supervisor.reload.steps import (
    Action,
    Answered,
    Asked,
    Awaits,
    Broken,
    CannotListen,
    Do,
    Event,
    GivenUp,
    Impossible,
    Late,
    Listens,
    PrepareFailed,
    Progress,
    SocketsReleased,
    Told,
    step,
)

A, B = frozenset({"a"}), frozenset({"b"})
BOTH = A | B

START = Progress()
WAITS = Progress(asked=True, awaited=BOTH)
FAILED = Progress(asked=True, failed=True, awaited=A)
RELEASING = Progress("releasing", asked=True)
BEGINNING = Progress("beginning", asked=True, awaited=BOTH)
UNDONE = Progress("over", asked=True, failed=True)
DONE = Progress("over", asked=True)

# state, event, the state after it, actions
ROWS: list[tuple[Progress, Event, Progress, list[Action]]] = [
    (START, Awaits("a"), Progress(awaited=A), []),
    (START, Asked(), RELEASING, [Action(Do.RELEASE)]),  # no worker has to prepare
    (Progress(awaited=A), Asked(), Progress(asked=True, awaited=A), []),
    (START, Impossible(), Progress(failed=True), []),
    (Progress(failed=True), Asked(), UNDONE, [Action(Do.UNDO)]),
    (Progress(failed=True, awaited=A), Asked(), FAILED, []),  # a worker may know of more problems
    (WAITS, Answered("a", "prepared"), Progress(asked=True, awaited=B), []),
    (Progress(asked=True, awaited=A), Answered("a", "prepared"), RELEASING, [Action(Do.RELEASE)]),
    (Progress(awaited=A), Answered("a", "prepared"), START, []),  # others are still to be asked
    (FAILED, Answered("a", "prepared"), UNDONE, [Action(Do.UNDO)]),
    (WAITS, Answered("a", "serving"), WAITS, []),
    (WAITS, PrepareFailed(), UNDONE, [Action(Do.UNDO)]),
    (Progress(awaited=A), PrepareFailed(), Progress(failed=True), []),
    (WAITS, GivenUp(), UNDONE, [Action(Do.UNDO)]),
    (Progress(awaited=A), GivenUp(), UNDONE, [Action(Do.UNDO)]),
    (WAITS, Late(), UNDONE, [Action(Do.REPORT_LATE, BOTH), Action(Do.UNDO)]),
    (WAITS, Broken(), UNDONE, [Action(Do.UNDO)]),
    (START, Broken(), UNDONE, [Action(Do.UNDO)]),
    (WAITS, SocketsReleased(), WAITS, []),
    (RELEASING, SocketsReleased(), RELEASING, [Action(Do.COMMIT)]),
    (RELEASING, PrepareFailed(), UNDONE, [Action(Do.UNDO)]),  # a worker has ended that had prepared
    (RELEASING, GivenUp(), UNDONE, [Action(Do.UNDO)]),
    (RELEASING, Broken(), UNDONE, [Action(Do.UNDO)]),
    (RELEASING, CannotListen(), UNDONE, [Action(Do.UNDO)]),
    (RELEASING, Listens(), Progress("beginning"), []),
    (RELEASING, Told(BOTH), RELEASING, []),
    (Progress("beginning"), Told(BOTH), BEGINNING, []),
    (Progress("beginning"), Told(frozenset()), DONE, [Action(Do.FINISH)]),
    (Progress("beginning"), Broken(), Progress("over"), [Action(Do.FINISH_BROKEN)]),  # it counts already
    (RELEASING, Answered("a", "prepared"), RELEASING, []),
    (BEGINNING, Answered("a", "serving"), Progress("beginning", asked=True, awaited=B), []),
    (Progress("beginning", asked=True, awaited=A), Answered("a", "stopped"), DONE, [Action(Do.FINISH)]),
    (BEGINNING, Answered("a", "prepared"), BEGINNING, []),
    (BEGINNING, Late(), DONE, [Action(Do.KILL, BOTH), Action(Do.FINISH)]),
    (BEGINNING, Broken(), DONE, [Action(Do.FINISH_BROKEN)]),
    (BEGINNING, PrepareFailed(), BEGINNING, []),  # it counts: the worker is started again with it
    (BEGINNING, GivenUp(), BEGINNING, []),
    (UNDONE, SocketsReleased(), UNDONE, []),  # undone while the service manager was waited for
    (UNDONE, Broken(), UNDONE, [Action(Do.UNDO)]),  # to undo has met a defect: again, as far as it goes
    (DONE, Broken(), DONE, [Action(Do.FINISH_BROKEN)]),  # to report has: what counts is not taken back
    (DONE, Late(), DONE, []),
    (DONE, Answered("a", "serving"), DONE, []),
]


@pytest.mark.parametrize(("now", "event", "after", "actions"), ROWS)
def test_a_row(now: Progress, event: Event, after: Progress, actions: list[Action]) -> None:
    assert step(now, event) == (after, actions)


NAMES = st.sampled_from(["a", "b", "c"])
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(Awaits, NAMES),
    st.builds(Answered, NAMES, st.sampled_from(["prepared", "serving", "stopped"])),
    st.sampled_from(
        [
            Asked(),
            Impossible(),
            PrepareFailed(),
            GivenUp(),
            Late(),
            Broken(),
            SocketsReleased(),
            CannotListen(),
            Listens(),
        ]
    ),
    st.builds(Told, st.frozensets(NAMES)),
)
ENDS = {Do.UNDO, Do.FINISH, Do.FINISH_BROKEN}


@given(st.lists(EVENTS, max_size=30))
def test_a_reload_ends_once_and_a_failed_one_never_counts(events: list[Event]) -> None:
    now, done = START, []
    for event in events:
        if now.stage == "over" and event == Broken():
            continue  # a row of its own
        now, actions = step(now, event)
        assert not (now.stage == "beginning" and now.failed)
        assert not (now.failed and Do.COMMIT in {action.do for action in actions})
        done += [action.do for action in actions]

    assert len([do for do in done if do in ENDS]) == (now.stage == "over")
    assert not done or (done[-1] in ENDS) == (now.stage == "over")
    if Do.UNDO in done:
        assert not {Do.FINISH, Do.FINISH_BROKEN, Do.KILL} & set(done)
    if Do.FINISH in done or Do.FINISH_BROKEN in done:
        assert Do.RELEASE in done


@given(st.lists(EVENTS, max_size=30))
def test_every_reload_can_be_ended(events: list[Event]) -> None:
    """A timer or the end of the daemon ends it at any stage at which it waits for workers."""
    now = START
    for event in events:
        now, _ = step(now, event)
    for event in (GivenUp(), Told(frozenset()), Late()):
        now, _ = step(now, event)

    assert now.stage == "over"
