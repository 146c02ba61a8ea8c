"""Every interleaving of processes that take and release slots, with a kill or a stop at every step.

The code that runs is the daemon's: `shared_limits.SharedSlots` on `turns`. Only the primitive operations are
replaced: each is a step, after which any other process may go on. A process that is stopped is one that takes
no step. The next step of a process depends on the results of its steps so far. So a state is the memory, the
locks, and the results that each process has had; every state is visited once.

Writes are visible to others late, as on a real processor: a process has a queue of them, which drains at any
time, and at the latest in a system call.
"""

# ruff: noqa: D102 (the methods of `Replayed` are those of `SharedTable`)

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal, NamedTuple

import pytest

from tcpdconf.config.model import tables
from tcpdconf.daemon.shared import turns
from tcpdconf.policy import connection, shared_limits

PEER = connection.endpoint(4, 0xC0000201, 4000)
Address = tuple[str, int]
Watched = Literal["count", "taken", "rate", "reserved"]
LIMITS: Final[dict[Watched, dict[str, object]]] = {
    "count": {"max_per_ip": 1},
    "taken": {"max_connections": 1},
    "rate": {"rate": "1/h"},
    "reserved": {"rate": "1/h"},
}
Cells = tuple[tuple[Address, float], ...]


class StepError(Exception):
    """The next step of a process, whose result is not known yet."""


class Course(NamedTuple):
    """Holds a process's state: its program, how often its patience has ended, the results of its steps.

    Steps that no longer matter are left out. So states that differ in the past only are one.
    """

    stage: Literal["take", "serve", "end", "refused"]
    overs: int = 0
    results: tuple[Any, ...] = ()


class Next(NamedTuple):
    """Holds the next step of a process (or None), its course without irrelevant parts, and its slot."""

    operation: tuple[Any, ...] | None
    course: Course
    holds: bool


class World(NamedTuple):
    """A state; `late` are each process's writes that others do not see yet."""

    memory: Cells
    locks: tuple[tuple[int, int], ...]
    courses: tuple[Course, ...]
    late: tuple[Cells, ...]
    alive: tuple[bool, ...]


