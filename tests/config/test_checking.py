"""What `tcpdconf check` says of the files that services name, beyond whether they are there."""

import os
import pathlib
import subprocess
import sys
import time

import daemons
import pytest


def check(
    tmp_path: pathlib.Path, file: pathlib.Path | str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    conf = tmp_path / "conf.d"
    conf.mkdir(exist_ok=True)
    (conf / "a.toml").write_text(
        f"""[services.a]
program = ["/bin/cat"]
listeners = [{{ address = "127.0.0.1", port = 4999 }}]
environment_files = ["{file}"]
"""
    )
    command = [sys.executable, "-m", "tcpdconf", "check", "--format", "github", str(conf), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=daemons.SECONDS, check=False)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"A=1\n# comment\n", None),
        (b"A=1\nexport B=1\n", "{0}:2: must be NAME=VALUE or a comment"),
        (b"A=1\nB=\xff\n", "{0}:2: is not UTF-8: byte 0xff"),
        (b"#" * (1 << 20) + b"\n", "cannot read {0}: larger than 1048576 bytes"),
    ],
)
def test_environment_files_are_read(tmp_path: pathlib.Path, content: bytes, text: str | None) -> None:
    file = tmp_path / "variables"
    file.write_bytes(content)

    found = check(tmp_path, file)

    said = [] if text is None else [f"services.a.environment_files[0].path: {text.format(file)}"]
    errors = [line for line in found.stdout.splitlines() if line.startswith("::error")]
    assert [line.rpartition("::")[2] for line in errors] == said
    assert found.returncode == (78 if said else 0)


def test_a_wrong_environment_file_is_told_beside_other_problems(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "variables"
    file.write_text("export A=1\n")
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/b.toml").write_text("[services.b]\nuser nobody\n")

    found = check(tmp_path, file)

    assert "title=syntax" in found.stdout
    assert "title=wrong-environment-file" in found.stdout


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("fifo", "cannot open {}: not a regular file"),
        ("/dev/zero", "cannot open {}: not a regular file"),
        ("sparse", "cannot read {}: larger than 1048576 bytes"),
    ],
)
def test_what_is_no_file_for_variables_is_not_waited_for(
    tmp_path: pathlib.Path, kind: str, said: str
) -> None:
    file = pathlib.Path(kind) if kind.startswith("/") else tmp_path / "file"
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "sparse":
        with file.open("wb") as opened:
            opened.truncate(1 << 40)

    begin = time.monotonic()
    found = check(tmp_path, file)

    assert found.returncode == 78
    assert f"{said.format(file)}\n" in found.stdout
    assert time.monotonic() - begin < daemons.SECONDS / 2


@pytest.mark.parametrize("kind", ["fifo", "/dev/zero"])
def test_what_is_no_configuration_file_is_not_waited_for(tmp_path: pathlib.Path, kind: str) -> None:
    (tmp_path / "conf.d").mkdir()
    if kind == "fifo":
        os.mkfifo(tmp_path / "conf.d/b.toml")
    else:
        (tmp_path / "conf.d/b.toml").symlink_to(kind)
    (tmp_path / "variables").touch()

    found = check(tmp_path, tmp_path / "variables")

    assert "conf.d/b.toml,title=unreadable::cannot read: Not a regular file\n" in found.stdout


def test_a_candidate_that_never_ends_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "variables").touch()
    replaced = f"{tmp_path}/conf.d/b.toml=/dev/zero"

    found = check(tmp_path, tmp_path / "variables", "--replace", replaced)

    assert "file=/dev/zero,title=too-large::has " in found.stdout
