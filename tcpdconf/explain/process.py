"""Explains a connection in a process of its own that has the service's rights.

This process opens the files with its own rights, as the supervisor does. A child that has become the
service's user reads them and the answers of name servers, as a worker does. It reports in JSON, which is not
trusted either: it is only shown.
"""

import ipaddress
import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from tcpdconf.config import host, problems
from tcpdconf.config.load.loaded import Loaded
from tcpdconf.daemon.control import runtimedir
from tcpdconf.daemon.control.client import ControlConnection, ControlError
from tcpdconf.daemon.descriptors import WorkerDescriptors
from tcpdconf.daemon.guard import bans
from tcpdconf.daemon.messages import wire
from tcpdconf.daemon.messages.assignment import FROM_READER, Assignment, Failure, Unusable
from tcpdconf.daemon.process import child, log, privileges
from tcpdconf.daemon.worker.files import ServiceFiles
from tcpdconf.explain import decide
from tcpdconf.explain import listener as explain_listener
from tcpdconf.explain import report as explain_report
from tcpdconf.explain.listener import Request

if TYPE_CHECKING:
    from tcpdconf.policy import connection

_SECONDS: Final = 60.0  # for everything
_LARGEST: Final = 1 << 24  # bytes that an explanation may have
_NOTHING: Final = "the process that decides ended without a result"


class ExplainError(Exception):
    """Reports that the deciding process has given no explanation."""


def explain(
    loaded: Loaded,
    request: Request,
    daemon: dict[str, str],
    live: decide.Live | None = None,
    banned: decide.Banned | None = None,
) -> dict[str, Any]:
    """Return the explanation of a connection in the form of `report.data`.

    Args:
        loaded: the configuration; it has the service of the request.
        request: the connection to explain.
        daemon: the environment that the daemon is started with.
        live: what the running daemon knows of its services; None: no daemon was asked.
        banned: the ban of the client, if there is one.

    Raises:
        ConfigError: the service could not be served at all.
        ExplainError: a defect, or it took too long.
    """
    given = WorkerDescriptors()
    try:
        service = loaded.config.services[request.service]
        given.open(service, host.identity(service), loaded.config.dns_chains)
        if given.failures:
            raise _problems(loaded, request, given.failures)
        task = Assignment(request.service, loaded.config, daemon, tuple(given.roles))
        files = ServiceFiles(task, zip(given.roles, given.fds, strict=True))
        said = _output(lambda: _decided(loaded, request, files, live, banned), set(given.fds))
    finally:
        given.close()
    found = _object(said)
    if "failures" not in found:
        return found
    try:
        failures = wire.parsed(said, FROM_READER).failures
    except wire.MalformedError:
        raise ExplainError(_NOTHING) from None
    raise _problems(loaded, request, failures)


def live(
    runtime_directory: str | None, conf: str, addresses: list[str], service: str = "", client: str = ""
) -> decide.Live | None:
    """Return what the running daemon knows of its services, with the penalties of these addresses.

    If a service counts the connections of all hosts, that has those of the client on other hosts, too.

    Return None if no daemon runs this configuration, or it cannot be asked.
    """
    try:
        with ControlConnection(runtimedir.find(runtime_directory)) as daemon:
            status = daemon.ask({"command": "status", "about": addresses})
            if os.path.realpath(status["config"]["dir"]) != os.path.realpath(conf):
                return None
            answer = daemon.ask({"command": "connections"})
            other_hosts = None
            if service and status.get("cluster") is not None:
                asked = {"command": "elsewhere", "service": service, "address": client}
                other_hosts = daemon.ask(asked).get("counts")
    except ControlError:
        return None
    found: dict[str, list[connection.Endpoint]] = {}
    for each in answer["connections"]:
        found.setdefault(each["service"], []).append(explain_listener.end(each["peer"], 0))
    penalties = {name: each.get("penalties") for name, each in status["services"].items()}
    groups = {name: each.get("group") for name, each in status["services"].items()}
    return decide.Live(found, penalties, other_hosts=other_hosts, groups=groups)


def ban(
    runtime_directory: str | None, conf: str, service: str, client: "connection.Endpoint"
) -> decide.Banned | None:
    """Return the widest ban of a client, in the form of the command `bans`, or None.

    The running daemon is asked if it runs this configuration. Otherwise the file of bans tells, if it can be
    read.
    """
    try:
        with ControlConnection(runtimedir.find(runtime_directory)) as daemon:
            theirs = daemon.ask({"command": "status"})["config"]["dir"]
            if os.path.realpath(theirs) == os.path.realpath(conf):
                found = daemon.ask({"command": "bans", "address": client.text})["bans"]
                return next((each for each in found if each["service"] in {None, service}), None)
    except ControlError:
        pass
    try:
        kept = bans.read(os.environ)
    except (OSError, ValueError):
        return None
    address = ipaddress.ip_address(client.text)
    covering = [each for each in kept if each.service in {None, service} and address in each.network]
    widest = min(covering, key=lambda each: each.network.prefixlen, default=None)
    return None if widest is None else widest.data()


def _problems(loaded: Loaded, request: Request, failures: Iterable[Failure]) -> problems.ConfigError:
    return problems.ConfigError(
        loaded.problem(("services", request.service, *failure.key), failure.text, "cannot-use")
        for failure in failures
    )


def _decided(
    loaded: Loaded,
    request: Request,
    files: ServiceFiles,
    live: decide.Live | None,
    banned: decide.Banned | None,
) -> bytes:
    """Decide with the service's rights; return the explanation or the failures as JSON."""
    identity = host.identity(loaded.config.services[request.service])
    if privileges.may_become(identity):
        privileges.become(identity)
    else:
        privileges.give_up_capabilities()
    log.set_level("error")  # the result of a list's test is reported as a step
    try:
        return json.dumps(explain_report.data(decide.decide(loaded, request, files, live, banned))).encode()
    except decide.CannotServeError as error:
        return wire.written(Unusable(tuple(error.failures)))


def _output(work: Callable[[], bytes], keep: set[int]) -> bytes:
    """Run `work` in a child, and return its output.

    Raises:
        ExplainError: the output takes too long, or is too long.
    """
    reading, writing = os.pipe()

    def run() -> int:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(work())
        return 0

    try:
        pid = child.fork(run, keep | {writing})
        os.close(writing)
        try:
            return _read(reading)
        finally:
            os.kill(pid, signal.SIGKILL)  # it has written everything, or never will
            os.waitpid(pid, 0)
    finally:
        os.close(reading)


def _object(said: bytes) -> dict[str, Any]:
    """Return a child's output as a JSON object.

    Raises:
        ExplainError: the output is no JSON object.
    """
    try:
        found = json.loads(said)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ExplainError(_NOTHING)
    return found


def _read(pipe: int) -> bytes:
    """Return all bytes up to the end of the pipe.

    Raises:
        ExplainError: it takes too long, or there are too many bytes.
    """
    found = b""
    until = time.monotonic() + _SECONDS
    while len(found) <= _LARGEST:
        if not select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
            raise ExplainError(f"no result within {_SECONDS:g} s")
        data = os.read(pipe, 65536)
        if not data:
            return found
        found += data
    raise ExplainError(f"the result has more than {_LARGEST} bytes")
