"""Implements mutual exclusion between processes, with a bounded wait for a holder that was stopped.

The right to decide is a lock on a byte of a file, which the kernel releases when its holder ends. The offset
of the byte is the generation. A process that has waited for 50 ms locks the next byte that is free, and
declares that generation. From then on a decision of the earlier holder does not count: the holder notices the
new generation, takes back its writes and starts again.

Each process declares generations in a word of its own, and the largest one counts. So a process that
continues after a long stop cannot set the generation back.

Two decisions count only if one has seen the writes of the other. Proof: H holds byte g, W declares g + 1.

    H                                    W
    reads counts, writes its own         locks g + 1, writes g + 1
    unlocks g                            locks g + 1 again (`declare`)
    reads the generation                 reads counts, writes its own

Both second steps are calls of fcntl(2) for the same file, in which the kernel takes the same spinlock. One of
them comes first, and the earlier writes of its process are visible to the other process afterwards. If H's is
first, W reads the writes of H. If W's is first, H reads another generation than g. This holds for any memory
model. Without these calls, a processor may read before its own writes are visible to others.

In the uncontended case, this costs two calls of fcntl(2).
"""

from collections.abc import Callable
from typing import Final, Protocol, TypeVar

PATIENCE: Final = 0.05  # seconds

_Result = TypeVar("_Result")


class Primitives(Protocol):
    """Defines the primitive operations on the file and on the generations."""

    def try_lock(self, number: int) -> bool:
        """Lock a byte, unless another process holds it; return whether this process holds it now."""

    def unlock(self, number: int) -> None:
        """Unlock a byte."""

    def generation(self) -> int:
        """Return the largest generation that any process has declared."""

    def declare(self, number: int) -> None:
        """Declare a generation whose byte this process holds, before anything else is read."""

    def now(self) -> float:
        """Return the time of a monotonic clock in seconds."""

    def relax(self) -> None:
        """Let other processes run for a moment."""


def exclusively(memory: Primitives, act: Callable[[], _Result], undo: Callable[[_Result], object]) -> _Result:
    """Call `act` while no other process does, and return its result.

    If the decision does not count, `undo` gets its result and takes back its writes. Then `act` is called
    again.
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
    """Lock the byte of the current generation; return the generation."""
    while (number := _attempt(memory)) is None:
        pass
    return number


def _attempt(memory: Primitives) -> int | None:
    """Lock the byte of a generation and return the generation, or None if a newer one was declared."""
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
    """Lock a byte; return False if it is not free within PATIENCE, or a newer generation was declared."""
    if memory.try_lock(number):
        return True
    until = memory.now() + PATIENCE
    while memory.generation() == number and memory.now() < until:
        memory.relax()
        if memory.try_lock(number):
            return True
    return False


def _overtake(memory: Primitives, number: int) -> int:
    """Declare the next generation whose byte is free, and return it."""
    number += 1
    while not memory.try_lock(number):  # held by another process here, perhaps stopped too
        number += 1
    memory.declare(number)
    return number