class Model:
    """Some processes that take a slot each, of which there is one, and perhaps release it again.

    `overs` is how often each may lose its patience. A `coarse` model reads from all places in one step, and
    its writes are visible at once; then it does not matter which process is in which place.

    Of a rate, each process reserves a token if `watched` is "reserved". It gives the token back if it
    `releases`, and spends it otherwise.
    """

    def __init__(
        self, places: int, watched: Watched, *, releases: bool, overs: int, kills: int, coarse: bool = False
    ) -> None:
        self.places, self.watched, self.releases, self.coarse = places, watched, releases, coarse
        self.overs, self.kills = overs, kills
        self.cells = ("rate", "reserved") if watched == "reserved" else (watched,)
        self.next = functools.cache(self._next)

    def start(self) -> World:
        everyone = range(self.places)
        memory = {(what, each): 0 for what in ("generation", *self.cells) for each in everyone}
        none: tuple[Cells, ...] = ((),) * self.places
        courses = (Course("take"),) * self.places
        return World(tuple(sorted(memory.items())), (), courses, none, (True,) * self.places)

    def _next(self, place: int, course: Course) -> Next:
        """Run the daemon's code up to the step that has no result yet."""
        if course.stage in {"end", "refused"}:
            return Next(None, course, course.stage == "end" and not self.releases)
        table = Replayed(self, place, course.results)
        wanted = tables.Limits.model_validate(LIMITS[self.watched])
        reserves = self.watched == "reserved"
        slots = shared_limits.SharedSlots(wanted, table, reserves=reserves)
        if slots._every_rate:
            table.reserved_key = slots._every_rate[0]._reserved_tags[4]
        slots._published = True
        try:
            if course.stage == "take":
                if slots.take(PEER, None, 0.0, [] if reserves else None) is not None:
                    return Next(None, Course("refused", course.overs), holds=False)
                after = Course("serve" if self.releases or reserves else "end", course.overs)
                return self.next(place, after)._replace(course=after)
            slots._published = False
            slots.hold(PEER)
            slots._published = True
            if reserves:
                slots._rates[0]._reserved[4, PEER.value] = 1
                if self.releases:
                    table.step("serve")
                slots.settle(PEER, 0.0, slots._rates, spent=not self.releases)
                return Next(None, Course("end", course.overs), holds=not self.releases)
            table.step("serve")
            slots.release(PEER)
            return Next(None, Course("end", course.overs), holds=False)
        except StepError as step:
            fresh = table.tries == len(course.results)
            return Next(
                step.args[0],
                course._replace(results=()) if fresh else course,
                course.stage == "serve" and (not course.results or (reserves and not self.releases)),
            )

    def after(self, world: World) -> Iterator[World]:
        """Every state that one step leads to."""
        for place in range(self.places):
            if world.late[place]:
                late = _with(world.late, place, world.late[place][1:])
                yield world._replace(memory=_written(world.memory, world.late[place][:1]), late=late)
            if not world.alive[place] or self.next(place, world.courses[place]).operation is None:
                continue
            yield from (found for found, _ in self.steps(world, place))
            if world.alive.count(False) < self.kills:
                locks = tuple(each for each in world.locks if each[1] != place)
                yield world._replace(locks=locks, alive=_with(world.alive, place, value=False))

    def steps(self, world: World, place: int) -> Iterator[tuple[World, bool]]:
        """Every state that one step of a process leads to, and whether it has lost its patience in it."""
        course = world.courses[place]
        operation = self.next(place, course).operation
        if operation is not None and operation[0] == "relax":
            if course.overs < self.overs:
                yield self._gone_on(world, place, course._replace(overs=course.overs + 1), "over"), True
            if operation[1] in dict(world.locks) and self._generation(world) <= operation[1]:
                return  # it would only go round
        result = self._result(world, place, operation)
        if operation is not None and operation[0] == "write":
            cell = (operation[1], operation[2])
            if self.coarse:
                world = world._replace(memory=_written(world.memory, (cell,)))
            else:
                world = world._replace(late=_with(world.late, place, (*world.late[place], cell)))
        elif operation is not None and operation[0] in {"lock", "unlock"}:
            memory, locks = _written(world.memory, world.late[place]), dict(world.locks)
            if operation[0] == "unlock":
                del locks[operation[1]]
            else:
                locks.setdefault(operation[1], place)
            world = world._replace(memory=memory, locks=tuple(sorted(locks.items())))
            world = world._replace(late=_with(world.late, place, ()))
        yield self._gone_on(world, place, course, result), False

    def _gone_on(self, world: World, place: int, course: Course, result: object) -> World:
        course = course._replace(results=(*course.results, result))
        return world._replace(courses=_with(world.courses, place, self.next(place, course).course))

    def _generation(self, world: World) -> int:
        return max(int(value) for (what, _), value in world.memory if what == "generation")

    def _result(self, world: World, place: int, operation: tuple[Any, ...] | None) -> object:
        memory = dict(world.memory)
        match operation:
            case ("read", address):
                return dict(world.late[place]).get(address, memory[address])
            case ("max",):
                return self._generation(world)
            case ("sum", what):
                return sum(memory[what, each] for each in range(self.places) if each != place)
            case ("lock", number):
                return dict(world.locks).get(number, place) == place
        return None

    def canonical(self, world: World) -> World:
        """Return one state for all that differ in the order of the processes only."""
        if not self.coarse:
            return world
        memory = dict(world.memory)
        described = [
            (
                world.courses[place],
                world.alive[place],
                memory["generation", place],
                memory[self.watched, place],
                [number for number, holder in world.locks if holder == place],
            )
            for place in range(self.places)
        ]
        order = sorted(range(self.places), key=lambda place: repr(described[place]))
        new = {place: index for index, place in enumerate(order)}
        return World(
            tuple(sorted(((what, new[place]), value) for (what, place), value in world.memory)),
            tuple((number, new[place]) for number, place in world.locks),
            tuple(world.courses[place] for place in order),
            world.late,
            tuple(world.alive[place] for place in order),
        )

    def holders(self, world: World) -> int:
        return sum(self.next(place, course).holds for place, course in enumerate(world.courses))


