import os
import pathlib
import signal
import stat
import subprocess
import sys

import pytest

from tcpdconf.config.model import tables
from tcpdconf.daemon.process import descriptors
from tcpdconf.daemon.worker import environment_files


def read(path: pathlib.Path, before: dict[str, str] | None = None, *, shell: bool = True) -> dict[str, str]:
    fd = os.open(path, os.O_RDONLY)
    try:
        return environment_files.read(tables.EnvironmentFile(path=str(path), shell=shell), fd, before or {})
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("A=1\nB=$A$A\n", {"A": "1", "B": "11"}),
        ("A='two words'\n# B=1\nC=\n", {"A": "two words", "C": ""}),
        ('A="line\nbreak"\n', {"A": "line\nbreak"}),
        ("if true; then A=yes; fi\nfalse\n", {"A": "yes"}),
        ("echo said; A=$(echo run)\n", {"A": "run"}),
        ("A=$HOME$USER$TCPREMOTEIP\n", {"A": ""}),
        ("A=\xe4\n", {"A": "\xe4"}),
    ],
)
def test_a_shell_file(tmp_path: pathlib.Path, text: str, expected: dict[str, str]) -> None:
    path = tmp_path / "file"
    path.write_text(text)

    assert read(path) == expected


@pytest.mark.parametrize(
    ("shell", "text", "expected"),
    [
        (True, 'A="$A two"\n', {"A": "one two", "B": "b"}),
        (True, "unset B\n", {"A": "one"}),
        (False, "A=$B\n", {"A": "$B", "B": "b"}),
    ],
)
def test_a_file_goes_on_from_the_files_before_it(
    tmp_path: pathlib.Path, shell: bool, text: str, expected: dict[str, str]
) -> None:
    path = tmp_path / "file"
    path.write_text(text)

    assert read(path, {"A": "one", "B": "b"}, shell=shell) == expected


def test_bytes_that_are_no_utf8_come_through_the_shell(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"A=\xff\xfe\n")

    assert os.fsencode(read(path)["A"]) == b"\xff\xfe"


def test_a_plain_file_is_utf8(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"A=1\nB=\xff\n")

    with pytest.raises(environment_files.EnvironmentFileError, match="is not UTF-8: byte 0xff") as error:
        read(path, shell=False)
    assert str(error.value).startswith(f"{path}:2: ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A=1\nif\n", "ends with status 2: "),
        ("echo why >&2; exit 3\n", "ends with status 3: why"),
        ("exit 4\n", "ends with status 4: no output"),
        ("kill -9 $$\n", "ends with status -9: no output"),
    ],
)
def test_a_shell_file_that_fails(tmp_path: pathlib.Path, text: str, said: str) -> None:
    path = tmp_path / "file"
    path.write_text(text)

    with pytest.raises(environment_files.EnvironmentFileError, match=said):
        read(path)


def test_a_shell_whose_end_somebody_else_has_seen(tmp_path: pathlib.Path) -> None:
    """The worker's loop waits for every child, while a thread reads the files of a reload."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_text("A=1\n")
    bad.write_text("A=1\nexit 3\n")
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel takes every status away
    try:
        assert read(good) == {"A": "1"}
        with pytest.raises(environment_files.EnvironmentFileError, match="ends too early"):
            read(bad)
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_the_copy_of_a_shell_file_has_the_first_free_descriptor(tmp_path: pathlib.Path) -> None:
    """In a process that has nothing open but its standard ones, as after a fork."""
    path = tmp_path / "file"
    path.write_text("A=1\n")
    script = (
        "import os, sys\nfrom tcpdconf.config.model import tables\n"
        "from tcpdconf.daemon.worker import environment_files\n"
        "fd = os.dup2(os.open(sys.argv[1], os.O_RDONLY), 20); os.closerange(3, 20)\n"
        "print(environment_files.read(tables.EnvironmentFile(path=sys.argv[1], shell=True), fd, {}))"
    )
    command = [sys.executable, "-c", script, str(path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "{'A': '1'}\n"


def test_a_shell_file_that_hangs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment_files, "_SECONDS", 0.2)
    path = tmp_path / "file"
    path.write_text("exec tail -f /dev/null\n")

    with pytest.raises(environment_files.EnvironmentFileError, match="has not finished"):
        read(path)


def test_a_file_that_is_too_large(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"#" * (2 << 20))

    with pytest.raises(environment_files.EnvironmentFileError, match="larger than"):
        read(path)
    os.truncate(path, 1 << 40)
    with pytest.raises(environment_files.EnvironmentFileError, match="larger than"):
        read(path, shell=False)


def test_the_files_of_a_directory_in_byte_order(tmp_path: pathlib.Path) -> None:
    for name in ("b", "a", "B", ".hidden", "#edited#", "a~"):
        (tmp_path / name).write_text("")
    (tmp_path / "folder").mkdir()
    found = list(descriptors.access(tables.AccessSource(file=str(tmp_path))))
    for _, fd in found:
        os.close(fd)

    assert [path for path, _ in found] == [f"{tmp_path}/{name}" for name in ("B", "a", "b")]


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(OSError, match="not a regular file"):
        descriptors.regular(str(tmp_path / "pipe"))
    with pytest.raises(OSError, match="No such device or address"):
        descriptors.log(str(tmp_path / "pipe"))


def test_a_log_file_is_appended_to(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "log"
    for word in (b"one\n", b"two\n"):
        fd = descriptors.log(str(path))
        os.write(fd, word)
        assert os.get_blocking(fd)
        os.close(fd)

    assert path.read_text() == "one\ntwo\n"
    assert stat.S_IMODE(path.stat().st_mode) & 0o117 == 0
