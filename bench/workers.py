"""Measures the cost of counts that workers share, and estimates how a service scales with processors.

On a host with two processors, a second worker gains little. So the parts of a connection are measured: the
processor time w of its worker, the processor time c of worker, kernel and program together, and the time s
for which a take holds the lock and stops all other takes. w and s grow with the number of workers. By this
model, an otherwise idle host with P processors and N workers serves min(P / c, N / w, 1 / s) connections a
second.
"""

import contextlib
import functools
import os
import pathlib
import signal
import statistics
import time
from collections.abc import Iterator
from typing import Final

from bench import clients, figures, servers
from tcpdconf.config.model import tables
from tcpdconf.daemon.shared.memory import SharedMemory
from tcpdconf.daemon.shared.table import SharedTable
from tcpdconf.policy import connection, limits, shared_limits

PROCESSORS: Final = (4, 8, 16)
TOGETHER: Final = (2, 4, 8, 16)  # workers that share a table
_LIMITS: Final = tables.Limits(max_connections=1000, max_per_ip=500, max_per_network=500)
_PEER: Final = connection.endpoint(4, 0xC0000201, 4000)
_AT_ONCE: Final = 50
_TICK: Final = 1 / os.sysconf("SC_CLK_TCK")  # seconds of a clock tick
_MICRO: Final = 1e6


class _Timed(SharedTable):
    """Records the seconds for which each take has held the lock."""

    def __init__(self, fd: int, place: int, wake: int) -> None:
        super().__init__(fd, place, wake)
        self.held: list[float] = []
        self._locked = 0.0

    def try_lock(self, number: int) -> bool:
        """Lock a byte, and record the time."""
        got = super().try_lock(number)
        self._locked = time.perf_counter()
        return got

    def unlock(self, number: int) -> None:
        """Unlock a byte, and record the time since it was locked."""
        super().unlock(number)
        self.held.append(time.perf_counter() - self._locked)


def measure(tools: clients.Tools, *, count: int, rounds: int) -> list[figures.Figure]:
    """Measure everything; the model's figures are computed from the measurements of the same round."""
    names = [("take and release, one worker alone", "us")]
    names += [(f"take and release, {many} workers", "us") for many in TOGETHER]
    names += [(f"lock held by a take, {many} workers (s)", "us") for many in TOGETHER]
    names += [("takes of 2 processes at once", "1/s")]
    names += [(f"admitted, {_AT_ONCE} at once, {_workers(many)}", "1/s") for many in (1, 2)]
    names += [("processor time of one worker alone, each connection (w)", "us")]
    names += [("processor time of worker, kernel and program (c)", "us")]
    names += [
        (f"predicted, {processors} processors, {_workers(many)}", "1/s")
        for processors in PROCESSORS
        for many in (1, processors)
    ]
    metrics = tuple(figures.Metric(name, unit, "less" if unit == "us" else "more") for name, unit in names)
    once = functools.partial(_once, tools, count)
    return figures.measure([figures.Case(metrics, {figures.SUBJECT: once})], rounds)


def _workers(many: int) -> str:
    return "1 worker" if many == 1 else f"{many} workers"


def _once(tools: clients.Tools, count: int) -> list[float]:
    takes = 10 * count
    alone = _take(limits.Slots(_LIMITS), takes)
    together, held = {}, {}
    for many in TOGETHER:
        with _table(many) as (slots, table):
            together[many] = _take(slots, takes)
            held[many] = statistics.median(table.held) * _MICRO
    one, worker, whole = _served(tools, 1, count)
    two, _, _ = _served(tools, 2, count)
    predicted = []
    for processors in PROCESSORS:
        more = together[processors] - alone
        predicted.append(min(processors / whole, 1 / worker) * _MICRO)
        shared = processors / (whole + more), processors / (worker + more), 1 / held[processors]
        predicted.append(min(shared) * _MICRO)
    contended = _contended(takes / 20_000)
    return [alone, *together.values(), *held.values(), contended, one, two, worker, whole, *predicted]


def _take(slots: limits.Slots, count: int) -> float:
    """Return the microseconds of processor time to take and release a slot."""
    began = time.process_time()
    for _ in range(count):
        slots.take(_PEER, None, 0.0)
        slots.release(_PEER)
    return (time.process_time() - began) / count * _MICRO


@contextlib.contextmanager
def _table(many: int) -> Iterator[tuple[shared_limits.SharedSlots, _Timed]]:
    """Yield the slots and the table of one worker out of `many`."""
    memory = SharedMemory()
    made = [_slots(memory, memory.add(1)) for _ in range(many)]
    try:
        yield made[0]
    finally:
        for _, table in made:
            table.close()
        memory.close()


def _slots(memory: SharedMemory, place: int) -> tuple[shared_limits.SharedSlots, _Timed]:
    table = _Timed(os.dup(memory.fd), place, os.eventfd(0))
    slots = shared_limits.SharedSlots(_LIMITS, table)
    slots.publish()
    return slots, table


def _contended(seconds: float) -> float:
    """Return the takes a second of two processes that do nothing else."""
    memory = SharedMemory()
    places = [memory.add(1) for _ in range(2)]
    reading, writing = os.pipe()
    pids = []
    for place in places:
        pid = os.fork()
        if pid == 0:
            _take_until(memory, place, seconds, writing)
        pids.append(pid)
    os.close(writing)
    with open(reading) as file:
        total = sum(map(int, file.read().split()))
    for pid in pids:
        os.waitpid(pid, 0)
    memory.close()
    return total / seconds


def _take_until(memory: SharedMemory, place: int, seconds: float, writing: int) -> None:
    """Take and release slots for some seconds, write the number of takes, and end the process."""
    with contextlib.suppress(BaseException):
        slots, table = _slots(memory, place)
        end, count = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            slots.take(_PEER, None, 0.0)
            slots.release(_PEER)
            table.held.clear()
            count += 1
        os.write(writing, f"{count}\n".encode())
    os.kill(os.getpid(), signal.SIGKILL)


def _served(tools: clients.Tools, workers: int, count: int) -> tuple[float, float, float]:
    """Return connections a second, and microseconds of workers and of all processes for each connection."""
    service = servers.Service(0, tools.bare, workers=workers)
    with servers.tcpdconf([service]) as server:
        tools.run(server.port(service), count // 4, _AT_ONCE)
        own = [pid for pid in servers.children(server.pids[0]) if not _is_helper(pid)]
        before, before_all = sum(map(_own_time, own)), servers.spent(server)
        seconds = tools.run(server.port(service), count, _AT_ONCE).seconds
        used = max(sum(map(_own_time, own)) - before, _TICK)
        return count / seconds, used / count * _MICRO, servers.since(before_all, server) / count * _MICRO


def _own_time(pid: int) -> float:
    """Return the processor seconds of one process, without its children (proc(5), stat)."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK


def _is_helper(pid: int) -> bool:
    """Return whether a process has threads, as the watcher has."""
    return len(os.listdir(f"/proc/{pid}/task")) > 1
