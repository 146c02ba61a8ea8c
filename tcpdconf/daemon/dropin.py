"""Serves a couriertcpd command line: one service, with couriertcpd's ways, until a signal says stop."""

import os
from collections.abc import Callable, Sequence
from typing import Final

from tcpdconf.config import argv, load, model, problems, tables
from tcpdconf.daemon import background, files, log, running, signals, supervisor
from tcpdconf.policy import access, dialect

_NAME: Final = "couriertcpd"
_DEADLINE: Final = 8.0  # seconds that names and lists may take: a lost packet is made up for within 5


class StartError(Exception):
    """It cannot start; the text has a line for each reason."""


def run(
    words: Sequence[str], arrived: signals.Signals, started: Callable[[], None], *, in_background: bool
) -> None:
    """Serve; `started` is called when connections are accepted.

    Raises:
        StartError: the command line is not valid, or the host refuses what it needs.
    """
    running.open_standard()
    environment = running.environment()
    try:
        line = argv.parse(words, exact=True, directory=_folder(), group=os.getegid())
        assert line.service is not None  # noqa: S101 (only -stop and -restart have none)
        _redirect(line.log, in_background=in_background)
        loaded = load.Loaded(_NAME, _config(line.service, environment), ())
        log.set_level(loaded.config.daemon.log_level)
        order = supervisor.Order(lambda: loaded, environment, dialect.COURIERTCPD, started=started)
        supervisor.Supervisor(order, arrived).run()
    except argv.CommandLineError as error:
        raise StartError(str(error)) from None
    except OSError as error:
        raise StartError(f"cannot open {error.filename}: {error.strerror}") from None
    except (problems.ConfigError, supervisor.StartError) as error:
        raise StartError("\n".join(problem.text for problem in error.problems)) from None


def _folder() -> str:
    """What relative names are below; a folder that was removed has no name, and nothing is below it."""
    try:
        return os.getcwd()
    except OSError:
        return "/"


def _redirect(own: "tables.StderrFile | tables.StderrLogger | None", *, in_background: bool) -> None:
    """Make standard error what programs and the daemon itself write to; a logger comes with its service."""
    if in_background:
        background.silence(0, 1, 2)
    if isinstance(own, tables.StderrFile):
        fd = files.log(own.file)
        log.redirect(fd)
        os.close(fd)


def _config(service: model.Service, environment: dict[str, str]) -> model.Config:
    """The configuration around a service; a MAXCPERIP in the environment limits every address."""
    changes: dict[str, object] = {"dns": service.dns.model_copy(update={"deadline": _DEADLINE})}
    most = access.per_ip_override(environment.items())
    if most is not None:
        changes["limits"] = service.limits.model_copy(update={"max_per_ip": most})
    if isinstance(service.stderr, tables.StderrFile):
        changes["stderr"] = "inherit"  # the daemon's own, which is that file
    daemon = model.Daemon(log_level="notice", stop_timeout=0, watch=False)
    return model.Config(services={_NAME: service.model_copy(update=changes)}, daemon=daemon)
