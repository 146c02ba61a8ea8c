"""Starts a supervisor: for `tcpdconf run` from a directory, for the drop-in from couriertcpd's command line.

`tcpdconf run` reports errors in the log and by its exit status. The drop-in raises `DropInError`, because
its errors go to the terminal from which the daemon was started.
"""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Collection, Sequence
from typing import Final

from tcpdconf.config import dialect, problems
from tcpdconf.config.couriertcpd import parse
from tcpdconf.config.load import load
from tcpdconf.config.load.loaded import Loaded
from tcpdconf.config.model import tables
from tcpdconf.config.model.service import Config, Daemon, Service
from tcpdconf.daemon import capacity
from tcpdconf.daemon.control import runtimedir
from tcpdconf.daemon.control.client import ControlError
from tcpdconf.daemon.control.server import RunningError
from tcpdconf.daemon.process import daemonize, descriptors, log, procfs, signals, spawn
from tcpdconf.daemon.supervisor import takeover
from tcpdconf.daemon.supervisor.main import Order, StartError, Supervisor
from tcpdconf.policy import environ
from tcpdconf.policy.access import table as access_table

EX_CONFIG: Final = 78
_DROP_IN: Final = "couriertcpd"  # the name of the drop-in's only service
_DEADLINE: Final = 8.0  # seconds that its names and lists may take: a lost question is repeated within 5


class DropInError(Exception):
    """Reports why the drop-in cannot start; the text has a line for each reason."""


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
    log.set_format("text")  # until the configuration is known
    try:
        spawn.way()
        found = runtimedir.find(runtime)
        if found is None:
            log.warning("no control socket: neither --runtime-dir nor XDG_RUNTIME_DIR is set")
        else:
            found = absolute(found)
        directory = absolute(directory)
        order = Order(
            lambda: capacity.with_warnings(
                chosen(load.load(directory), only), capacity.Host().own("the daemon")
            ),
            environment(),
            runtime=found,
            predecessor=takeover.Predecessor(found) if take_over else None,
        )
        Supervisor(order, arrived).run()
    except (problems.ConfigError, StartError) as error:
        log.leave_journal()
        log.problems(error.problems)
        return 1 if isinstance(error, StartError) else EX_CONFIG
    except (RunningError, ControlError, spawn.UnknownWayError) as error:
        log.leave_journal()
        log.error(str(error))
        return 1
    log.leave_journal()
    return 0


def run_drop_in(
    words: Sequence[str], arrived: signals.Signals, started: Callable[[], None], *, in_background: bool
) -> None:
    """Serve couriertcpd's command line until stopped; call `started` once connections are accepted.

    Raises:
        DropInError: the command line is not valid, or the host refuses a resource.
    """
    open_standard()
    variables = environment()
    try:
        spawn.way()
        line = parse.parse(words, exact=True, directory=_folder(), group=os.getegid())
        assert line.service is not None  # noqa: S101 (only -stop and -restart have none)
        if in_background:
            daemonize.silence(0, 1, 2)
        if isinstance(line.log, tables.StderrFile):  # a logger is started with its service
            fd = descriptors.log(line.log.file)
            log.redirect(fd)
            os.close(fd)
        loaded = Loaded(_DROP_IN, _drop_in_config(line.service, variables), ())
        log.set_level(loaded.config.daemon.log_level)
        Supervisor(Order(lambda: loaded, variables, dialect.COURIERTCPD, started=started), arrived).run()
    except (parse.CommandLineError, spawn.UnknownWayError) as error:
        raise DropInError(str(error)) from None
    except OSError as error:
        raise DropInError(f"cannot open {error.filename}: {error.strerror}") from None
    except (problems.ConfigError, StartError) as error:
        raise DropInError("\n".join(problem.text for problem in error.problems)) from None


def _folder() -> str:
    """Return the directory for relative paths; "/" if it was removed and therefore has no name."""
    try:
        return os.getcwd()
    except OSError:
        return "/"


def _drop_in_config(service: Service, variables: dict[str, str]) -> Config:
    """Return a configuration with this service; MAXCPERIP in the environment limits every address."""
    changes: dict[str, object] = {"dns": service.dns.model_copy(update={"deadline": _DEADLINE})}
    most = access_table.per_ip_override(variables.items())
    if most is not None:
        changes["limits"] = service.limits.model_copy(update={"max_per_ip": most})
    if isinstance(service.stderr, tables.StderrFile):
        changes["stderr"] = "inherit"  # `run_drop_in` has made that file the daemon's own
    daemon = Daemon(log_level="notice", stop_timeout=0, watch=False)
    return Config(services={_DROP_IN: service.model_copy(update=changes)}, daemon=daemon)


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
            found.append(
                loaded.problem(
                    key, "must be true, because the command line names this service", "not-enabled"
                )
            )
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
