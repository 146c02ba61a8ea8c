"""Disturbs the daemon at random in many ways."""

import collections
import contextlib
import os
import pathlib
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable

from endurance import observer, world
from support import engines
from support.dns import dnsservers
from support.running import daemons

from tcpdconf.daemon.control import client as control_client
from tcpdconf.daemon.control.client import ControlError


class Abuse(threading.Thread):
    """Does one of its deeds every now and then; `done` counts them, `slack` what a kill may have cost."""

    def __init__(
        self, daemon: daemons.Daemon, ports: dict[str, int], chance: random.Random, engine: engines.Engine
    ) -> None:
        super().__init__(daemon=True)
        self._engine = engine
        self.done: collections.Counter[str] = collections.Counter()
        self.slack: collections.Counter[str] = collections.Counter()
        self.troubles: list[str] = []
        self.generation = 1
        self.generations = {"1"}
        self.pause = 0.3
        self._daemon = daemon
        self._ports = ports
        self._chance = chance
        self._over = threading.Event()
        self._server = dnsservers.Server()
        self._address = ""
        self._user = world.USERS[0]

    def start_server(self) -> str:
        """Start the name server; where it is."""
        self._server.__enter__()
        self.tell_truth()
        self._address = f"127.0.0.1:{self._server.address.port}"
        return self._address

    def tell_truth(self) -> None:
        """Let the name server say what is so."""
        self._server.says("*.7.127.bl.example", "A", dnsservers.Reply(records=("A 127.0.0.2",)))
        for network in (world.PLAIN, world.RULED):
            self._server.says(
                f"*.{'.'.join(reversed(network.split('.')))}.bl.example", "A", dnsservers.NOT_FOUND
            )

    def run(self) -> None:
        """Until told to stop."""
        while not self._over.wait(self.pause):
            self.do(self._chance.choice(self._deeds))

    def everything(self) -> None:
        """Do everything once."""
        for deed in self._deeds:
            self.do(deed)
        self.tell_truth()

    def do(self, deed: Callable[[], None]) -> None:
        """Do one of the deeds."""
        try:
            deed()
        except (ControlError, OSError, AssertionError) as error:
            self.troubles.append(f"{deed.__name__}: {error}")
        self.done[deed.__name__.strip("_")] += 1

    @property
    def _deeds(self) -> list[Callable[[], None]]:
        return [
            self._reload, self._reload, self._reload_wrong, self._change_user, self._kill_worker,
            self._kill_logger, self._exhaust_descriptors, self._exhaust_processes,
            self._silence, self._lie, self._garble,
            self._kill_cluster, self._flush_engine, self._stop_engine,
        ]  # fmt: skip

    def finish(self) -> None:
        """Do no more, and let the name server say the truth again."""
        self._over.set()
        self.join(60)
        assert not self.is_alive()
        self.tell_truth()

    def close(self) -> None:
        """End the name server."""
        self._server.__exit__(None, None, None)

    def ask(self, command: str) -> "dict[str, object]":
        """Return the answer of the daemon."""
        return control_client.ask(str(self._daemon.folder / "run"), {"command": command}, 60)

    def _write(self, text: str) -> None:
        file = self._daemon.conf / "test.toml"
        new = file.with_suffix(".new")
        new.write_text(text)
        new.rename(file)

    def _reload(self) -> None:
        self.generation += 1
        self.generations.add(str(self.generation))
        folder = pathlib.Path(self._daemon.folder)
        self._write(world.configuration(self._ports, self.generation, folder, self._address, self._user))
        answer = self.ask("reload")
        if not answer["ok"]:
            self.troubles.append(f"reload: {answer['problems']}")

    def _reload_wrong(self) -> None:
        file = self._daemon.conf / "test.toml"
        good = file.read_text()
        self._write(good.replace("max_per_ip =", "max_per_ips =", 1))
        if self.ask("reload")["ok"]:
            self.troubles.append("a wrong configuration was taken on")
        self._write(good)

    def _change_user(self) -> None:
        self._user = world.USERS[self._user == world.USERS[0]]
        self._reload()

    def _worker(self, name: str) -> int:
        """A service's worker, or 0."""
        services = self.ask("status")["services"]
        return services[name]["pid"] or 0  # type: ignore[index]

    def _kill_worker(self) -> None:
        if pid := self._worker("victim"):
            self.slack["victim"] += 1
            os.kill(pid, signal.SIGKILL)

    def _kill_logger(self) -> None:
        for pid in daemons.children(self._daemon.process.pid):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if b"exec cat" in (observer.PROC / f"{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
                    return

    def _kill_cluster(self) -> None:
        cluster: dict[str, int] = self.ask("status")["cluster"]  # type: ignore[assignment]
        if cluster["pid"]:
            os.kill(cluster["pid"], signal.SIGKILL)

    def _flush_engine(self) -> None:
        self._engine.ask("FLUSHALL")

    def _stop_engine(self) -> None:
        self._engine.halt()
        time.sleep(self._chance.random())
        self._engine.go_on()

    def _exhaust_descriptors(self) -> None:
        self._limit("nofile", lambda pid: len(os.listdir(f"/proc/{pid}/fd")), 20000)

    def _exhaust_processes(self) -> None:
        self._limit("nproc", lambda _: 1, 10000)

    def _limit(self, which: str, low: Callable[[int], int], high: int) -> None:
        """Take something away from a worker for a moment, as its user: root may lack the capability."""
        pid = self._worker("steady")
        for value in (low(pid), high):
            as_user = ["setpriv", f"--reuid={world.USERS[0]}", f"--regid={world.USERS[0]}", "--clear-groups"]
            subprocess.run([*as_user, "prlimit", f"--pid={pid}", f"--{which}={value}:"], check=True)
            time.sleep(0.3)

    def _silence(self) -> None:
        self._server.lose = 200

    def _lie(self) -> None:
        """Forge answers, and say what is not so of clients that are listed: never that others are."""
        forged = dnsservers.Reply(
            records=("A 127.0.0.2",), forged=self._chance.choice(["id", "port", "question"])
        )
        self._server.says("*.6.127.bl.example", "A", forged, dnsservers.NOT_FOUND)
        self._server.says("*.7.127.bl.example", "A", dnsservers.Reply(rcode="SERVFAIL"))

    def _garble(self) -> None:
        self.tell_truth()
        garbage = self._chance.randbytes(40)
        self._server.says("*.7.127.bl.example", "A", dnsservers.Reply(garbage=garbage))
