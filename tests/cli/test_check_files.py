"""Tests the problems that `tcpdconf check` finds in the files that services name."""

import contextlib
import os
import pathlib
import pwd
import subprocess
import sys
import time

import pytest
from support import peers
from support.courier import gdbmfiles
from support.running import daemons


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
    return subprocess.run(command, capture_output=True, text=True, timeout=3 * daemons.SECONDS, check=False)


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
    """`run` refuses them, too, with the same words."""
    file = tmp_path / "variables"
    file.write_bytes(content)

    found = check(tmp_path, file)

    said = [] if text is None else [f"services.a.environment_files[0].path: {text.format(file)}"]
    errors = [line for line in found.stdout.splitlines() if line.startswith("::error")]
    assert [line.rpartition("::")[2] for line in errors] == said
    assert found.returncode == (78 if said else 0)
    if text is not None:
        command = [sys.executable, "-m", "tcpdconf", "run", str(tmp_path / "conf.d")]
        command += ["--runtime-dir", str(tmp_path / "run")]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=daemons.SECONDS, check=False)
        assert (ran.returncode, text.format(file) in ran.stderr) == (78, True)


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


ACCESS = """[services.a]
program = ["/bin/cat"]
user = "nobody"
listeners = [{{ address = "127.0.0.1", port = 4999 }}]
access = [{{ file = "{file}" }}]
"""


