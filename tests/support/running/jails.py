"""Debian's fail2ban with the shipped files, and a mail log of its own."""

import os
import pathlib
import shutil
import signal
import subprocess
import time
from typing import Final, Self

from support import peers
from support.running import daemons

SHIPPED: Final = pathlib.Path(__file__).parents[3] / "deploy/fail2ban"
DEBIANS: Final = pathlib.Path("/etc/fail2ban")
JAIL: Final = "tcpdconf-courier"
BANTIME: Final = 6  # seconds; a minute would do as well


def stamped(line: str) -> str:
    """A line of a log, written now."""
    return f"{time.strftime('%b %e %H:%M:%S')} mail {line}\n"


class Fail2ban:
    """A fail2ban of a test, with the shipped files: `log` is the mail log that it reads, `said` its own."""

    def __init__(self, folder: pathlib.Path, command: str, options: str, **more: str) -> None:
        peers.need_root()
        peers.need("fail2ban-server", "fail2ban-client", "setpriv")
        self.log = folder / "mail.log"
        self.log.touch()
        self._said = folder / "fail2ban.log"
        self._conf = folder / "fail2ban"
        shutil.copytree(
            DEBIANS, self._conf, ignore=lambda name, _: os.listdir(name) if name.endswith("jail.d") else []
        )
        shutil.copytree(SHIPPED, self._conf, dirs_exist_ok=True)
        (self._conf / "fail2ban.local").write_text(
            f"[Definition]\nlogtarget = {self._said}\nloglevel = INFO\nsyslogsocket = none\n"
            f"socket = {folder}/f.sock\npidfile = {folder}/f.pid\ndbfile = {folder}/f.sqlite3\n"
        )
        (self._conf / "action.d/tcpdconf.local").write_text(
            f"[Init]\ntcpdconf = {command}\noptions = {options}\n"
        )
        settings = {
            "backend": "polling",
            "logpath": str(self.log),
            "bantime": f"{BANTIME}s",
            "ignoreself": "false",
        }
        lines = [f"{key} = {value}\n" for key, value in (settings | more).items()]
        (self._conf / "jail.local").write_text(f"[{JAIL}]\n{''.join(lines)}")

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "fail2ban-server", "-c", str(self._conf), "-f", "start"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        daemons.until(lambda: f"Jail '{JAIL}' started" in self.said, "fail2ban")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop it as its unit does; once is enough."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(daemons.SECONDS)
        finally:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        """The pid of its server."""
        return self._process.pid

    @property
    def said(self) -> str:
        """Its log so far."""
        return self._said.read_text() if self._said.exists() else ""

    def order(self, *words: str) -> None:
        """Do as `fail2ban-client set JAIL` does."""
        command = ["fail2ban-client", "-c", str(self._conf), "set", JAIL, *words]
        subprocess.run(command, timeout=daemons.SECONDS, check=True, stdout=subprocess.DEVNULL)

    def fails(self, address: str, times: int = 5) -> None:
        """Let somebody fail to log in."""
        with self.log.open("a") as file:
            for _ in range(times):
                file.write(stamped(f"imapd: LOGIN FAILED, user=alice, ip=[::ffff:{address}], port=[1]"))
