"""Checks a configuration against this host: users, port names, files, programs, addresses, interfaces.

It reads only settings of the kernel, binds no socket and starts no program.
"""

import importlib.util
import itertools
import os
import socket
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from tcpdconf.config import collisions, host, positions, problems
from tcpdconf.config.load.loaded import Loaded
from tcpdconf.config.model import notations, tables
from tcpdconf.config.model.service import Service, ServiceSettings
from tcpdconf.config.near import near

Services = Mapping[str, ServiceSettings]

_DENIED: Final = "Permission denied"
_MANY: Final = 20_000  # names in a folder that are compared, at most
_HASTY: Final = 3  # seconds; a lost first packet of a PROXY header is sent again after one
# they start as root and become the user who has logged in
_NEED_ROOT: Final = frozenset({"imaplogin", "pop3login"})
# Ports by the side that speaks first. TLS from the start and HTTP begin with the client.
_CLIENT_FIRST: Final = frozenset({80, 443, 465, 563, 636, 853, 990, 993, 995, 8080, 8443})
_SERVER_FIRST: Final = frozenset({21, 24, 25, 110, 119, 143, 587, 2525, 4190})
_FAST_OPEN: Final = "/proc/sys/net/ipv4/tcp_fastopen"
_SERVERS: Final = 2  # the bit that allows it to servers
_BINARIES: Final = (
    "/usr/sbin",
    "/usr/bin",
    "/usr/lib/courier",
    "/usr/lib/courier/courier",
    "/usr/local/sbin",
    "/usr/local/bin",
)


def check(loaded: Loaded, services: Services | None = None) -> list[problems.Problem]:
    """Return the problems of the enabled services on this host: errors and warnings.

    `services` defaults to those of the configuration. For an incomplete service only errors are returned: a
    key that is missing so far is no reason for a warning.
    """
    services = dict(loaded.config.services) if services is None else services
    enabled = {name: service for name, service in services.items() if service.enabled}
    found: list[problems.Problem] = []
    for name, service in enabled.items():
        key: positions.Key = ("services", name)
        mine = [
            *_identity(loaded, key, service),
            *_files(loaded, key, service),
            *_listeners(loaded, key, service),
            *_transport(loaded, key, service),
            *_program(loaded, key, service),
        ]
        whole = isinstance(service, Service)
        found += [problem for problem in mine if whole or problem.severity == "error"]
    pairs = collisions.pairs(_bound(enabled))
    found += [*_control_group(loaded), *_http(loaded, enabled), *_cluster(loaded)]
    return [*found, *(_collision(loaded, bound, other) for bound, other in pairs)]


def _control_group(loaded: Loaded) -> Iterator[problems.Problem]:
    group = loaded.config.daemon.control_group
    try:
        if group is not None:
            host.group_number(group)
    except host.UnknownNameError as error:
        key = ("daemon", "control_group")
        yield loaded.problem(key, str(error), error.code, hint=error.hint, meant=error.meant)


def _http(loaded: Loaded, services: Services) -> Iterator[problems.Problem]:
    settings, key = loaded.config.daemon.http, ("daemon", "http")
    if settings is None:
        return
    try:
        if host.own_identity(settings.user).uid == 0:
            hint = 'leave it out, or write user = "NAME", an account for nothing else'
            yield loaded.problem(
                (*key, "user"), "answers the network as root", "runs-as-root", "warning", hint=hint
            )
    except host.UnknownNameError as error:
        yield loaded.problem((*key, "user"), str(error), error.code, hint=error.hint, meant=error.meant)
    try:
        if settings.group is not None:
            host.group_number(settings.group)
    except host.UnknownNameError as error:
        yield loaded.problem((*key, "group"), str(error), error.code, hint=error.hint, meant=error.meant)
    if isinstance(settings.listen, str):
        return
    address, port = settings.listen
    for bound in _bound(services):
        if bound.port == port and collisions.overlap(bound.address, collisions.unmapped(address)):
            text = f"{settings.listen} is taken by {_listening(bound)}"
            yield loaded.problem((*key, "listen"), text, "duplicate-listener")
            return