def check_access(folder: pathlib.Path, content: bytes, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Check a service that names a file with this content."""
    file = folder / "access"
    file.write_bytes(content)
    if not (folder / "conf.d").exists():
        daemons.configure(folder, ACCESS.format(file=file))
    command = [sys.executable, "-m", "tcpdconf", "check", str(folder / "conf.d"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=3 * daemons.SECONDS, check=False)


WRONG = [
    ("10\tallow\n192.0.2.7\tDENY\n", "2:11", '"DENY" is neither allow nor deny, and couriertcpd admits'),
    ("10\treject\n", "1:4", '"reject" is neither allow nor deny'),
    ("10\tallow;RELAYCLIENT\n", "1:4", '"allow;RELAYCLIENT" is neither allow nor deny'),
    (
        "10\tallow,RELAYCLIENT # comment\n",
        "1:10",
        '"RELAYCLIENT # comment" is not the name of a variable',
    ),
    ("10\tallow,A-B=1\n", "1:10", '"A-B" is not the name of a variable'),
    ('10\tallow,"A=x,y",B C\n', "1:18", '"B C" is not the name of a variable'),
    ("10\tallow,MAXCPERIP=1O\n", "1:10", 'MAXCPERIP must be a number, not "1O"'),
    ("10\tdenyall\n", "1:4", '"denyall" is neither allow nor deny, and couriertcpd refuses'),
    ("10\tdeny,A=1\n", "1:8", "deny takes no variables"),
    (
        "10\tFOO=1\n",
        "1:4",
        '"FOO=1" is neither allow nor deny, and couriertcpd admits this network: write allow',
    ),
    ("10 deny\n", "1:1", "cannot tell the format"),
    ("10\tdeny\n10 deny\n", "2:1", "there must be a TAB"),
    ('[[rules]]\nnetwork = "*"\naction = "Deny"\n', "3:10", 'rules[0].action: must be "allow" or "deny"'),
    ("10\tallow, A = x\n", "1:10", '"A " is not the name of a variable'),
]


def many_services(folder: pathlib.Path, contents: list[str]) -> list[pathlib.Path]:
    """Configure a service for each content of an access file."""
    files = [folder / f"access-{number}" for number in range(len(contents))]
    text = ""
    for number, (file, content) in enumerate(zip(files, contents, strict=True)):
        file.write_bytes(content.encode())
        one = ACCESS.format(file=file).replace("services.a", f"services.a{number:02}")
        text += one.replace("4999", str(4900 + number))
    daemons.configure(folder, text)
    return files


def test_access_files_are_read(tmp_path: pathlib.Path) -> None:
    """`run` refuses them, too, with the same words."""
    command = [sys.executable, "-m", "tcpdconf"]
    with daemons.public_folder() as folder:
        files = many_services(folder, [content for content, _, _ in WRONG])
        conf = str(folder / "conf.d")
        found = subprocess.run([*command, "check", conf], capture_output=True, text=True, check=False)
        fast = subprocess.run([*command, "check", conf, "--fast"], capture_output=True, check=False)
        words = [*command, "run", conf, "--only", "a00", "--runtime-dir", str(tmp_path / "run")]
        ran = subprocess.run(words, capture_output=True, text=True, timeout=daemons.SECONDS, check=False)

    assert (found.returncode, fast.returncode, ran.returncode) == (78, 0, 78)
    said = found.stdout.splitlines()
    for number, (file, (_, place, text)) in enumerate(zip(files, WRONG, strict=True)):
        start = f"{file}:{place}: error: services.a{number:02}.access[0].file: cannot load access rules: "
        assert [line for line in said if line.startswith(start) and text in line], start
    assert f"{files[0]}:{WRONG[0][1]}: " in ran.stderr
    assert WRONG[0][2] in ran.stderr


def test_values_that_are_neither_word_are_told_one_after_the_other() -> None:
    """The last line is right: its CR belongs to the line end."""
    lines = ["192.0.2.7\tDENY\n", "192.0.2.8\treject\n", "192.0.2.9\tallow;RELAYCLIENT\n"]
    good = "192.0.2.10\tallow,RELAYCLIENT\r\n"
    with daemons.public_folder() as folder:
        for number, wrong in enumerate(lines):
            found = check_access(folder, "".join([*lines[number:], good]).encode())
            column = wrong.index("\t") + 2
            assert found.stdout.startswith(f"{folder}/access:1:{column}: error: "), found.stdout
            assert f'"{wrong[column - 1 : -1]}" is neither allow nor deny' in found.stdout
        assert check_access(folder, good.encode(), "--strict").returncode == 0


def test_access_files_that_say_what_they_mean() -> None:
    right = [
        "10\tallow,A=1\r\n11\tdeny\r\n",
        "10\tallow\n",
        "10\tdeny \n",
        '10\tallow, A= "x,y" ,B\n',
        "10\tallow,\n",
    ]
    with daemons.public_folder() as folder:
        many_services(folder, right)
        command = [sys.executable, "-m", "tcpdconf", "check", "--strict", str(folder / "conf.d")]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.stdout.endswith("5 enabled: no problems\n"), found.returncode) == (True, 0)


@pytest.mark.parametrize(
    ("records", "text"),
    [
        ({b"127.0.0.7 ": b"deny", b"10": b"deny"}, 'records that match no address: 1, such as "127.0.0.7 "'),
        ({b"10": b"DENY"}, 'a record with a doubtful value: "DENY" is neither allow nor deny'),
    ],
)
def test_databases_are_read_as_couriertcpd_reads_them_with_a_warning(
    records: dict[bytes, bytes], text: str
) -> None:
    with daemons.public_folder() as folder:
        content = bytes(gdbmfiles.write(records))
        found = check_access(folder, content)
        assert (text in found.stdout, found.returncode) == (True, 0), found.stdout
        assert ":5:20: warning: services.a.access[0].file: " in found.stdout
        assert check_access(folder, content, "--strict").returncode == 78


def test_quiet_says_nothing_of_what_is_well() -> None:
    with daemons.public_folder() as folder:
        assert check_access(folder, b"10\tdeny\n", "--quiet").stdout == ""
        assert check_access(folder, b"10\tDENY\n", "--quiet").stdout.count("\n") == 4


IMPATIENT = """\
import sys
from tcpdconf.cli import filecheck, main
filecheck._PATIENCE = 0.05
sys.exit(main.main())
"""


def at_a_terminal(*arguments: str) -> tuple[str, str]:
    """Run an impatient `check` with a terminal as standard error; what it writes there and to its output."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", IMPATIENT, "check", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True) as process:
        os.close(theirs)
        out, _ = process.communicate(timeout=daemons.SECONDS)
    said = b""
    with contextlib.suppress(OSError):  # the end of a terminal that nobody has open any more
        while data := os.read(ours, 65536):
            said += data
    os.close(ours)
    return said.decode(), out


