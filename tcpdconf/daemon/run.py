"""Implements `tcpdconf run`: loads the configuration, serves it, and reports errors."""

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
    """Serve the services of a directory, or `only` some of them, until stopped; return the exit status.

    The status is 0 after a stop, 78 if the configuration cannot be used, and 1 if the host refuses something.
    `runtime` is the directory of the control socket; None means the usual one. With `take_over` the daemon
    that uses it passes on its listening sockets, and is stopped once this one serves.
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
    """Return the configuration with a warning for each limit of this process that it may exceed."""
    return capacity.with_warnings(loaded, capacity.Host().own("the daemon"))


def chosen(loaded: Loaded, only: Collection[str]) -> Loaded:
    """Return the configuration with only these services, or unchanged if `only` is empty.

    Raises:
        ConfigError: one of the services does not exist or is not enabled.
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
    """Return a path as absolute, from this process's directory, which may be removed later.

    If that directory has no name, because it was removed or may not be looked up, the result leads through
    /proc/self/cwd (proc(5)).
    """
    given = pathlib.Path(path)
    if given.is_absolute():
        return path
    try:
        base = pathlib.Path.cwd()
    except OSError:
        return os.path.join("/proc/self/cwd", path)
    parts = given.parts
    while parts[:1] == ("..",):  # resolved here, since ".." must not lead through a removed directory
        base, parts = base.parent, parts[1:]
    return str(base.joinpath(*parts))


def open_standard() -> None:
    """Open descriptors 0, 1 and 2 if they are closed, so that no socket gets their numbers."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)


def _keep_to_itself() -> None:
    """Make inherited descriptors above 2 not inheritable, so that no program gets them."""
    for fd in procfs.descriptors():
        with contextlib.suppress(OSError):  # the descriptor of the listing itself
            os.set_inheritable(fd, fd <= 2)


def environment() -> dict[str, str]:
    """Return the environment with which this process was started; `os.environ` may have more (PEP 538)."""
    with open("/proc/self/environ", "rb") as file:
        items = (environ.decoded(item).partition("=") for item in file.read().split(b"\0") if item)
        return {name: value for name, _, value in items}
