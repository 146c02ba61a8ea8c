"""Shares bans and penalties over the hosts of a cluster.

The engine has the hash `PREFIXbans`, with a field for each ban: the id of its host, the network and the
service. A host writes its own bans, and mirrors those of other hosts in its own table. So a connection does
not wait for the engine because of bans, and bans stay in effect while the engine does not answer. A message
on the channel `PREFIXbans` announces changes. Once a minute each host compares all bans.

This module bounds the bans of other hosts in number, width and time. The supervisor checks them again.
"""

import ipaddress
import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple, TypeVar

import hiredis
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tcpdconf.config import printable
from tcpdconf.config.model.fields import NAME
from tcpdconf.daemon.cluster.engine import Access, Engine, Subscription
from tcpdconf.daemon.messages import cluster as messages
from tcpdconf.daemon.messages.cluster import MOST_BANS, MOST_LIFTED, Id, Name, NetworkPenalty, SharedBan
from tcpdconf.daemon.process import log, loop, throttle

if TYPE_CHECKING:
    from tcpdconf.daemon.cluster.hosts import Description

_SYNC: Final = 60.0  # seconds between two comparisons
_SOON: Final = 0.05  # seconds to wait for further messages before a comparison
_LONGEST: Final = 7 * 86400.0  # most seconds of a ban in the engine; its host renews longer ones
_RENEW: Final = 86400.0  # a ban is renewed when it is this many seconds shorter
_WIDEST: Final = {4: 16, 6: 32}  # prefix lengths of the widest networks that are mirrored
OF_A_HOST: Final = 10_000  # most bans of one host that are shared
MOST: Final = 50_000  # most bans of other hosts that are mirrored
_PAGE: Final = 100  # fields in one request (COUNT of HSCAN)

_Item = TypeVar("_Item")
Key = tuple[str, str | None]
"""Identifies a ban: the network as text, and the service, or None for all."""


class _Entry(BaseModel):
    """Describes a ban in the engine; `until` is in milliseconds on the engine's clock."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)
    until: Annotated[int, Field(ge=0, lt=1 << 53)]
    by: Annotated[str, Field(max_length=200)]
    reason: Annotated[str, Field(max_length=200)]
    name: Name


class _News(BaseModel):
    """Describes a message on the channel of bans: the bans that a host has lifted. It may have new ones."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)
    host: Id
    lifted: Annotated[list[list[str | None]], Field(max_length=MOST_LIFTED)]


class _Penalties(BaseModel):
    """Describes a message on the channel of penalties."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)
    host: Id
    service: messages.Space
    said: messages.Penalised


class _Own(NamedTuple):
    """Holds a ban of this host; `until` is on the loop's clock, or None without an end."""

    until: float | None
    by: str
    reason: str


class _Seen:
    """Holds a ban of another host: its end on the engine's clock, and the last comparison that found it."""

    __slots__ = ("fields", "name", "scan", "until")

    def __init__(self, name: str, until: int) -> None:
        self.name = name
        self.until = until
        self.scan = -1
        self.fields: set[str] = set()


