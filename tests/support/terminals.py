"""Terminals for programs under test: tmux, which shows what a user would see, and a bare pseudo-terminal."""

import contextlib
import fcntl
import os
import pathlib
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from support import peers
from support.running import daemons

_DEAD: Final = "#{pane_dead}"


class Tmux:
    """A tmux server of the test's own, without anybody's settings; each window has one program."""

    def __init__(self, folder: pathlib.Path, environment: Mapping[str, str]) -> None:
        self.command = ["tmux", "-S", str(folder / "tmux"), "-f", "/dev/null"]
        self.environment = {"PATH": os.defpath, "LANG": "C.UTF-8", "HOME": str(folder), **environment}

    def run(self, *words: str) -> str:
        """Run a command of tmux; what it prints."""
        done = subprocess.run(
            [*self.command, *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=daemons.SECONDS,
            check=True,
        )
        return done.stdout

    def start(self, name: str, columns: int, lines: int, command: Sequence[str]) -> None:
        """Start a program in a terminal of this size, which stays when the program has ended."""
        size = ["-x", str(columns), "-y", str(lines)]
        self.run("new-session", "-d", "-s", name, *size, "cat")
        self.run("set-option", "-t", name, "remain-on-exit", "on")
        self.run("set-option", "-t", name, "remain-on-exit-format", "")
        self.run("set-option", "-t", name, "status", "off")
        self.run("resize-window", "-t", name, *size)
        self.run("respawn-pane", "-k", "-t", name, *command)

    def ended(self, name: str) -> bool:
        """Return whether the program has ended."""
        return self.run("display-message", "-p", "-t", name, _DEAD).strip() == "1"

    def screen(self, name: str, *options: str) -> str:
        """The screen as text, without blank lines at its end."""
        text = self.run("capture-pane", "-p", *options, "-t", name)
        return "\n".join(line.rstrip() for line in text.rstrip().split("\n")) + "\n"

    def shown(self, name: str, columns: int, lines: int, command: Sequence[str], *options: str) -> str:
        """Return the screen once this program has ended; it must not have wrapped any line."""
        self.start(name, columns, lines, command)
        daemons.until(lambda: self.ended(name), f"the end of {command}")
        found, joined = self.screen(name, *options), self.screen(name, "-J", *options)
        assert found == joined, f"a line was too long for the terminal\n{found!r}\n{joined!r}"
        return found


@contextlib.contextmanager
def tmux(folder: pathlib.Path, environment: Mapping[str, str]) -> Iterator[Tmux]:
    """A tmux server, ended with the test."""
    peers.need("tmux")
    server = Tmux(folder, environment)
    command = [*server.command, "-D"]
    with subprocess.Popen(command, env=server.environment, stdin=subprocess.DEVNULL) as process:
        try:
            daemons.until((folder / "tmux").exists, "tmux")
            yield server
        finally:
            process.terminate()


class Pty:
    """A pseudo-terminal whose session has one program; `read` is all that it has written."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], size: tuple[int, int]) -> None:
        self._master, self._slave = pty.openpty()
        self.resize(*size)
        self.before = self.settings()
        self.read = b""
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command],
            env=environment,
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
        )

    def settings(self) -> list[Any]:
        """Return the settings of the terminal (termios(3))."""
        return termios.tcgetattr(self._slave)

    def resize(self, columns: int, lines: int) -> None:
        """Give the terminal another size; its program gets SIGWINCH."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def pending(self) -> int:
        """Return the number of unread characters of input."""
        (found,) = struct.unpack("i", fcntl.ioctl(self._slave, termios.FIONREAD, bytes(4)))
        return int(found)

    def press(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._master, keys)

    def await_output(self, enough: Callable[[bytes], object]) -> None:
        """Read until this is enough."""
        end = time.monotonic() + daemons.SECONDS
        while not enough(self.read):
            ready, _, _ = select.select([self._master], [], [], max(0.0, end - time.monotonic()))
            assert ready, self.read
            self.read += os.read(self._master, 65536)

    def close(self) -> int:
        """The exit status of the program, which has ended or is killed now."""
        try:
            return self.process.wait(daemons.SECONDS)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            os.close(self._slave)
            with contextlib.suppress(OSError):  # EIO: nobody has the other side any more
                while data := os.read(self._master, 65536):
                    self.read += data
            os.close(self._master)
