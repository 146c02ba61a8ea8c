"""Every reader of foreign bytes: how it is called, and the one class of exception by which it may refuse."""

import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from tcpdconf.config import berkeleydb, envfile, gdbm, sources, tables
from tcpdconf.daemon import assignment, channel, dnswire, liststatus, relay, resolvconf
from tcpdconf.policy import accessfile, environ, proxyheader, query


class Parser(NamedTuple):
    """One of them."""

    read: Callable[[bytes], object]
    refuses: type[Exception] | tuple[type[Exception], ...] = ()


QUESTION: Final = dnswire.question(query.Question("2.0.0.127.bl.example", "A"))


def _header(data: bytes, options: proxyheader.Options) -> object:
    """As a gate does: never more than is wanted."""
    have = 0
    while wanted := proxyheader.wanted(data[:have], options):
        if have + wanted > len(data):
            return None
        have += wanted
    return proxyheader.parse(data[:have], options)


def _access(form: str) -> Callable[[bytes], object]:
    keys: dict[str, Any] = {"file": "/x", "format": form}
    source = tables.AccessSource.model_validate(keys | ({"action": "deny"} if form == "cidr" else {}))
    return lambda data: accessfile.read([("/x", data)], source)


def _said(data: bytes) -> object:
    message = channel._parse(data)
    json.dumps(liststatus.checked(message.get("lists")), allow_nan=False)
    return relay.checked(message), liststatus.rows(message.get("lists")), assignment.failures(message)


def _answer(data: bytes) -> object:
    """What stands behind the question of an answer; the header's flags and counts stand before it."""
    return dnswire.read(b"\0\1" + data[:2] + b"\0\1" + data[2:8] + QUESTION + data[8:], QUESTION)


PARSERS: Final = {
    "proxy": Parser(lambda data: _header(data, proxyheader.Options()), proxyheader.HeaderError),
    "proxy-lenient": Parser(
        lambda data: _header(data, proxyheader.Options(lenient=True)), proxyheader.HeaderError
    ),
    "dns": Parser(_answer),
    "gdbm": Parser(gdbm.records, gdbm.GdbmError),
    "access-gdbm": Parser(_access("gdbm"), accessfile.AccessFileError),
    "berkeleydb": Parser(berkeleydb.records, berkeleydb.BerkeleyDBError),
    "access-db": Parser(_access("db"), accessfile.AccessFileError),
    "access-courier": Parser(_access("courier"), accessfile.AccessFileError),
    "access-toml": Parser(_access("toml"), accessfile.AccessFileError),
    "access-cidr": Parser(_access("cidr"), accessfile.AccessFileError),
    "toml": Parser(lambda data: sources.parsed(environ.decoded(data)), (ValueError, RecursionError)),
    "environment": Parser(lambda data: envfile.parse(environ.decoded(data)), envfile.EnvironmentFileError),
    "resolv.conf": Parser(lambda data: resolvconf.parse(environ.decoded(data))),
    "worker": Parser(_said, channel.ChannelError),
}
