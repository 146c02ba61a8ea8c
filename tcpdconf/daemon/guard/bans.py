"""Keeps the bans of a daemon: in a file of the state directory, and in a table for the workers.

The file has a line of JSON for each change, and only grows, so the cost of a ban does not depend on their
number. It is rewritten when most of its lines are obsolete. Memory holds only the table.

The first line has the version of the format. A file without this line is of version 1. A file of an unknown
version stays unchanged, and its bans can be neither read nor changed. A daemon that is older than this line
reads it as the end of an unknown ban, so a downgrade loses nothing.

A daemon holds a lock while it uses the file, because a daemon that takes over shares the file with its
predecessor. The lock is on a file that other users cannot open, so they cannot hold it.
"""

import array
import contextlib
import fcntl
import ipaddress
import json
import math
import os
import socket
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import tcpdconf
from tcpdconf.config import printable
from tcpdconf.config.model.values import IPNetwork
from tcpdconf.daemon.guard import ban_table, state_directory
from tcpdconf.daemon.guard.ban_table import Key
from tcpdconf.daemon.process import log
from tcpdconf.policy.access import table as access_table

FILE: Final = "bans"
VERSION: Final = 1
_HEADER: Final = (
    json.dumps({"version": VERSION, "network": "::", "service": None, "lifted": 0, "by": "tcpdconf"}) + "\n"
).encode()
_LOCK: Final = ".bans.lock"
_TRIES: Final = 100  # to take the lock, and seconds between two of them
_BETWEEN: Final = 0.01
MOST: Final = 1_000_000  # bans
REASON: Final = 200  # characters
_WASTE: Final = 1000  # the file is rewritten when obsolete lines outnumber current ones by this
_LINE: Final = 4096  # bytes of a line; REASON characters and names need less
_PART: Final = 1 << 20  # bytes of one read or write
_LARGEST: Final = 1 << 30  # bytes of the largest file that is read
_NEWEST: Final = 1 << 16  # bytes at the end of the file that `newest` searches


class Ban(NamedTuple):
    """Describes a ban. `service` is None for all services; `since` and `until` are Unix times.

    `host` is the name of the cluster's host that made the ban, or None for a ban of this host.
    """

    network: IPNetwork
    service: str | None
    until: float
    since: float
    by: str
    reason: str
    host: str | None = None

    @property
    def key(self) -> Key:
        """Return the key of the table."""
        return ban_table.key(self.network, self.service)

    def data(self) -> dict[str, object]:
        """Return the ban as JSON data; `until` is null if it has no end."""
        return {
            "network": shown(self.network),
            "service": self.service,
            "until": None if self.until == math.inf else self.until,
            "since": self.since,
            "by": self.by,
            "reason": self.reason,
            "host": self.host,
        }


class BansError(Exception):
    """Reports that the file of bans cannot be read or written; the text gives the reason."""


class Page(NamedTuple):
    """Holds some bans of the file with the inode `file`.

    `next` is the offset of the next bans in the file, or None after the last one. `end` is the offset up to
    which the file was read.
    """

    bans: list[Ban]
    next: int | None
    file: int
    end: int = 0


class _Change(NamedTuple):
    """Holds the change of one line: the end of a ban as Unix time, or None if the line lifts the ban."""

    key: Key
    until: float | None


class _Read(NamedTuple):
    """Holds the contents of a file: a table of its bans, the number of its lines, and its size in bytes.

    `size` ends with the last complete line; `torn` is True if bytes follow it. `damage` describes the first
    wrong line, or is None.
    """

    table: ban_table.Writer
    lines: int
    size: int
    damage: str | None
    torn: bool


