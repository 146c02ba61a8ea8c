"""Every reader of foreign bytes: how it is called, and the one class of exception by which it may refuse."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from tcpdconf.config import envfile
from tcpdconf.config.courier import berkeleydb, gdbm
from tcpdconf.config.load.source import parsed
from tcpdconf.config.model import tables
from tcpdconf.daemon.dns import message as dns_message
from tcpdconf.daemon.dns import resolvconf
from tcpdconf.daemon.messages import assignment, wire
from tcpdconf.daemon.messages import worker as worker_messages
from tcpdconf.policy import environ
from tcpdconf.policy.access import file as access_file
from tcpdconf.policy.access.file import AccessFileError
from tcpdconf.policy.dns import query
from tcpdconf.policy.proxy import header as proxy_header
from tcpdconf.policy.proxy.header import HeaderError, Options


class Parser(NamedTuple):
    """One of them."""

    read: Callable[[bytes], object]
    refuses: type[Exception] | tuple[type[Exception], ...] = ()


QUESTION: Final = dns_message.question(query.Question("2.0.0.127.bl.example", "A"))


def _header(data: bytes, options: Options) -> object:
    """As a PROXY reader does: never more than is wanted."""
    have = 0
    while wanted := proxy_header.wanted(data[:have], options):
        if have + wanted > len(data):
            return None
        have += wanted
    return proxy_header.parse(data[:have], options)


def _access(form: str) -> Callable[[bytes], object]:
    keys: dict[str, Any] = {"file": "/x", "format": form}
    source = tables.AccessSource.model_validate(keys | ({"action": "deny"} if form == "cidr" else {}))
    return lambda data: access_file.read([("/x", data)], source)


def _said(data: bytes) -> object:
    """A message of a worker's, which can be shown."""
    message = wire.parsed(data, worker_messages.FROM_WORKER)
    json.dumps(dataclasses.asdict(message), allow_nan=False)
    return message


def _answer(data: bytes) -> object:
    """Parse an answer: the flags and counts of its header, then all that follows its question."""
    return dns_message.read(b"\0\1" + data[:2] + b"\0\1" + data[2:8] + QUESTION + data[8:], QUESTION)


PARSERS: Final = {
    "proxy": Parser(lambda data: _header(data, Options()), HeaderError),
    "proxy-lenient": Parser(lambda data: _header(data, Options(lenient=True)), HeaderError),
    "dns": Parser(_answer),
    "gdbm": Parser(gdbm.records, gdbm.GdbmError),
    "access-gdbm": Parser(_access("gdbm"), AccessFileError),
    "berkeleydb": Parser(berkeleydb.records, berkeleydb.BerkeleyDBError),
    "access-db": Parser(_access("db"), AccessFileError),
    "access-courier": Parser(_access("courier"), AccessFileError),
    "access-toml": Parser(_access("toml"), AccessFileError),
    "access-cidr": Parser(_access("cidr"), AccessFileError),
    "toml": Parser(lambda data: parsed(environ.decoded(data)), (ValueError, RecursionError)),
    "environment": Parser(lambda data: envfile.parse(environ.decoded(data)), envfile.EnvironmentSyntaxError),
    "resolv.conf": Parser(lambda data: resolvconf.parse(environ.decoded(data))),
    "worker": Parser(_said, wire.MalformedError),
    "reader": Parser(lambda data: wire.parsed(data, assignment.FROM_READER), wire.MalformedError),
}
