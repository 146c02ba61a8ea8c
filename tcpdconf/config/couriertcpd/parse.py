"""Translates couriertcpd's command line into a service: the entry point of this package.

It follows couriertcpd(8) and the observed behaviour of the program, whose defaults are written out. Every
difference is a note. -stop and -restart are parsed without importing any model.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from tcpdconf.config.couriertcpd import grammar

if TYPE_CHECKING:
    from tcpdconf.config.model import service as service_model
    from tcpdconf.config.model import tables

Note = grammar.Note
CommandLineError = grammar.CommandLineError


class CommandLine(NamedTuple):
    """Holds the request of a command line.

    `service` is None unless action is "run". `log` is the target of couriertcpd's own messages; None is
    standard error. It may be a logger even if the programs' messages go to the client.
    """

    action: grammar.Action
    pid_file: str | None
    service: "service_model.Service | None" = None
    notes: tuple[Note, ...] = ()
    log: "tables.StderrFile | tables.StderrLogger | None" = None


def parse(words: Sequence[str], *, exact: bool, directory: str = "/", group: int = 0) -> CommandLine:
    """Parse couriertcpd's command line; `words` are the arguments after the program's name.

    `exact` keeps couriertcpd's behaviour (any answer of a DNS list is a listing, PROXY version 1 only, an
    IPv6 network is a /120). Otherwise the service gets safe settings and each difference is a note. Relative
    paths are below `directory`; a user given by number keeps `group`.

    Raises:
        CommandLineError: couriertcpd refuses the command line, or no service can behave like it.
    """
    given = grammar.read(words)
    pid_file = given.values.get("pid")
    if given.action != "run":
        return CommandLine(given.action, pid_file)
    for word in words:
        if any("\udc80" <= character <= "\udcff" for character in word):
            raise CommandLineError(f"cannot read {word!a}: it is not UTF-8")

    from tcpdconf.config.couriertcpd import service as service_options  # noqa: PLC0415 (models are slow to import)

    draft = grammar.Draft(given, directory, group, exact, [])
    service, log = service_options.translate(draft)
    return CommandLine("run", pid_file, service, tuple(draft.notes), log)
