"""Opens control.sock, and guard.sock for the group that the configuration names."""

from collections.abc import Mapping
from typing import Any, Final

from tcpdconf.config import host
from tcpdconf.daemon.control import runtimedir
from tcpdconf.daemon.control.server import Command, Control, Reply
from tcpdconf.daemon.process import log, loop

GUARDED: Final = ("ban", "unban", "bans")  # the commands of guard.sock


class ControlSockets:
    """Serves `commands` on control.sock, and some of them on guard.sock.

    `runtime` is the directory of the sockets; without one (None) there are no sockets.
    """

    def __init__(self, events: loop.Loop, runtime: str | None, commands: Mapping[str, Command]) -> None:
        self._loop = events
        self._runtime = runtime
        self._commands = commands
        self._control: Control | None = None
        self._guard: Control | None = None
        self._group: int | None = None  # the group of `_guard`

    def open(self, *, replace: bool) -> None:
        """Listen on control.sock, if there is a runtime directory and the host allows it.

        Raises:
            RunningError: another daemon has this runtime directory, and `replace` is False.
        """
        if self._runtime is None:
            return
        try:
            self._control = Control(self._loop, self._runtime, self._commands, replace=replace)
        except OSError as error:
            log.warning(f"no control socket: {self._runtime}: {error.strerror}")

    def follow(self, named: int | str | None) -> None:
        """Give guard.sock to the group that the configuration names; close it if that is None.

        If the group changes, connected clients are dropped.
        """
        group = None
        try:
            group = None if named is None else host.group_number(named)
        except host.UnknownNameError as error:  # it was known when the configuration was loaded
            log.warning(f"no guard socket: {error}")
        if self._runtime is None or self._control is None or group == self._group:
            return
        former, self._guard, self._group = self._guard, None, None
        if group is not None:
            self._open_guard(self._runtime, group)
        if former is not None:
            former.close(dismiss=True)

    def _open_guard(self, runtime: str, group: int) -> None:
        guarded = {name: _without_force(each) for name, each in self._commands.items() if name in GUARDED}
        try:
            # control.sock is this daemon's, so an existing guard.sock belongs to a daemon that has ended or
            # will end
            self._guard = Control(
                self._loop, runtime, guarded, name=runtimedir.GUARD, group=group, replace=True
            )
        except OSError as error:
            log.warning(f"no guard socket: {runtime}: {error.strerror}")
            return
        self._group = group
        if not self._guard.reachable:
            log.warning(f"the mode of {runtime} does not let group {group} through to {runtimedir.GUARD}")

    def close(self) -> None:
        """Close both sockets; clients of control.sock see the exit of the daemon."""
        for each in (self._guard, self._control):
            if each is not None:
                each.close()


def _without_force(command: Command) -> Command:
    """Return a command that refuses requests with `force`: only root may ban the host's own addresses."""

    def run(request: dict[str, Any], reply: Reply) -> None:
        if request.get("force"):
            reply({"ok": False, "error": f"{runtimedir.GUARD} does not take force: ask over control.sock"})
        else:
            command(request, reply)

    return run
