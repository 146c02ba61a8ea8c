"""A daemon whose configuration a test changes: nobody but the test lets it reload."""

import contextlib
import pathlib
import socket
from collections.abc import Iterator
from typing import Any

from support.running import daemons

from tcpdconf.daemon.control import client as control_client

ALONE = "[daemon]\nwatch = false\n"
HOLD = """program = ["/bin/sh", "-c", "echo $WORD; read line; echo $line"]"""


def service(port: int, settings: str = HOLD, *, name: str = "test", limits: str = "", more: str = "") -> str:
    """A service with one listener."""
    return f"""
        [services.{name}]
        {settings}
        listeners = [{{ address = "127.0.0.1", port = {port}{more} }}]
        [services.{name}.limits]
        {limits}
    """


class Daemon(daemons.Daemon):
    """Reloads on command; its own configuration stands before what it is given."""

    def __init__(self, folder: pathlib.Path, text: str, **more: Any) -> None:  # noqa: ANN401 (as Daemon's)
        super().__init__(folder, ALONE + text, **more)

    def ask(self, command: str) -> dict[str, Any]:
        """Return the daemon's answer to a command."""
        return control_client.ask(str(self.folder / "run"), {"command": command}, 3 * daemons.SECONDS)

    def change(self, text: str, own: str = ALONE) -> list[str]:
        """Take on another configuration; the services that have changed."""
        self.write(text, own)
        return self.reload()

    def write(self, text: str, own: str = ALONE) -> None:
        """Write another configuration."""
        (self.conf / "test.toml").write_text(own + text)

    def reload(self) -> list[str]:
        """Take on what is written; the services that have changed."""
        answer = self.ask("reload")
        assert answer["ok"], answer["problems"]
        changed: list[str] = answer["changed"]
        return changed

    def refusal(self, text: str) -> list[str]:
        """Why another configuration is not taken on, which log, status and manager tell as well."""
        self.write(text)
        before = len(self.log)
        answer = self.ask("reload")
        assert not answer["ok"]
        said: list[str] = [each["message"] for each in answer["problems"] if each["severity"] == "error"]
        last = self.ask("status")["last_reload"]
        assert (last["ok"], last["problems"], last["changed"]) == (False, answer["problems"], [])
        daemons.until(
            lambda: "error: reload rejected: the previous configuration stays in effect" in self.log[before:],
            "the log",
        )
        assert all(any(text in line for line in self.log[before:]) for text in said)
        daemons.until(lambda: "last reload rejected: " in self.notified[-1], "the status")
        return said

    def uses(self, name: str = "test") -> dict[str, Any]:
        """Return a service's part of the status."""
        found: dict[str, Any] = self.ask("status")["services"][name]
        return found


@contextlib.contextmanager
def held(port: int, word: str = "", source: str | None = None) -> Iterator[socket.socket]:
    """A connection whose program has greeted, and which lives until it is said bye."""
    with daemons.connect(port, source=source) as client:
        assert daemons.line(client).decode().strip() == word
        yield client


def lives(client: socket.socket) -> bool:
    """Return whether the program of a held connection goes on; it ends."""
    client.sendall(b"bye\n")
    return daemons.read(client) == b"bye\n"
