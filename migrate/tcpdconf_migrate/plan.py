"""Plans named services from command lines. Pure, except for the host's port names."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import pydantic

from tcpdconf.config import host, problems
from tcpdconf.config.couriertcpd import parse
from tcpdconf.config.load import validation_errors
from tcpdconf.config.model.service import Service, Settings
from tcpdconf_migrate import commandline

# a port's number and its names in the services database
_PORTS: Final = {
    25: "smtp", 110: "pop3", 143: "imap", 465: "smtps", 587: "submission", 993: "imaps", 995: "pop3s",
    "imap2": "imap", "submissions": "smtps", "ssmtp": "smtps", "urd": "smtps",
}  # fmt: skip
_PROGRAMS: Final = {
    "courieresmtpd": "smtp", "imaplogin": "imap", "imapd": "imap", "courierpop3login": "pop3",
    "pop3login": "pop3", "courierpop3d": "pop3", "pop3d": "pop3",
}  # fmt: skip
_NEED_ROOT: Final = frozenset({"imaplogin", "courierpop3login", "pop3login"})
_NO_NAME: Final = re.compile(r"[^A-Za-z0-9_.-]+")


class Planned(NamedTuple):
    """Holds a service to be written, and the command line that it comes from."""

    name: str
    service: Service
    notes: tuple[parse.Note, ...]
    command: commandline.Command


class Plan(NamedTuple):
    """Holds all services, and the command lines that cannot become one, each with the reason."""

    services: tuple[Planned, ...]
    refused: tuple[commandline.Unread, ...]


def plan(
    commands: Iterable[commandline.Command], *, exact: bool, name: str | None = None, more_ports: int = 0
) -> Plan:
    """Return the services that the command lines become.

    Args:
        commands: in the order in which they are written.
        exact: True to keep couriertcpd's behaviour wherever it can be expressed (see `parse.parse`).
        name: the name of the service, if there is only one.
        more_ports: added to every port number, to try the services beside couriertcpd.
    """
    services: list[Planned] = []
    refused: list[commandline.Unread] = []
    for command in commands:
        try:
            service, notes = _service(command, exact=exact)
        except parse.CommandLineError as error:
            refused.append(commandline.Unread(command.origin, str(error)))
            continue
        called = _unused(name or command.name or name_of(service), services)
        services.append(Planned(called, _elsewhere(service, more_ports), notes, command))
    return Plan(tuple(services), tuple(refused))


def _service(command: commandline.Command, *, exact: bool) -> tuple[Service, tuple[parse.Note, ...]]:
    """Return the service of a command line and its surroundings.

    Raises:
        CommandLineError: couriertcpd refuses it, no service can behave like it, or it starts nothing.
    """
    around = dict(command.settings)
    line = parse.parse(command.words[1:], exact=exact, directory=around.get("directory", "/"))
    if line.service is None:
        raise parse.CommandLineError(f"starts nothing, because it has -{line.action}")
    said: dict[str, Any] = line.service.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    if "stderr" in said:  # -stderrlogger reads the programs' messages, before a logger around couriertcpd
        around.pop("stderr", None)
    if around.get("user") in {"root", 0}:  # root can become the user and group of the options
        for key in ("user", "group") if "user" in said else {"group"} & said.keys():
            around.pop(key, None)
    elif "user" in around:  # another user cannot become the user or group of an option
        said.pop("group", None)
    table = {key: value for key, value in (said | around).items() if value not in ({}, [])}
    known = "inherit_environment" in around  # the programs' environment
    notes = [note for note in line.notes if note.key[:1] != ("inherit_environment",) or not known]
    login = next((word for word in said["program"] if word.rpartition("/")[2] in _NEED_ROOT), None)
    if login is not None and "user" not in table:
        table["user"] = "root"
        why = "needs root, because it changes to the user who logs in"
        notes.append(parse.Note("changed", login.rpartition("/")[2], why, ("user",)))
    try:
        service = Service.model_validate(table, by_alias=True, by_name=False)
    except pydantic.ValidationError as error:
        found = next(validation_errors.findings(error, table, Settings, ("services", "couriertcpd")))
        raise parse.CommandLineError(f"{problems.dotted(found.key[2:])}: {found.text}") from None
    logged = "stderr" in said  # then the standard error of couriertcpd itself does not matter
    return service, (*notes, *(note for note in command.notes if not (logged and note.key == ("stderr",))))


def name_of(service: Service) -> str:
    """Return the usual name for a service: by its port, or else by its program."""
    for listener in service.listeners:
        found = _PORTS.get(listener.port, listener.port)
        if found in _PORTS.values():
            return str(found)
    words = [word.rpartition("/")[2] for word in service.program]
    over_tls = words[0] == "couriertls"
    for word in words:
        if word in _PROGRAMS:
            return _PROGRAMS[word] + "s" * over_tls
    return _NO_NAME.sub("-", words[0]).strip("-._") or "service"


def _unused(name: str, services: Sequence[Planned]) -> str:
    """Return the name, with a number added if another service has it already."""
    taken = {planned.name for planned in services}
    candidates = [name, *(f"{name}-{number}" for number in range(2, len(taken) + 2))]
    return next(candidate for candidate in candidates if candidate not in taken)


def _elsewhere(service: Service, more: int) -> Service:
    """Return the same service on ports that are higher by `more`."""
    if not more:
        return service
    listeners = tuple(
        listener.model_copy(update={"port": host.port_number(listener.port) + more})
        for listener in service.listeners
    )
    return service.model_copy(update={"listeners": listeners})