def _cluster(loaded: Loaded) -> Iterator[problems.Problem]:
    settings, key = loaded.config.cluster, ("cluster",)
    if settings is None:
        return
    if importlib.util.find_spec("hiredis") is None:
        text = "needs the Python module hiredis, which is not installed"
        yield loaded.problem(key, text, "missing-module", hint="install tcpdconf[cluster], or hiredis itself")
    try:
        if host.own_identity(settings.user).uid == 0:
            hint = 'leave it out, or write user = "NAME", an account for nothing else'
            text = "parses what the engine sends as root"
            yield loaded.problem((*key, "user"), text, "runs-as-root", "warning", hint=hint)
    except host.UnknownNameError as error:
        yield loaded.problem((*key, "user"), str(error), error.code, hint=error.hint, meant=error.meant)
    for name, path in settings.files.items():
        if reason := _unreadable(path, directory=False):
            yield _unread(loaded, (*key, name), path, reason)
    if settings.is_readable_on_the_way:
        text = "others on the network can read the password and the clients' addresses"
        hint = "use rediss://, or a tunnel to an address of this host"
        yield loaded.problem((*key, "url"), text, "unencrypted-engine", "warning", hint=hint)


def _identity(loaded: Loaded, key: positions.Key, service: ServiceSettings) -> Iterator[problems.Problem]:
    for error in _unknown_names(service):
        yield loaded.problem((*key, *error.key), str(error), error.code, hint=error.hint, meant=error.meant)
    if service.user is None and os.geteuid() == 0:
        yield loaded.problem(key, "runs as root", "runs-as-root", "warning", hint=_root_hint(service))


def _root_hint(service: ServiceSettings) -> str:
    """Return advice for a service without a user: some programs have to start as root."""
    names = {os.path.basename(word) for word in service.program or ()}
    needing = sorted(names & _NEED_ROOT)
    if needing:
        return f'{needing[0]} needs root to become the user who logs in: write user = "root"'
    return (
        'write user = "NAME", the account of the program, or '
        'user = "root" if the program changes its user itself'
    )


def _unknown_names(service: ServiceSettings) -> Iterator[host.UnknownNameError]:
    """Yield the errors that `identity` raises for the user and for each group, each on its own."""
    without = {"user": None, "group": None, "supplementary_groups": ()}
    parts: list[dict[str, object]] = [
        {"user": service.user, "group": None if service.group is None else 0},
        {"group": service.group},
    ]
    for part in parts:
        try:
            host.identity(service.model_copy(update=without | part))
        except host.UnknownNameError as error:
            yield error
    for index, group in enumerate(service.supplementary_groups):
        try:
            host.group_number(group, ("supplementary_groups", index))
        except host.UnknownNameError as error:
            yield error


def _files(loaded: Loaded, key: positions.Key, service: ServiceSettings) -> Iterator[problems.Problem]:
    if not Path(service.directory).is_dir():
        is_there = Path(service.directory).exists()
        text = (
            f"{service.directory} is not a directory"
            if is_there
            else f"there is no directory {service.directory}"
        )
        yield _missing(loaded, (*key, "directory"), text, service.directory)
    for index, source in enumerate(service.access):
        if source.file is not None and (reason := _unreadable(source.file, directory=True)):
            yield _unread(loaded, (*key, "access", index, "file"), source.file, reason)
    for index, file in enumerate(service.environment_files):
        where = (*key, "environment_files", index, "path")
        if reason := _unreadable(file.path, directory=False):
            yield _unread(loaded, where, file.path, reason)


def _unread(loaded: Loaded, key: positions.Key, path: str, reason: str) -> problems.Problem:
    """Return a problem of a file that cannot be read; the daemon may be able to read it."""
    text = f"cannot read {path}: {reason}"
    if reason == _DENIED and os.geteuid() != 0:
        hint = "check as root"
        return loaded.problem(
            key, f"{text}, so the file is not checked", "missing-file", "warning", hint=hint
        )
    return _missing(loaded, key, text, path)


def _missing(loaded: Loaded, key: positions.Key, text: str, path: str) -> problems.Problem:
    """Return a problem of a missing file, with the path that was probably meant."""
    meant = None if Path(path).exists() else _near_path(path)
    if meant is None:
        return loaded.problem(key, text, "missing-file")
    quoted = notations.quoted(meant)
    if key[-1] == "path" and loaded.origin(key) is None:  # written as a bare path
        key = key[:-1]
    return loaded.problem(key, text, "missing-file", hint=f"did you mean {quoted}?", meant=quoted)