class Bans:
    """Keeps the bans; `renewed` is called when the workers need the descriptor of another table.

    `environment` names the state directory.
    """

    def __init__(self, environment: Mapping[str, str], renewed: Callable[[], None]) -> None:
        self._directory = state_directory.find(environment)
        self._renewed = renewed
        self._table: ban_table.Writer | None = None
        self._file: int | None = None
        self._known = (0, 0)  # inode and size of the file after this process used it last
        self._lines = 0

    @property
    def table(self) -> int | None:
        """Return the descriptor of the table for a worker, or None before the first ban."""
        return None if self._table is None else self._table.fd

    @property
    def _path(self) -> str:
        return FILE if self._directory is None else f"{self._directory}/{FILE}"

    def __len__(self) -> int:
        return 0 if self._table is None else len(self._table)

    def load(self) -> None:
        """Read the file if it exists and has changed; rename a damaged one, with a warning."""
        try:
            with self._current():
                pass
        except BansError as error:
            log.warning(f"bans are not read: {error}")

    def ban(self, bans: Sequence[Ban]) -> None:
        """Add or replace bans. They are on disk and in effect when this returns.

        Raises:
            BansError: the file cannot be written; no ban has changed.
        """
        if len(self) + len(bans) > MOST:
            raise BansError(f"there are {len(self)} bans already, and at most {MOST}")
        places = self._append([each.data() for each in bans])
        try:
            for each, place in zip(bans, places, strict=True):
                self._set(each.key, each.until, place)
        except OSError as error:
            raise BansError(f"they count from the next start on: {error.strerror}") from None
        self._tidy()

    def unban(self, networks: Sequence[IPNetwork], service: str | None, by: str) -> list[IPNetwork]:
        """Lift bans; return the networks that were banned.

        Raises:
            BansError: the file cannot be written; no ban has changed.
        """
        with self._current():
            found = [each for each in networks if self._get(ban_table.key(each, service)) is not None]
        found = list(dict.fromkeys(found))
        self._append(
            [{"network": shown(each), "service": service, "lifted": time.time(), "by": by} for each in found]
        )
        for each in found:
            if self._table is not None:
                self._table.delete(ban_table.key(each, service))
        self._tidy()
        return found

    def is_own(self, key: Key) -> bool:
        """Return whether a ban exists and was made by this host.

        Raises:
            BansError: the file cannot be read.
        """
        entry = self._get(key)
        if entry is None or self._file is None:
            return False
        try:
            _, line = next(_lines(self._file, entry[1], self._known[1]))
        except OSError as error:
            raise BansError(f"{self._path}: {error.strerror}") from None
        return _ban(line).host is None

    def expire(self) -> None:
        """Forget the bans that have ended."""
        if self._table is not None:
            self._table.expire(time.time())

    def page(self, start: int, count: int) -> Page:
        """Return up to `count` bans from an offset of the file on, in the order in which they were made.

        Raises:
            BansError: the file cannot be read.
        """
        found: list[Ban] = []
        with self._current():
            if self._file is None:
                return Page([], None, 0)
            now = time.time()
            for place, line in _lines(self._file, start, self._known[1]):
                if len(found) == count:
                    return Page(found, place, self._known[0], place)
                change = _change(line)
                if isinstance(change, _Change):
                    entry = self._get(change.key)
                    if entry is not None and entry[1] == place and entry[0] > now:
                        found.append(_ban(line))
        return Page(found, None, self._known[0], self._known[1])

    def newest(self, count: int) -> list[Ban]:
        """Return up to `count` bans, the newest first; fewer if the file ends with many obsolete lines.

        The time does not depend on the number of bans. No lock is needed, because the part of the file that
        this process has read or written does not change.

        Raises:
            BansError: the file cannot be read.
        """
        if self._file is None:
            return []
        size = self._known[1]
        start = max(0, size - _NEWEST)
        try:
            lines = [*_lines(self._file, start, size)]
        except OSError as error:
            raise BansError(f"{self._path}: {error.strerror}") from None
        found: list[Ban] = []
        for place, line in reversed(lines[1:] if start else lines):  # the first one may be the rest of a line
            if len(found) == count:
                break
            change = _change(line)
            if isinstance(change, _Change):
                entry = self._get(change.key)
                if entry is not None and entry[1] == place:
                    found.append(_ban(line))
        return found

    def covering(self, networks: Iterable[IPNetwork], services: Iterable[str] = ()) -> list[Ban]:
        """Return the bans of these services, and of all services, that contain one of these networks.

        Raises:
            BansError: the file cannot be read.
        """
        found: dict[Key, Ban] = {}
        with self._current():
            table = self._table
            if table is None or self._file is None:
                return []
            networks, now = list(networks), time.time()
            for own in (0, *map(ban_table.scope, services)):
                for key in table.covering(networks, own, now):
                    entry = table.get(key)
                    assert entry is not None  # noqa: S101 (just found)
                    _, line = next(_lines(self._file, entry[1], self._known[1]))
                    found[key] = _ban(line)
        return list(found.values())

    def close(self) -> None:
        """Close the file and the table."""
        self._forget()

    def _get(self, key: Key) -> tuple[float, int] | None:
        found = None if self._table is None else self._table.get(key)
        return None if found is None or found[0] <= time.time() else found

    def _set(self, key: Key, until: float, place: int) -> None:
        assert self._table is not None  # noqa: S101 (there is a file, so there is a table)
        if self._table.full and self._table.get(key) is None:
            former, self._table = self._table, self._table.copy(time.time())
            former.close()
            self._renewed()
        self._table.set(key, until, place)

    def _append(self, records: Sequence[Mapping[str, object]]) -> list[int]:
        """Append lines to the file; return their offsets once they are on disk.

        Raises:
            BansError: they cannot be written; the file is unchanged.
        """
        if not records:
            return []
        with self._current(create=True):
            assert self._file is not None  # noqa: S101 (just created)
            inode, size = self._known
            places: list[int] = []
            data = b""
            for record in records:
                places.append(size + len(data))
                data += json.dumps(record).encode() + b"\n"
            try:
                _write(self._file, data, size)
                os.fdatasync(self._file)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file, size)
                raise
            self._known = inode, size + len(data)
            self._lines += len(records)
        return places

    @contextlib.contextmanager
    def _current(self, *, create: bool = False) -> Iterator[None]:
        """Lock the directory, and read the file if another daemon, or a person, has changed it.

        Before the first ban the directory may be missing.

        Raises:
            BansError: in place of OSError.
        """
        needed = create or self._file is not None
        try:
            if not needed and not self._exists():
                yield
                return
            with state_directory.opened(self._directory) as directory, _locked(directory, needed=needed):
                found = _status(directory)
                if found is None and (create or self._file is not None):
                    self._forget()
                    self._open(directory, create=True)
                elif found is not None and found != self._known:
                    _check_version(directory, self._path)
                    self._forget()
                    self._open(directory, create=False)
                yield
        except OSError as error:
            raise BansError(f"{self._path}: {error.strerror}") from None

    def _exists(self) -> bool:
        """Return whether the state directory exists."""
        if self._directory is None:
            return False
        try:
            os.close(state_directory.open_(self._directory, create=False))
        except FileNotFoundError:
            return False
        return True

    def _forget(self) -> None:
        if self._file is not None:
            os.close(self._file)
        if self._table is not None:
            self._table.close()
        self._file, self._table, self._known, self._lines = None, None, (0, 0), 0

    def _open(self, directory: int, *, create: bool) -> None:
        """Open the file, and make a table of its bans.

        Raises:
            OSError: it cannot be opened or repaired.
        """
        where = self._path
        found = _status(directory)
        if found is not None and not stat.S_ISREG(
            os.stat(FILE, dir_fd=directory, follow_symlinks=False).st_mode
        ):
            os.rename(FILE, aside := _aside(), src_dir_fd=directory, dst_dir_fd=directory)
            log.warning(f"{where}: it is not a regular file; it was put aside as {aside}")
            create = True
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        self._file = os.open(FILE, flags, 0o600, dir_fd=directory)
        if create:
            _write(self._file, _HEADER, 0)
            os.fsync(directory)
        read = _read(self._file)
        self._table, self._lines = read.table, read.lines
        self._known = os.fstat(self._file).st_ino, read.size
        if read.damage is not None:
            os.link(
                FILE, aside := _aside(), src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False
            )
            log.warning(
                f"{where}: {read.damage}; it was put aside as {aside}, and the bans that can be read count"
            )
            self._rewrite(directory)
        elif read.torn:
            log.warning(f"{where}: the last line is incomplete, and was dropped: its writer was killed")
            os.ftruncate(self._file, read.size)
        self._renewed()

    def _tidy(self) -> None:
        """Rewrite the file if most of its lines are obsolete."""
        if self._lines <= 2 * len(self) + _WASTE:
            return
        try:
            with state_directory.opened(self._directory) as directory, _locked(directory, needed=True):
                if _status(directory) == self._known:
                    self._rewrite(directory)
        except OSError as error:
            log.warning(f"bans are not tidied up: {self._path}: {error.strerror}")

    def _rewrite(self, directory: int) -> None:
        """Replace the file, atomically, by one with the current lines.

        Raises:
            OSError: it cannot be written; file and table are unchanged.
        """
        assert self._table is not None  # noqa: S101 (there is a file, so there is a table)
        assert self._file is not None  # noqa: S101 (as above)
        self._table.expire(time.time())
        kept = sorted((place, at) for at, _, place in self._table.entries())
        new = f".{FILE}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new, dir_fd=directory)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(new, flags, 0o600, dir_fd=directory)
        try:
            _write(file, _HEADER, 0)
            places = _copy(self._file, file, [place for place, _ in kept])
            os.fsync(file)
            os.rename(new, FILE, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            os.close(file)
            raise
        os.close(self._file)
        self._file, self._lines = file, len(kept)
        status = os.fstat(file)
        self._known = status.st_ino, status.st_size
        for (_, at), place in zip(kept, places, strict=True):
            self._table.move(at, place)
        os.fsync(directory)


def network(text: str) -> IPNetwork:
    """Parse an address or a network; a network of IPv4-mapped addresses becomes its IPv4 network.

    Raises:
        ValueError: the text is no network, or has bits set beyond its prefix; the message says which.
    """
    try:
        found = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{printable.escaped(text[:100])} is no address or network") from None
    if "/" in text and ipaddress.ip_interface(text).ip != found.network_address:
        raise ValueError(f"{text} has bits beyond its prefix length: did you mean {shown(found)}?")
    mapped = found.network_address.ipv4_mapped if isinstance(found, ipaddress.IPv6Network) else None
    if mapped is not None and found.prefixlen >= 96:
        return ipaddress.IPv4Network((mapped, found.prefixlen - 96))
    if isinstance(found.network_address, ipaddress.IPv6Address) and found.network_address.scope_id:
        raise ValueError(f"{text} has a zone, which a ban cannot have")
    return found


def shown(network: IPNetwork) -> str:
    """Return a network as text; a single address has no prefix length."""
    return str(network.network_address if network.prefixlen == network.max_prefixlen else network)


def read(environment: Mapping[str, str]) -> list[Ban]:
    """Return the bans of the file that have not ended; change nothing.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged; the text says where.
    """
    directory = state_directory.find(environment)
    if directory is None:
        return []
    path = os.path.join(directory, FILE)
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    try:
        if (other := _other_version(file)) is not None:
            raise ValueError(f"{path}: {other}")
        found = _read(file)
        found.table.close()
        if found.damage is not None:
            raise ValueError(f"{path}: {found.damage}")
        now = time.time()
        return [
            _ban(next(_lines(file, place, found.size))[1])
            for _, until, place in sorted(found.table.entries(), key=lambda entry: entry[2])
            if until > now
        ]
    finally:
        os.close(file)


@contextlib.contextmanager
def _locked(directory: int, *, needed: bool) -> Iterator[None]:
    """Hold the lock; if there is no file of bans, take the lock only if it is `needed`.

    Raises:
        OSError: it cannot be made, or another daemon holds it for too long.
    """
    if not needed and _status(directory) is None:
        yield
        return
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    lock = os.open(_LOCK, flags, 0o600, dir_fd=directory)
    try:
        for left in reversed(range(_TRIES)):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not left:
                    raise
                time.sleep(_BETWEEN)
        yield
    finally:
        os.close(lock)


def _aside() -> str:
    return f"{FILE}.damaged-{time.time():.3f}"


def _status(directory: int) -> tuple[int, int] | None:
    """Return inode and size of the file, or None if there is none."""
    try:
        found = os.stat(FILE, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size


def _check_version(directory: int, path: str) -> None:
    """Reject a file of an unknown version. A damaged file, or none, is accepted.

    Raises:
        BansError: the file has an unknown version.
        OSError: it cannot be opened.
    """
    if not stat.S_ISREG(os.stat(FILE, dir_fd=directory, follow_symlinks=False).st_mode):
        return
    file = os.open(FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        other = _other_version(file)
    finally:
        os.close(file)
    if other is not None:
        raise BansError(f"{path}: {other}")


def _other_version(file: int) -> str | None:
    """Return the problem with the version of a file, or None if the version is known or missing."""
    try:
        first = json.loads(os.pread(file, _LINE, 0).partition(b"\n")[0])
        found = first.get("version", VERSION)
    except (ValueError, AttributeError, RecursionError):
        return None
    if found == VERSION:
        return None
    version = printable.escaped(str(found)[:20])
    return f"it has format version {version}, and tcpdconf {tcpdconf.__version__} knows {VERSION}"


def _read(file: int) -> _Read:
    """Read a whole file. An incomplete last line is `torn`; any other wrong line is `damage`.

    Raises:
        OSError: it cannot be read, or no memory is available.
    """
    size, damage, number, end = os.fstat(file).st_size, None, 0, 0
    if size > _LARGEST:
        damage = f"it has more than {_LARGEST} bytes"
    table, now = ban_table.Writer(), time.time()
    for place, line in _lines(file, 0, min(size, _LARGEST)):
        if not line.endswith(b"\n"):
            if len(line) > _LINE:
                damage = damage or f"line {number + 1}: it is no ban"
            break
        number, end = number + 1, place + len(line)
        change = _change(line)
        if not isinstance(change, _Change):
            damage = damage or f"line {number}: {change}"
        elif change.until is None or change.until <= now:
            table.delete(change.key)
        else:
            if table.full and table.get(change.key) is None:
                former, table = table, table.copy(now)
                former.close()
            table.set(change.key, change.until, place)
    return _Read(table, number, end, damage, torn=end < size)


def _lines(file: int, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file between two offsets, each with its offset."""
    place, data = start, b""
    while more := os.pread(file, min(_PART, end - place - len(data)), place + len(data)):
        *lines, data = (data + more).split(b"\n")
        for line in lines:
            yield place, line + b"\n"
            place += len(line) + 1
        if len(data) > _PART:
            break
    if data:
        yield place, data


def _copy(old: int, new: int, places: Iterable[int]) -> "array.array[int]":
    """Copy the lines at these offsets from one file to the end of another; return their new offsets."""
    size, data, found = os.fstat(new).st_size, b"", array.array("Q")
    for place in places:
        found.append(size + len(data))
        data += os.pread(old, _LINE, place).partition(b"\n")[0] + b"\n"
        if len(data) > _LINE:
            _write(new, data, size)
            size, data = size + len(data), b""
    _write(new, data, size)
    return found


def _write(file: int, data: bytes, place: int) -> None:
    while data:
        written = os.pwrite(file, data, place)
        data, place = data[written:], place + written


def _change(line: bytes) -> _Change | str:
    """Return the change of a line, or why the line is wrong. It creates few objects: files may be long."""
    try:
        found = json.loads(line)
        text, service = found["network"], found["service"]
        if not (service is None or isinstance(service, str)):
            return "the service is no name"
        address, _, length = text.partition("/")
        version, family = (6, socket.AF_INET6) if ":" in address else (4, socket.AF_INET)
        bits = access_table.BITS[version]
        value, prefix = int.from_bytes(socket.inet_pton(family, address)), int(length) if length else bits
        if not 0 <= prefix <= bits or value & (1 << bits - prefix) - 1:
            return "it is no ban"
        key = Key(version, prefix, value, ban_table.scope(service))
        if "lifted" in found:
            return _Change(key, None)
        until, since = found["until"], found["since"]
        until = math.inf if until is None else float(until)
        if math.isnan(until) or not math.isfinite(since):
            return "it is no ban"
        return _Change(key, until)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError, OSError):
        return "it is no ban"


def _ban(line: bytes) -> Ban:
    """Return the ban that a line sets; the line must be one that `_change` accepts."""
    found = json.loads(line)
    until = math.inf if found["until"] is None else float(found["until"])
    by, reason = (printable.replaced(str(found.get(name, "")))[:REASON] for name in ("by", "reason"))
    where = ipaddress.ip_network(found["network"])
    host = found.get("host")
    shown_host = None if host is None else printable.replaced(str(host))[:REASON]
    return Ban(where, found["service"], until, float(found["since"]), by, reason, shown_host)
