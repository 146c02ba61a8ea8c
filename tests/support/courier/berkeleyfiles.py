"""Berkeley DB files, written by db5.3_load."""

import pathlib
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from support import peers


class Form(NamedTuple):
    """Holds the properties of the host and the programs that write a file."""

    method: str = "hash"
    order: int = 1234  # of bytes; 4321 is big-endian
    page_size: int = 512
    checksums: bool = False


FORMS = {
    f"{method}-{order}-{size}{'-checksums' * checksums}": Form(method, order, size, checksums)
    for method in ("hash", "btree")
    for order in (1234, 4321)
    for size, checksums in ((512, False), (4096, True), (65536, False))
}


def write(
    records: Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]],
    form: Form = Form(),  # noqa: B008 (it never changes)
    *,
    settings: Iterable[str] = (),
    options: Iterable[str] = (),
) -> bytearray:
    """A database with these records; `settings` and `options` are more of db_load's."""
    peers.need("db5.3_load")
    pairs = records.items() if isinstance(records, Mapping) else records
    lines = [f" {_escaped(key)}\n {_escaped(value)}\n" for key, value in pairs]
    text = f"VERSION=3\nformat=print\ntype={form.method}\nHEADER=END\n{''.join(lines)}DATA=END\n"
    said = [
        f"db_lorder={form.order}",
        f"db_pagesize={form.page_size}",
        f"chksum={form.checksums:d}",
        *settings,
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "file"
        words = [word for setting in said for word in ("-c", setting)]
        subprocess.run(["db5.3_load", *options, *words, file], input=text.encode(), check=True)
        return bytearray(file.read_bytes())


def dumped(data: bytes | bytearray) -> list[tuple[bytes, bytes]]:
    """The records that db5.3_dump finds in a database."""
    peers.need("db5.3_dump")
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "file"
        file.write_bytes(data)
        done = subprocess.run(["db5.3_dump", file], capture_output=True, check=True, text=True)
    _, _, body = done.stdout.partition("HEADER=END\n")
    lines = [bytes.fromhex(line) for line in body.splitlines() if line.startswith(" ")]
    return list(zip(lines[::2], lines[1::2], strict=True))


def _escaped(text: bytes) -> str:
    return "".join(f"\\{byte:02x}" for byte in text)