def _near_path(path: str, *folders: str) -> str | None:
    """Return an existing path that differs only by a slip in its name or folder, or None."""
    folder, name = os.path.split(path)
    for other in folders:
        if os.path.isfile(f"{other}/{name}"):
            return f"{other}/{name}"
    try:
        with os.scandir(folder) as entries:  # a folder may be huge, and the daemon waits
            names = [entry.name for entry in itertools.islice(entries, _MANY + 1)]
    except OSError:
        return None
    found = near(name, names, 0.8) if len(names) <= _MANY else None
    return None if found is None else os.path.join(folder, found)


def _unreadable(path: str, *, directory: bool) -> str | None:
    """Return why this process cannot read a file, or None if it can."""
    try:
        is_directory = stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        return error.strerror
    if is_directory and not directory:
        return "Is a directory"
    wanted = os.R_OK | (os.X_OK if is_directory else 0)
    return None if os.access(path, wanted, effective_ids=True) else _DENIED


def _program(loaded: Loaded, key: positions.Key, service: ServiceSettings) -> Iterator[problems.Problem]:
    if service.program is None:
        return
    path, where = service.program[0], (*key, "program", 0)
    if not Path(path).exists():
        found = _near_path(path, *_BINARIES)
        meant = _words(path) if found is None else notations.quoted(found)
        hint = None if meant is None else f"did you mean {meant}?"
        if found is None and meant is not None:
            hint = f"write each word as an element: {meant}"
        text = f"there is no program {path}"
        yield loaded.problem(where, text, "missing-program", "warning", hint=hint, meant=meant)
    elif Path(path).is_dir():
        text = f"{path} is a directory, not a program"
        yield loaded.problem(where, text, "missing-program", hint="write the path of the program itself")
    elif not Path(path).is_file() or not os.access(path, os.X_OK):
        yield loaded.problem(where, f"{path} is not executable", "missing-program", "warning")
    elif service.no_new_privileges and os.stat(path).st_mode & (stat.S_ISUID | stat.S_ISGID):
        text = f"{path} does not become another user or group, as its mode says"
        hint = "leave no_new_privileges out"
        where = (*key, "no_new_privileges")
        yield loaded.problem(where, text, "ignored-set-user-id", "warning", hint=hint)


def _words(path: str) -> str | None:
    """Return the elements of a command written in one string, as TOML, or None."""
    first, blank, rest = path.partition(" ")
    is_command = bool(blank) and Path(first).is_file()
    return ", ".join(map(notations.quoted, [first, *rest.split()])) if is_command else None


def _listeners(loaded: Loaded, key: positions.Key, service: ServiceSettings) -> Iterator[problems.Problem]:
    for index, listener in enumerate(service.listeners):
        where = (*key, "listeners", index)
        try:
            host.port_number(listener.port)
        except host.UnknownNameError as error:
            yield loaded.problem((*where, "port"), str(error), error.code, hint=error.hint, meant=error.meant)
        else:
            if service.early_talker is not None:
                yield from _speaks_first(loaded, (*where, "port"), host.port_number(listener.port))
        if listener.haproxy is not None:
            yield from _haproxy(loaded, (*where, "haproxy"), listener.haproxy)
    limits = service.limits
    for name in ("max_per_ip", "max_per_network"):
        most = getattr(limits, name)
        if most is not None and most > limits.max_connections and limits.scope == "host":
            text = f"{most} is more than max_connections ({limits.max_connections}), so it has no effect"
            hint = "write a smaller number, or raise max_connections"
            yield loaded.problem((*key, "limits", name), text, "limits-nobody", "warning", hint=hint)
    if service.penalties is not None and service.penalties.charges_nothing:
        text = "no kind of offence has a penalty"
        hint = "set refused, proxy, early_talker, killed or status"
        yield loaded.problem((*key, "penalties"), text, "penalises-nothing", "warning", hint=hint)
    exposed = any(not collisions.is_loopback(listener.address) for listener in service.listeners)
    if exposed and service.limits.max_per_ip is None:
        text = f"one address may take all {service.limits.max_connections} connections"
        yield loaded.problem(
            (*key, "limits"), text, "no-limit-per-address", "warning", hint="set limits.max_per_ip"
        )