class Replayed:
    """The table of one process, whose primitive operations have had these results so far."""

    def __init__(self, model: Model, place: int, results: tuple[Any, ...]) -> None:
        self.place, self.model = place, model
        self.results = results
        self.used = 0
        self.tries = 0  # results used before its latest attempt
        self.pending: tuple[Any, ...] = ()
        self.failed = 0
        self.full = 0.0
        self.time = 0.0
        self.reserved_key = b"none"

    def step(self, *operation: Any) -> Any:  # noqa: ANN401 (as the operation is)
        if self.used < len(self.results):
            self.used += 1
            return self.results[self.used - 1]
        self.pending = self.pending or operation  # a `finally` on the way may ask for more
        raise StepError(self.pending)

    def exclusively(self, act: Callable[[], Any], undo: Callable[[Any], object]) -> Any:  # noqa: ANN401
        return turns.exclusively(self, act, undo)

    def others(self, key: bytes) -> int:
        return self.sum("reserved" if key.startswith(self.reserved_key) else "count")

    def taken(self) -> int:
        return self.sum("taken")

    def sum(self, what: str) -> int:
        if what not in self.model.cells:
            return 0
        if self.model.coarse:
            return int(self.step("sum", what))
        others = (each for each in range(self.model.places) if each != self.place)
        return sum(self.step("read", (what, each)) for each in others)

    def put(self, key: bytes, count: int) -> None:
        self.write("reserved" if key.startswith(self.reserved_key) else "count", count)

    def take(self, total: int) -> None:
        self.write("taken", total)

    def write(self, what: str, value: int) -> None:
        if what in self.model.cells:
            self.step("write", (what, self.place), value)

    def replace(self, counts: dict[bytes, int], entries: int) -> None:
        pass

    def full_at(self, _: bytes) -> float:
        return max(float(self.step("read", ("rate", each))) for each in range(self.model.places))

    def spend(self, _: bytes, full_at: float, now: float) -> float:  # noqa: ARG002
        before, self.full = self.full, full_at
        self.step("write", ("rate", self.place), full_at)
        return before

    def try_lock(self, number: int) -> bool:
        self.failed = number
        return bool(self.step("lock", number))

    def unlock(self, number: int) -> None:
        self.step("unlock", number)

    def generation(self) -> int:
        if self.model.coarse:
            return int(self.step("max"))
        return max(int(self.step("read", ("generation", each))) for each in range(self.model.places))

    def declare(self, number: int) -> None:
        self.step("write", ("generation", self.place), number)
        self.try_lock(number)

    def now(self) -> float:
        return self.time

    def relax(self) -> None:
        if self.step("relax", self.failed) == "over":
            self.time += turns.PATIENCE