class Mirror:
    """Keeps this host's bans in the engine, and sends the supervisor the bans of other hosts (`tell`).

    `clock` returns the engine's time in milliseconds. `penalise` is called with the penalties of other hosts.
    """

    def __init__(
        self,
        events: loop.Loop,
        access: Access,
        prefix: str,
        *,
        about: "Description",
        clock: Callable[[], int],
        tell: Callable[[messages.FromCluster], None],
        penalise: Callable[[str, messages.Penalised], None],
    ) -> None:
        self._loop = events
        self._access = access
        self._name = f"{prefix}bans"
        self._about = about
        self._clock = clock
        self._tell = tell
        self._penalise = penalise
        self._penalties_name = f"{prefix}penalties"
        # penalties of this host, by service and network: the end on the loop's clock, and the offence
        self._penalties: dict[tuple[str, int, int, int], tuple[float, str]] = {}
        self._own: dict[Key, _Own] = {}
        self._seen: dict[Key, _Seen] = {}
        self._unsaid: set[Key] = set()  # lifted while the engine did not answer
        self._engine: Engine | None = None
        self._listener: Subscription | None = None
        self._pulling = False
        self._again = False  # True if further pages are to be pulled
        self._known = False  # True once all own bans were pulled
        self._place = self._file = 0
        self._scan = 0
        self._scanning = False
        self._cursor: bytes | None = None  # cursor of the comparison's next page
        self._untaken = 0  # messages that the supervisor has not confirmed
        self._present: set[str] = set()  # this host's fields that the comparison has found
        self._due = -1  # the timer of the next comparison
        self._seldom = throttle.Seldom()

    # from the supervisor

    def pull(self) -> None:
        """Ask the supervisor for the bans after those that it has sent."""
        if self._pulling:
            self._again = True
            return
        self._pulling, self._again = True, False
        self._tell(messages.WantBans(self._place))

    def page(self, page: messages.BanPage) -> None:
        """Adopt a page of the supervisor's bans."""
        self._pulling = False
        if page.file != self._file and self._place:  # the file was rewritten
            self._own.clear()
            self._place = 0
            self._file = page.file
            self.pull()
            return
        self._file, self._place = page.file, page.end
        for ban in page.bans:
            key = ban.network, ban.service
            if ban.host is None:
                self._take_own(key, ban)
            else:
                until = self._clock() + int((ban.seconds or _LONGEST) * 1000)
                self._seen.setdefault(key, _Seen(ban.host, until))
        if page.more or self._again:
            self.pull()
            return
        self._known = True
        self._compare_soon(_SOON)

    def _take_own(self, key: Key, ban: SharedBan) -> None:
        if len(self._own) >= OF_A_HOST and key not in self._own:
            if self._seldom.due("own", loop.now()):
                log.warning("further bans are not shared", most=OF_A_HOST)
            return
        until = None if ban.seconds is None else loop.now() + ban.seconds
        self._own[key] = _Own(until, ban.by, ban.reason)
        self._seen.pop(key, None)

    def lift(self, keys: Sequence[Key]) -> None:
        """Lift bans on all hosts."""
        for key in keys:
            self._own.pop(key, None)
        if self._engine is None:
            self._unsaid.update(keys)
            return
        fields = [self._field(key) for key in keys]
        for key in keys:
            seen = self._seen.pop(key, None)
            fields += () if seen is None else seen.fields
        for part in _parts(fields, MOST_LIFTED):
            self._engine.send("HDEL", self._name, *part, then=_ignore)
        for keys_part in _parts(keys, MOST_LIFTED):
            self._publish(keys_part)

    # Penalties: the engine keeps none, because they are short and each host repeats its own once a minute.

    def penalised(self, service: str, message: messages.Penalised) -> None:
        """Publish penalties to the other hosts, and remember them."""
        for each in message.penalties:
            key = service, each.version, each.bits, each.length
            if key in self._penalties or len(self._penalties) < OF_A_HOST:
                self._penalties[key] = loop.now() + each.seconds, each.offence
        self._publish_penalties(service, message.penalties)

    def _repeat_penalties(self) -> None:
        """Publish all penalties again, for hosts that have started or were disconnected."""
        now = loop.now()
        by_service: dict[str, list[NetworkPenalty]] = {}
        for key, (until, offence) in list(self._penalties.items()):
            if until <= now:
                del self._penalties[key]
                continue
            service, version, bits, length = key
            penalty = NetworkPenalty(4 if version == 4 else 6, bits, length, until - now, offence)
            by_service.setdefault(service, []).append(penalty)
        for service, penalties in by_service.items():
            for part in _parts(penalties, messages.MOST_PENALTIES):
                self._publish_penalties(service, part)

    def _publish_penalties(self, service: str, penalties: Sequence[NetworkPenalty]) -> None:
        if self._engine is not None:
            said = messages.Penalised(tuple(penalties))
            text = _Penalties(host=self._about.host, service=service, said=said).model_dump_json()
            self._engine.send("PUBLISH", self._penalties_name, text, then=_ignore)

    # from the engine

    def up(self, engine: Engine) -> None:
        """Use this connection, on which the login is complete."""
        self._engine = engine
        self._scanning = False
        names = (self._name, self._penalties_name)
        self._listener = Subscription(
            self._loop, self._access, names, lambda: self._compare_soon(_SOON), self._heard
        )
        if self._unsaid:
            keys, self._unsaid = [*self._unsaid], set()
            self.lift(keys)
        self._compare_soon(_SOON)

    def down(self) -> None:
        """Continue without the engine; mirrored bans stay unchanged."""
        self._engine = self._cursor = None
        self._scanning = False
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _heard(self, said: object) -> None:
        """Handle a message: lift its bans, and start a comparison for new ones; pass penalties on."""
        try:
            assert isinstance(said, list)  # noqa: S101 (for the type)
            if said[1] == self._penalties_name.encode():
                told = _Penalties.model_validate_json(said[2])
                if told.host != self._about.host:
                    self._penalise(told.service, told.said)
                return
            news = _News.model_validate_json(said[2])
        except (ValidationError, IndexError, TypeError):
            return
        if news.host == self._about.host:
            return
        lifted = [key for key in map(_key, news.lifted) if key is not None]
        known = [key for key in lifted if key in self._seen or key in self._own]
        for key in known:
            self._seen.pop(key, None)
            self._own.pop(key, None)
        self._tell_lifted(known)
        if not lifted:
            self._compare_soon(_SOON)

    def _compare_soon(self, seconds: float) -> None:
        self._loop.cancel(self._due)
        self._due = self._loop.after(seconds, self._compare)

    def _compare(self) -> None:
        """Read all bans from the engine page by page, so that no connection waits for it."""
        self._due = self._loop.after(_SYNC, self._compare)
        self._repeat_penalties()
        if self._engine is None or self._scanning or not self._known:
            return
        self._scanning = True
        self._scan += 1
        self._present = set()
        self._engine.send("HSCAN", self._name, "0", "COUNT", _PAGE, then=self._scanned)

    def _scanned(self, reply: object) -> None:
        if self._engine is None or not (isinstance(reply, list) and len(reply) == 2):
            self._scanning = False
            return
        cursor, fields = reply
        now = self._clock()
        found: list[SharedBan] = []
        over: list[str] = []
        for field, value in zip(fields[::2], fields[1::2], strict=False):
            ban = self._read(field, value, now, over)
            if ban is not None:
                found.append(ban)
        for part in _parts(over, MOST_LIFTED):
            self._engine.send("HDEL", self._name, *part, then=_ignore)
        for some in _parts(found, MOST_BANS):
            self._untaken += 1
            self._tell(messages.Mirrored(tuple(some)))
        self._cursor = cursor
        if not self._untaken:
            self._go_on()

    def taken(self) -> None:
        """Continue once the supervisor has confirmed all messages: it writes each ban to its disk."""
        self._untaken = max(0, self._untaken - 1)
        if not self._untaken and self._cursor is not None:
            self._go_on()

    def _go_on(self) -> None:
        """Request the next page, or finish the comparison after the last one."""
        cursor, self._cursor = self._cursor, None
        if self._engine is None or not self._scanning or cursor is None:
            return
        if cursor != b"0":
            self._engine.send("HSCAN", self._name, cursor, "COUNT", _PAGE, then=self._scanned)
            return
        now = self._clock()
        self._scanning = False
        self._forget_missing()
        self._write_own(now)

    def _read(  # noqa: PLR0911 (a reason for each)
        self, field: bytes, value: bytes, now: int, over: list[str]
    ) -> SharedBan | None:
        """Return a ban that is new to the supervisor, or None; add the field of an ended ban to `over`."""
        try:
            text = field.decode("ascii")
            host, network, service = text.split(" ")
            entry = _Entry.model_validate_json(value)
            key = _key([network, None if service == "-" else service])
        except (AttributeError, ValueError, ValidationError):
            return None
        if entry.until <= now:
            over.append(text)
            return None
        if host == self._about.host:
            self._present.add(text)
            own = self._own.get((network, None if service == "-" else service))
            if own is None or entry.until < now + (self._left(own) - _RENEW) * 1000:
                self._present.discard(text)
                over += [text] if own is None else []
            return None
        if key is None or key in self._own:
            return None
        until = min(entry.until, now + int(_LONGEST * 1000))
        seen = self._seen.get(key)
        if seen is None and len(self._seen) >= MOST:
            if self._seldom.due("most", loop.now()):
                log.warning("further bans of other hosts are not mirrored", most=MOST)
            return None
        if seen is None:
            seen = self._seen[key] = _Seen(entry.name, 0)
        is_new = until > seen.until + 1000
        seen.fields.add(text)
        seen.scan, seen.until = self._scan, max(seen.until, until)
        if not is_new:
            return None
        seen.name = entry.name
        by, reason = printable.replaced(entry.by), printable.replaced(entry.reason)
        return SharedBan(*key, (until - now) / 1000, by[:200], reason[:200], entry.name)

    def _forget_missing(self) -> None:
        """Lift mirrored bans that two comparisons in a row have not found.

        One comparison is not enough: if the engine has lost its data, the hosts of the bans write them again.
        """
        now = self._clock()
        missing = [key for key, seen in self._seen.items() if seen.scan < self._scan - 1]
        gone = [key for key in missing if self._seen[key].scan >= 0 or self._scan > 1]
        alive = [key for key in gone if self._seen[key].until > now]
        for key in gone:
            del self._seen[key]
        self._tell_lifted(alive)

    def _write_own(self, now: int) -> None:
        """Write this host's bans that the engine lacks, or has with an earlier end."""
        assert self._engine is not None  # noqa: S101 (for the type)
        pairs: list[str] = []
        for key, own in list(self._own.items()):
            left = self._left(own)
            field = self._field(key)
            if left <= 0:
                del self._own[key]
            elif field not in self._present:
                entry = {"until": now + int(left * 1000), "by": own.by, "reason": own.reason}
                pairs += [field, json.dumps({**entry, "name": self._about.name})]
        for part in _parts(pairs, 2 * MOST_LIFTED):
            self._engine.send("HSET", self._name, *part, then=_ignore)
        if pairs:
            self._engine.send("EXPIRE", self._name, int(_LONGEST), then=_ignore)
            self._publish([])

    def _left(self, own: _Own) -> float:
        return _LONGEST if own.until is None else min(_LONGEST, own.until - loop.now())

    def _field(self, key: Key) -> str:
        return f"{self._about.host} {key[0]} {key[1] or '-'}"

    def _publish(self, lifted: Sequence[Key]) -> None:
        if self._engine is not None:
            text = json.dumps({"host": self._about.host, "lifted": [list(key) for key in lifted]})
            self._engine.send("PUBLISH", self._name, text, then=_ignore)

    def _tell_lifted(self, keys: Sequence[Key]) -> None:
        for part in _parts(keys, MOST_LIFTED):
            self._tell(messages.Lifted(tuple(part)))


def _key(words: Sequence[str | None]) -> Key | None:
    """Return the key of another host's ban, or None if it must not be mirrored."""
    try:
        text, service = words
        found = ipaddress.ip_network(text or "")
    except ValueError:
        return None
    if found.prefixlen < _WIDEST[found.version] or not (service is None or NAME.fullmatch(service)):
        return None
    shown = str(found.network_address if found.prefixlen == found.max_prefixlen else found)
    return shown, service


def _parts(items: Sequence[_Item], most: int) -> Iterator[Sequence[_Item]]:
    for first in range(0, len(items), most):
        yield items[first : first + most]


def _ignore(reply: object) -> None:
    """Ignore an answer; the next comparison finds missing bans."""
    if isinstance(reply, hiredis.ReplyError):
        log.debug(f"cannot share bans: {printable.replaced(str(reply)[:100])}")