def _speaks_first(loaded: Loaded, key: positions.Key, port: int) -> Iterator[problems.Problem]:
    """Yield a problem of a port at which clients may have to send data first."""
    if port in _CLIENT_FIRST:
        text = f"clients of port {port} have to send data first, so early_talker would find all of them"
        hint = "leave early_talker out, or make this listener a service of its own"
        yield loaded.problem(key, text, "client-speaks-first", hint=hint)
    elif port not in _SERVER_FIRST:
        text = f"early_talker finds all clients of port {port} if its protocol lets the client speak first"
        hint = "check that the server speaks first, as with SMTP, IMAP and POP3 without TLS"
        yield loaded.problem(key, text, "client-speaks-first", "warning", hint=hint)


def _haproxy(loaded: Loaded, key: positions.Key, haproxy: tables.HAProxy) -> Iterator[problems.Problem]:
    if haproxy.trusted == "any":
        text = "any client of this port can claim any address"
        hint = "list the addresses of the proxies"
        yield loaded.problem((*key, "trusted"), text, "trusts-everybody", "warning", hint=hint)
    if haproxy.timeout < _HASTY:
        text = f"too short for a header whose packet is lost once: {haproxy.timeout:g} s"
        yield loaded.problem(
            (*key, "timeout"), text, "short-timeout", "warning", hint=f"set {_HASTY} or more"
        )


def _transport(loaded: Loaded, key: positions.Key, service: ServiceSettings) -> Iterator[problems.Problem]:
    """Warn about options of the listening sockets that have no effect, or another one than expected."""
    keepalive, timeout = service.keepalive, service.user_timeout
    if timeout and isinstance(keepalive, tables.Keepalive) and timeout != keepalive.lasts:
        # the timer of keep-alive looks at the time when it sends a probe, from the second one on
        after = next(
            (
                keepalive.time + keepalive.interval * probes
                for probes in range(1, 128)
                if keepalive.time + keepalive.interval * probes >= timeout
            ),
            timeout,
        )
        text = (
            f"overrides keepalive.count: a vanished client is given up after {after:g} s instead of"
            f" {keepalive.lasts:g} s, and one that reads nothing after {timeout:g} s"
        )
        hint = f"leave it out, or write {keepalive.lasts:g}, which is time + interval * count"
        where = (*key, "user_timeout")
        yield loaded.problem(where, text, "overrides-keepalive", "warning", hint=hint)
    fast_open = _fast_open()
    if service.tcp.fastopen is not None and fast_open is not None and not fast_open & _SERVERS:
        text = f"has no effect, because net.ipv4.tcp_fastopen is {fast_open}"
        hint = f"sysctl -w net.ipv4.tcp_fastopen={fast_open | _SERVERS}"
        yield loaded.problem((*key, "tcp", "fastopen"), text, "no-fast-open", "warning", hint=hint)
    name = service.tcp.interface
    known = [] if name is None else [each for _, each in socket.if_nameindex()]
    if name is not None and name not in known:
        found = near(name, known)
        meant = None if found is None else notations.quoted(found)
        hint = f"there are: {', '.join(known)}" if meant is None else f"did you mean {meant}?"
        where = (*key, "tcp", "interface")
        text = f"there is no interface {name}"
        yield loaded.problem(where, text, "unknown-interface", "warning", hint=hint)


def _fast_open() -> int | None:
    """Return net.ipv4.tcp_fastopen, or None if it cannot be read."""
    try:
        return int(Path(_FAST_OPEN).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _bound(services: Services) -> Iterator[collisions.Bound]:
    for name, service in services.items():
        for index, listener in enumerate(service.listeners):
            try:
                port = host.port_number(listener.port)
            except host.UnknownNameError:
                continue
            yield collisions.Bound(name, index, collisions.unmapped(listener.address), port)
        if service.agent is not None:
            address, port = service.agent.listen
            yield collisions.Bound(name, None, collisions.unmapped(address), port)


def _listening(bound: collisions.Bound) -> str:
    who = f"services.{bound.service}" + (".agent" if bound.listener is None else "")
    return f"{who}, which listens on {bound}"


def _key(bound: collisions.Bound) -> positions.Key:
    if bound.listener is None:
        return ("services", bound.service, "agent", "listen")
    return ("services", bound.service, "listeners", bound.listener, "port")


def _collision(loaded: Loaded, bound: collisions.Bound, other: collisions.Bound) -> problems.Problem:
    first = loaded.problem(_key(other), "", "duplicate-listener")
    text = f"{bound} is taken by {_listening(other)} at {first.file}:{first.line}:{first.column}"
    return loaded.problem(_key(bound), text, "duplicate-listener")
