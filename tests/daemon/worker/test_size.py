"""Many connections at once, and what they and the processes cost in memory."""

import contextlib
import os
import pathlib
import re

from support.running import daemons

HELD = 2000
PER_CONNECTION = 4096  # bytes of the daemon's memory
# Bytes of supervisor and six workers, without the files that other processes map as well. 54 to 62 MiB were
# seen: a table of interned strings that grows after the fork costs each worker 0.9 MiB.
ALL_PROCESSES = 66 * 2**20
WATCHER = 6 * 2**20  # bytes of its own: 3.4 to 5.2 MiB, and from 7.1 if it imports watchdog itself


def proportional(pid: int, field: str = "Pss") -> int:
    """Bytes of a process's memory, what it shares divided by those who share it (proc(5), smaps_rollup)."""
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(
        int(kilobytes) * 1024 for kilobytes in re.findall(rf"^{field}: +(\d+) kB$", text, re.MULTILINE)
    )


def private(pid: int) -> int:
    """Bytes that only this process has."""
    return proportional(pid, "Private_(?:Clean|Dirty)")


def test_two_thousand_connections_held_at_once(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    text = f"""
        [services.test]
        program = ["/bin/cat"]
        listeners = [{{ address = "127.0.0.1", port = {port} }}]
        [services.test.limits]
        max_connections = {HELD}
        max_per_network = {HELD}
        [daemon]
        log_level = "warning"  # a reader that falls behind makes the daemon lose lines, as it should
    """
    with daemons.Daemon(tmp_path, text) as daemon, contextlib.ExitStack() as clients:
        worker = daemon.worker("test")
        for _ in range(100):  # what is allocated once is there before it is counted
            assert daemons.talk(port, say=b"x") == b"x"
        before = private(worker)
        held = [clients.enter_context(daemons.connect(port)) for _ in range(HELD)]
        for client in held:
            client.sendall(b"here\n")
        assert {daemons.line(client) for client in held} == {b"here\n"}
        each = (private(worker) - before) / HELD
        daemon.await_log("^alert: all slots are taken service=test max_connections=2000$")
        clients.close()
        daemons.until(lambda: not daemons.children(worker), "every program to end")
        assert daemons.talk(port, say=b"x") == b"x"

    print(f"{each:.0f} bytes of the worker's memory for each held connection")
    assert each <= PER_CONNECTION


def test_a_supervisor_and_six_workers(tmp_path: pathlib.Path) -> None:
    text = "".join(
        f"""
        [services.s{number}]
        program = ["/bin/cat"]
        listeners = [{{ address = "127.0.0.1", port = {daemons.free_port()} }}]
        """
        for number in range(6)
    )
    with daemons.Daemon(tmp_path, text) as daemon:
        processes = [daemon.process.pid, *(daemon.worker(f"s{number}") for number in range(6))]
        total = sum(proportional(pid, "Pss_Anon") for pid in processes)

    print(f"{total / 2**20:.1f} MiB that the supervisor and six workers do not have from files")
    assert total <= ALL_PROCESSES


def test_a_watcher(tmp_path: pathlib.Path) -> None:
    text = f"""
        [services.test]
        program = ["/bin/cat"]
        listeners = [{{ address = "127.0.0.1", port = {daemons.free_port()} }}]
    """
    with daemons.Daemon(tmp_path, text) as daemon:
        worker, supervisor = daemon.worker("test"), daemon.process.pid
        daemons.until(lambda: len(daemons.children(supervisor)) == 2, "the watcher")
        (watcher,) = set(daemons.children(supervisor)) - {worker}
        daemons.until(lambda: len(os.listdir(f"/proc/{watcher}/task")) > 3, "the watcher to observe")
        own = private(watcher)
        assert len(os.listdir(f"/proc/{supervisor}/task")) == 1

    print(f"{own / 2**20:.1f} MiB that only the watcher has")
    assert own <= WATCHER
