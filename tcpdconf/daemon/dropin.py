"""Serves a couriertcpd command line: one service, with couriertcpd's behaviour, until a signal stops it."""

import os
from collections.abc import Callable, Sequence
from typing import Final

from tcpdconf.config import dialect, problems
from tcpdconf.config.couriertcpd import parse
from tcpdconf.config.load.loaded import Loaded
from tcpdconf.config.model import tables
from tcpdconf.config.model.service import Config, Daemon, Service
from tcpdconf.daemon import run as daemon_run
from tcpdconf.daemon.process import daemonize, descriptors, log, signals
from tcpdconf.daemon.supervisor import main as supervisor
from tcpdconf.daemon.supervisor.main import Order, Supervisor
from tcpdconf.policy.access import table as access_table

_NAME: Final = "couriertcpd"
_DEADLINE: Final = 8.0  # seconds that names and lists may take: a lost question is repeated within 5


class DropInError(Exception):
    """Reports why the daemon cannot start; the text has a line for each reason."""


def run(
    words: Sequence[str], arrived: signals.Signals, started: Callable[[], None], *, in_background: bool
) -> None:
    """Serve until stopped; call `started` once connections are accepted.

    Raises:
        DropInError: the command line is not valid, or the host refuses a resource.
    """
    daemon_run.open_standard()
    environment = daemon_run.environment()
    try:
        line = parse.parse(words, exact=True, directory=_folder(), group=os.getegid())
        assert line.service is not None  # noqa: S101 (only -stop and -restart have none)
        _redirect(line.log, in_background=in_background)
        loaded = Loaded(_NAME, _config(line.service, environment), ())
        log.set_level(loaded.config.daemon.log_level)
        order = Order(lambda: loaded, environment, dialect.COURIERTCPD, started=started)
        Supervisor(order, arrived).run()
    except parse.CommandLineError as error:
        raise DropInError(str(error)) from None
    except OSError as error:
        raise DropInError(f"cannot open {error.filename}: {error.strerror}") from None
    except (problems.ConfigError, supervisor.StartError) as error:
        raise DropInError("\n".join(problem.text for problem in error.problems)) from None


def _folder() -> str:
    """Return the directory for relative paths; "/" if it was removed and therefore has no name."""
    try:
        return os.getcwd()
    except OSError:
        return "/"


def _redirect(own: "tables.StderrFile | tables.StderrLogger | None", *, in_background: bool) -> None:
    """Redirect standard error to the log file, if there is one; in the background silence 0, 1 and 2 first.

    A logger is started with its service.
    """
    if in_background:
        daemonize.silence(0, 1, 2)
    if isinstance(own, tables.StderrFile):
        fd = descriptors.log(own.file)
        log.redirect(fd)
        os.close(fd)


def _config(service: Service, environment: dict[str, str]) -> Config:
    """Return a configuration with this service; MAXCPERIP in the environment limits every address."""
    changes: dict[str, object] = {"dns": service.dns.model_copy(update={"deadline": _DEADLINE})}
    most = access_table.per_ip_override(environment.items())
    if most is not None:
        changes["limits"] = service.limits.model_copy(update={"max_per_ip": most})
    if isinstance(service.stderr, tables.StderrFile):
        changes["stderr"] = "inherit"  # `_redirect` has made that file the daemon's own
    daemon = Daemon(log_level="notice", stop_timeout=0, watch=False)
    return Config(services={_NAME: service.model_copy(update=changes)}, daemon=daemon)
