"""What `tcpdconf run` does: load, serve, and say what went wrong."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Collection
from typing import Final

from tcpdconf.config import problems
from tcpdconf.config.load import load
from tcpdconf.config.load.loaded import Loaded
from tcpdconf.daemon import capacity
from tcpdconf.daemon.control import runtimedir
from tcpdconf.daemon.control.client import ControlError
from tcpdconf.daemon.control.server import RunningError
from tcpdconf.daemon.process import log, procfs, signals
from tcpdconf.daemon.supervisor import takeover
from tcpdconf.daemon.supervisor.main import Order, StartError, Supervisor
from tcpdconf.policy import environ

EX_CONFIG: Final = 78


def run(
    directory: str, only: Collection[str], runtime: str | None, arrived: signals.Signals, *, take_over: bool
) -> int:
    """Serve the services of a directory, or `only` some of them; returns the exit status.

    `runtime` is the directory of the control socket, if another one than usual; with `take_over` the daemon
    that has it is asked for its listening sockets, and stopped when this one serves.
    0 after a stop, 78 when the configuration cannot be used, 1 when the host refuses something else.
    """
    open_standard()
    _keep_to_itself()
    try:
        found = runtimedir.find(runtime)
        if found is None:
            log.warning("no control socket: this user has no runtime directory")
        else:
            found = absolute(found)
        directory = absolute(directory)
        order = Order(
            lambda: _judged(chosen(load.load(directory), only)),
            environment(),
            runtime=found,
            predecessor=takeover.Predecessor(found) if take_over else None,
        )
        Supervisor(order, arrived).run()
    except problems.ConfigError as error:
        log.excerpt("error", problems.render(error.problems))
        return EX_CONFIG
    except StartError as error:
        log.excerpt("error", problems.render(error.problems))
        return 1
    except (RunningError, ControlError) as error:
        log.error(str(error))
        return 1
    return 0


def _judged(loaded: Loaded) -> Loaded:
    """The configuration with warnings of what is more than this process may have."""
    return capacity.with_warnings(loaded, capacity.Host().own("the daemon"))


def chosen(loaded: Loaded, only: Collection[str]) -> Loaded:
    """The configuration with only these services; without names as it is.

    Raises:
        ConfigError: one of them does not exist or is not enabled.
    """
    if not only:
        return loaded
    enabled = loaded.config.enabled()
    found = []
    for name in only:
        if name in loaded.config.services and name not in enabled:
            key = ("services", name, "enabled")
            found.append(loaded.problem(key, "must be true for a service that is to run", "not-enabled"))
        elif name not in enabled:
            text = f'there is no service "{name}"; there are: {", ".join(enabled)}'
            found.append(loaded.problem(("services",), text, "unknown-service"))
    if found:
        raise problems.ConfigError(found)
    services = {name: service for name, service in enabled.items() if name in only}
    return dataclasses.replace(loaded, config=loaded.config.model_copy(update={"services": services}))


def absolute(path: str) -> str:
    """A path from the directory that this process was started in, which may be removed later.

    Where that has no name, because it was removed or may not be looked up, it is reached by way of proc(5).
    """
    given = pathlib.Path(path)
    if given.is_absolute():
        return path
    try:
        base = pathlib.Path.cwd()
    except OSError:
        return os.path.join("/proc/self/cwd", path)
    parts = given.parts
    while parts[:1] == ("..",):  # they may lead through the directory that is removed
        base, parts = base.parent, parts[1:]
    return str(base.joinpath(*parts))


def open_standard() -> None:
    """Make sure that descriptors 0, 1 and 2 are open, so that no socket gets their numbers."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)


def _keep_to_itself() -> None:
    """Let no descriptor that this process was started with reach a program."""
    for fd in procfs.descriptors():
        with contextlib.suppress(OSError):  # the listing's own
            os.set_inheritable(fd, fd <= 2)


def environment() -> dict[str, str]:
    """The environment that this process was started with; the interpreter adds to its own (PEP 538)."""
    with open("/proc/self/environ", "rb") as file:
        items = (environ.decoded(item).partition("=") for item in file.read().split(b"\0") if item)
        return {name: value for name, _, value in items}