MANY = 100_000  # lines, which take longer than a twentieth of a second to read


def test_whoever_waits_at_a_terminal_is_told_for_what() -> None:
    lines = "".join(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}\tdeny\n" for n in range(MANY))
    with daemons.public_folder() as folder:
        file = folder / "access"
        file.write_text(lines)
        conf = daemons.configure(folder, ACCESS.format(file=file))
        said, out = at_a_terminal(str(conf))

        assert said == "reading the files of a ...\r\n"
        assert "1 enabled: no problems" in out
        assert check_access(folder, lines.encode()).stderr == ""


def test_whoever_waits_for_a_probe_is_told_so() -> None:
    """The shell file takes long; its worker sources it."""
    with daemons.public_folder() as folder:
        file = folder / "access"
        file.write_text("10\tdeny\n")
        shell = folder / "shell"
        shell.write_text("sleep 2\n")
        text = ACCESS.format(file=file) + f'environment_files = [{{ path = "{shell}", shell = true }}]\n'
        conf = daemons.configure(folder, text)

        assert at_a_terminal("--probe", str(conf))[0].endswith("trying a ...\r\n")
        assert check_access(folder, b"10\tdeny\n", "--probe").stderr == ""


@pytest.mark.peer
def test_nothing_is_executed_and_no_file_is_read_with_roots_rights(tmp_path: pathlib.Path) -> None:
    """A shell file would leave a trace; the process that reads is the service's user."""
    peers.need_root()
    peers.need("strace")
    with daemons.public_folder() as folder:
        (folder / "shell").write_text(f"touch {folder}/trace\n")
        file = folder / "access"
        file.write_bytes(b"10\tdeny\n")
        text = (
            ACCESS.format(file=file) + f'environment_files = [{{ path = "{folder}/shell", shell = true }}]\n'
        )
        conf = daemons.configure(folder, text)
        calls = tmp_path / "calls"
        command = ["strace", "-f", "-o", str(calls), "-e", "trace=setresuid,execve,fork,vfork,clone,clone3"]
        command += [sys.executable, "-m", "tcpdconf", "check", str(conf)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout
        assert not (folder / "trace").exists()
    nobody = pwd.getpwnam("nobody").pw_uid
    assert f"setresuid({nobody}, {nobody}, {nobody})" in calls.read_text()
    assert calls.read_text().count("execve(") == 1


@pytest.mark.peer
def test_what_its_caller_may_not_read_is_a_warning() -> None:
    """The daemon opens it as root, or as the service's user."""
    peers.need_other_users()
    with daemons.public_folder() as folder:
        file = folder / "access"
        file.write_bytes(b"10\tdeny\n")
        file.chmod(0o600)
        conf = daemons.configure(folder, ACCESS.format(file=file))
        command = ["setpriv", "--reuid=daemon", "--regid=daemon", "--clear-groups"]
        command += [sys.executable, "-m", "tcpdconf", "check", str(conf)]
        found = subprocess.run(command, capture_output=True, text=True, timeout=daemons.SECONDS, check=False)
    said = f"cannot read {file}: Permission denied, so the file is not checked"
    assert f"warning: services.a.access[0].file: {said}" in found.stdout
    assert found.returncode == 0


def test_a_file_in_a_directory_may_have_any_name() -> None:
    with daemons.public_folder() as folder:
        (folder / "access").mkdir()
        pathlib.Path(os.fsdecode(os.fsencode(folder) + b"/access/\xff")).write_bytes(b"10\tDENY\n")
        conf = daemons.configure(folder, ACCESS.format(file=folder / "access"))
        command = [sys.executable, "-m", "tcpdconf", "check", str(conf)]
        found = subprocess.run(command, capture_output=True, text=True, timeout=daemons.SECONDS, check=False)
    assert found.stdout.startswith(f"{folder}/access/?:1:4: error: services.a.access[0].file: ")
    assert found.returncode == 78
