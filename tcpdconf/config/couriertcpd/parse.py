"""couriertcpd's command line as a service: the door of the modules argv*. Pure but for names of ports.

What is read is couriertcpd(8) and what the program was seen to do (its defaults are written out); what
cannot be kept, or better is not, is a note. -stop and -restart are read without importing any model.
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
    """What a command line asks for.

    `service` is None unless action is "run". `log` is where couriertcpd's own messages go: None is its
    standard error. That may be a logger although the programs' go to the client.
    """

    action: grammar.Action
    pid_file: str | None
    service: "service_model.Service | None" = None
    notes: tuple[Note, ...] = ()
    log: "tables.StderrFile | tables.StderrLogger | None" = None


def parse(words: Sequence[str], *, exact: bool, directory: str = "/", group: int = 0) -> CommandLine:
    """Read couriertcpd's command line, `words` being those behind the program's name.

    `exact` keeps what couriertcpd does (any answer of a DNS list is a listing, PROXY of version 1 only, an
    IPv6 network is a /120); otherwise the service is the safe one and each difference is a note. Relative
    paths are below `directory`; `group` is what a user that is a number keeps.

    Raises:
        CommandLineError: couriertcpd refuses the command line, or no service can be like it.
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
