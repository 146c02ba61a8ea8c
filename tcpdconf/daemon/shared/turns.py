"""Lets one process at a time decide, and lets none wait long for one that was stopped in the middle.

The right to decide is a lock on a byte of a file, which the kernel frees when its holder ends. The number of
the byte is the generation. A process that has waited for it for 50 ms locks the next byte that is free, and
declares that generation. What the earlier holder decides from then on does not count: it finds out, takes
back what it has written and starts again.

Each process declares generations in a word of its own, and the largest one counts. So no process that goes on
after a long time can set the generation back.

Why never two decisions count that do not know of each other: H holds byte g, W declares g + 1.

    H                                    W
    reads counts, writes its own         locks g + 1, writes g + 1
    unlocks g                            locks g + 1 again (`declare`)
    reads the generation                 reads counts, writes its own

Both second steps are calls of fcntl(2) about the same file, in which the kernel holds the same spinlock. One
of them comes first, and what its process has written before is visible to the other process afterwards. If it
is H's, W reads what H has written. If it is W's, H reads another generation than g. This holds for any memory
model; without the calls a processor may read before what it has written is visible.

In the uncontended case, this costs two calls of fcntl(2).
"""

from collections.abc import Callable
from typing import Final, Protocol, TypeVar

PATIENCE: Final = 0.05  # seconds

_Result = TypeVar("_Result")


class Primitives(Protocol):
    """Defines the operations on the file and on the generations."""

    def try_lock(self, number: int) -> bool:
        """Lock a byte, unless another process holds it; return whether this process holds it now."""

    def unlock(self, number: int) -> None:
        """Unlock a byte."""

    def generation(self) -> int:
        """Return the largest generation that any process has declared."""

    def declare(self, number: int) -> None:
        """Declare a generation whose byte this process holds, before anything else is read."""

    def now(self) -> float:
        """Return the time in seconds."""

    def relax(self) -> None:
        """Let others run for a moment."""


def exclusively(memory: Primitives, act: Callable[[], _Result], undo: Callable[[_Result], object]) -> _Result:
    """Call `act` while no other process does, and return its result.

    `undo` takes back what `act` has written, when it does not count. It gets the result, and `act` is called
    again afterwards.
    """
    while True:
        number = _enter(memory)
        try:
            result = act()
        finally:
            memory.unlock(number)
        if memory.generation() == number:
            return result
        undo(result)


def _enter(memory: Primitives) -> int:
    """Lock the byte of the present generation; return its number."""
    while (number := _attempt(memory)) is None:
        pass
    return number


def _attempt(memory: Primitives) -> int | None:
    """Lock the byte of a generation; return its number, or None if it is not the present one any more."""
    number = memory.generation()
    if not _locked(memory, number):
        if memory.generation() != number:
            return None
        number = _overtake(memory, number)
    if memory.generation() == number:
        return number
    memory.unlock(number)
    return None


def _locked(memory: Primitives, number: int) -> bool:
    """Lock a byte; return False if it is not free in time, or its generation is over."""
    if memory.try_lock(number):
        return True
    until = memory.now() + PATIENCE
    while memory.generation() == number and memory.now() < until:
        memory.relax()
        if memory.try_lock(number):
            return True
    return False


def _overtake(memory: Primitives, number: int) -> int:
    """Declare the next generation whose byte is free; return its number."""
    number += 1
    while not memory.try_lock(number):  # held by another one that overtakes, perhaps stopped as well
        number += 1
    memory.declare(number)
    return number
