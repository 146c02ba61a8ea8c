"""Probes the engine for `check --probe`, in a process with the rights of the cluster process."""

import os
import select
import signal
from typing import Final

from tcpdconf.config import printable
from tcpdconf.config.model.cluster import Cluster
from tcpdconf.daemon.cluster import process, scripts
from tcpdconf.daemon.process import child, loop

_SECONDS: Final = 5.0  # for the whole probe
_SHOWN: Final = 300  # characters of the result
_NOTHING: Final = "the process that tries it has ended without a result"


def run(settings: Cluster) -> str | None:
    """Log in, load and run the scripts; return the reason why limits would not work, or None.

    Raises:
        OSError: no process or pipe is available.
        UnknownNameError: the user does not exist (a LookupError).
    """
    order = process.order(settings, "0" * 16, "0" * 16, alone=False)
    reading, writing = os.pipe()

    def tried() -> int:
        os.write(writing, (_tried(order) or "ok").encode()[:4096])
        return 0

    try:
        pid = child.fork(tried, {writing})
        os.close(writing)
        ready = select.select([reading], [], [], _SECONDS + 1)[0]
        said = os.read(reading, 4096).decode("utf-8", "replace") if ready else ""
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    finally:
        os.close(reading)
    return None if said == "ok" else printable.replaced(said[:_SHOWN]) or _NOTHING


def _tried(order: process.Order) -> str | None:
    import hiredis  # noqa: PLC0415 (as in `process`)

    from tcpdconf.daemon.cluster import engine, exchange, tally  # noqa: PLC0415

    try:
        access = process.prepared(order)
    except process.CannotUseError as error:
        return str(error)
    events, found = loop.Loop(), list[str]()
    life, prefix = os.urandom(8).hex(), order.settings.prefix

    def fail(why: str) -> None:
        found.append(why)
        events.stop()

    def judge(reply: object) -> None:
        if isinstance(reply, hiredis.ReplyError):
            fail(engine.explained(reply))

    def judge_kind(reply: object) -> None:
        if isinstance(reply, bytes) and b"cluster_enabled:1" in reply:
            fail("the engine is part of a Redis Cluster, which is not supported")

    def opened() -> None:
        made.send("INFO", "cluster", then=judge_kind)  # may fail: a minimal ACL forbids INFO
        made.send("SCRIPT", "LOAD", scripts.LEASE_SCRIPT, then=judge)
        made.send("SCRIPT", "LOAD", scripts.EXCHANGE_SCRIPT, then=judge)
        lease = ("EVALSHA", scripts.LEASE_SHA, 1, f"{prefix}leases", life, 0, 1000, "{}")
        made.send(*lease, then=judge)
        made.send(*exchange.Exchange(tally.Tally(), (), ()).command(prefix, life, 0), then=judge)
        made.send("HDEL", f"{prefix}leases", life, then=judge)
        made.send("HSCAN", f"{prefix}bans", "0", then=judge)
        made.send("PING", then=lambda _: events.stop())

    made = engine.Engine(events, access, opened, fail)
    events.after(_SECONDS, lambda: fail(f"the engine has not answered within {_SECONDS:g} s"))
    events.run()
    return found[0] if found else None