@pytest.fixture(autouse=True)
def _attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that attempts to lock the present generation is as it was at the first time."""
    attempt = turns._attempt

    def noted(memory: Any) -> int | None:  # noqa: ANN401
        memory.tries = memory.used
        return attempt(memory)

    monkeypatch.setattr(turns, "_attempt", noted)


def _with(values: tuple[Any, ...], place: int, value: Any) -> tuple[Any, ...]:  # noqa: ANN401
    return (*values[:place], value, *values[place + 1 :])


def _written(memory: Cells, cells: Cells) -> Cells:
    if not cells:
        return memory
    new = dict(cells)  # the last one of an address counts
    return tuple((address, new.get(address, value)) for address, value in memory)


def alone(model: Model, world: World, place: int) -> int:
    """Let one process go on while all others stand still; return how often it has lost its patience."""
    waited = 0
    for _ in range(100):
        if model.next(place, world.courses[place]).operation is None:
            return waited
        world, over = list(model.steps(world, place))[-1]  # it waits only if it must
        waited += over
    raise AssertionError("goes on for ever")


def explore(model: Model) -> int:
    """Visit every state; return their number."""
    first = model.start()
    known, ahead = {first}, [first]
    unlimited = copy.copy(model)
    unlimited.overs = 99
    while ahead:
        world = ahead.pop()
        assert model.holders(world) <= 1, "two slots, where the limit is one"
        moving = [
            place
            for place, course in enumerate(world.courses)
            if world.alive[place] and model.next(place, course).operation is not None
        ]
        for place in moving:
            assert alone(unlimited, world, place) <= 1
        if not moving and not any(world.late):
            check_quiet(model, world)
        for each in map(model.canonical, model.after(world)):
            if each not in known:
                known.add(each)
                ahead.append(each)
    return len(known)


def check_quiet(model: Model, world: World) -> None:
    """Every process that lives has counted just what it holds; without trouble the slot was given."""
    memory = dict(world.memory)
    for place, course in enumerate(world.courses):
        if world.alive[place]:
            assert bool(memory[model.cells[0], place]) == model.next(place, course).holds
            assert model.watched != "reserved" or not memory["reserved", place]
    if all(world.alive) and not any(course.overs for course in world.courses):
        assert any(course.stage == "end" for course in world.courses)


@pytest.mark.parametrize("watched", ["count", "taken"])
@pytest.mark.parametrize("releases", [False, True])
def test_two_processes(watched: Watched, releases: bool) -> None:
    states = explore(Model(2, watched, releases=releases, overs=1, kills=1))
    assert states > 2000


@pytest.mark.slow
def test_two_processes_and_a_rate() -> None:
    """A refusal and a decision that does not count spend no token."""
    assert explore(Model(2, "rate", releases=False, overs=1, kills=1)) > 2000


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("releases", [False, True])
def test_two_processes_that_reserve_a_token(releases: bool) -> None:
    """A token is spent or given back, and is never free meanwhile."""
    assert explore(Model(2, "reserved", releases=releases, overs=1, kills=1)) > 2000


@pytest.mark.slow
def test_two_processes_that_overtake_each_other() -> None:
    states = explore(Model(2, "count", releases=True, overs=3, kills=2))
    assert states > 30_000


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("releases", "kills"), [(True, 0), (False, 1)])
def test_three_processes(releases: bool, kills: int) -> None:
    states = explore(Model(3, "count", releases=releases, overs=1, kills=kills, coarse=True))
    assert states > 100_000


def without_second_call(table: Replayed, number: int) -> None:
    """Declare a generation without a system call before the counts are read."""
    table.step("write", ("generation", table.place), number)


def without_verification(memory: Any, act: Callable[[], Any], _: object) -> Any:  # noqa: ANN401
    """Decide without a look whether another process has overtaken this one."""
    number = turns._enter(memory)
    result = act()
    memory.unlock(number)
    return result


@pytest.mark.parametrize(
    ("place", "name", "broken"),
    [(Replayed, "declare", without_second_call), (turns, "exclusively", without_verification)],
)
def test_a_step_less_is_one_too_few(
    monkeypatch: pytest.MonkeyPatch, place: object, name: str, broken: Callable[..., Any]
) -> None:
    """The search would find the defect that each of these steps prevents."""
    monkeypatch.setattr(place, name, broken)
    with pytest.raises(AssertionError, match="two slots"):
        explore(Model(2, "count", releases=False, overs=1, kills=0))


def test_a_token_of_another_process_must_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Replayed, "others", lambda *_: 0)
    with pytest.raises(AssertionError, match="two slots"):
        explore(Model(2, "reserved", releases=False, overs=0, kills=0))
