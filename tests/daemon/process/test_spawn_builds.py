"""Other builds of the extension: for another processor, with all warnings, sanitizers, and for valgrind."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
from typing import Final

import pytest
from support import peers

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(400)]

TOP: Final = pathlib.Path(__file__).parents[3]
SOURCE: Final = TOP / "tcpdconf/daemon/process/_spawn.c"
WARNINGS: Final = ("-Wall", "-Wextra", "-Werror", "-fanalyzer")
ARM: Final = "aarch64-linux-gnu-"
SANITIZERS: Final = ("-g", "-O1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined")
# options with which a compiler adds calls to functions, or has functions call others
ADDING: Final = [
    "-O0",
    "-O2",
    "-O3",
    "-O2 -flto",
    "-O0 -fsanitize=address,undefined",
    "-O2 -fsanitize=thread",
    "-O2 -pg",
    "-O2 --coverage",
    "-O2 -finstrument-functions",
    "-O3 -fstack-protector-all -fstack-clash-protection -fcf-protection",
    "-O2 -ftrivial-auto-var-init=zero",
]


def compiled(result: pathlib.Path, *options: str, prefix: str = "") -> pathlib.Path:
    """Compile the extension; the compiler must be silent."""
    headers = sysconfig.get_path("include")
    peers.need(f"{prefix}gcc", f"{prefix}objdump")
    if not pathlib.Path(headers, "Python.h").exists():
        peers.without("python3-dev")
    command = [f"{prefix}gcc", "-fPIC", "-shared", *options, f"-I{headers}", "-o", str(result), str(SOURCE)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    return result


def child(extension: pathlib.Path, prefix: str = "") -> list[str]:
    """The instructions of the child's function."""
    command = [f"{prefix}objdump", "--disassemble=run", "--no-show-raw-insn", str(extension)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    found = [line.partition(":\t")[2] for line in lines if ":\t" in line]
    assert len(found) > 50
    return found


@pytest.mark.parametrize("level", ["-O0", "-O2"])
def test_no_compiler_warns(tmp_path: pathlib.Path, level: str) -> None:
    compiled(tmp_path / "made.so", level, *WARNINGS)
    compiled(tmp_path / "made.so", level, *WARNINGS, "-DSPAWN_BY_FORK")


@pytest.mark.parametrize("options", ADDING)
def test_the_child_calls_no_function(tmp_path: pathlib.Path, options: str) -> None:
    """Nor does it use the thread's own memory, which is that of a thread of the parent."""
    calls = re.compile(r"\b(call|jmp +\*)|%[fg]s:")

    assert not [
        each for each in child(compiled(tmp_path / "made.so", *options.split())) if calls.search(each)
    ]


@pytest.mark.parametrize("level", ["-O0", "-O2", "-O3"])
def test_the_child_calls_no_function_on_aarch64(tmp_path: pathlib.Path, level: str) -> None:
    """The configuration of this machine's Python serves: both processors have the same sizes of types."""
    host = pathlib.Path(sysconfig.get_config_h_filename())
    there = tmp_path / "aarch64-linux-gnu" / host.parent.name
    there.mkdir(parents=True)
    machine = pathlib.Path("/usr/include", sysconfig.get_config_var("MULTIARCH") or "", host.parent.name)
    (there / "pyconfig.h").write_text(f'#include "{machine / "pyconfig.h"}"\n')
    made = compiled(tmp_path / "made.so", level, *WARNINGS, f"-I{tmp_path}", prefix=ARM)
    calls = re.compile(r"^(bl|blr|br)\b|\bmrs\b")

    assert not [each for each in child(made, ARM) if calls.search(each)]
    assert sum(each.startswith("svc") for each in child(made, ARM)) > 10


def tree(folder: pathlib.Path, *options: str) -> pathlib.Path:
    """A copy of what is needed to start programs, and to test that, with an extension compiled like this."""
    shutil.copytree(
        TOP / "tcpdconf", folder / "tcpdconf", ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    shutil.copytree(TOP / "bench", folder / "bench", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(TOP / "tests/support", folder / "tests/support")
    for name in (
        "pyproject.toml",
        "tests/daemon/process/test_spawn.py",
        "tests/daemon/worker/test_program.py",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(TOP / name, folder / name)
    (folder / "docs").mkdir()
    compiled(folder / "tcpdconf/daemon/process/_spawn.abi3.so", *options)
    return folder


def run(folder: pathlib.Path, *command: str, **environment: str) -> str:
    """Run a command in a copy of the tree, which must succeed, and return its output."""
    variables = {**os.environ, **environment, "PYTHONMALLOC": "malloc", "PYTHONPATH": str(folder)}
    ran = subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, timeout=390, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_with_sanitizers(tmp_path: pathlib.Path) -> None:
    """The tests of starting programs. Python has leaks of its own: those of the extension count."""
    folder = tree(tmp_path / "tree", *SANITIZERS, "-fno-sanitize-recover=all")
    named = [
        subprocess.run(["gcc", f"-print-file-name=lib{name}.so"], capture_output=True, text=True, check=True)
        for name in ("asan", "ubsan")
    ]
    libraries = " ".join(ran.stdout.strip() for ran in named)
    tests = ["tests/daemon/process/test_spawn.py", "tests/daemon/worker/test_program.py"]
    reports = tmp_path / "report"
    said = run(
        folder, sys.executable, "-m", "pytest", "-n0", "-k", "not portable", "-p", "no:cacheprovider", *tests,
        LD_PRELOAD=libraries,
        ASAN_OPTIONS=f"log_path={reports}:detect_leaks=1",
        LSAN_OPTIONS="exitcode=0",
        UBSAN_OPTIONS="print_stacktrace=1",
    )  # fmt: skip

    assert re.search(r"\d\d passed", said), said
    assert "skipped" not in said, said
    found = [text for report in tmp_path.glob("report.*") for text in report.read_text().split("\n\n")]
    assert not [text for text in found if "_spawn" in text or "ERROR: AddressSanitizer" in text]


def test_under_valgrind(tmp_path: pathlib.Path) -> None:
    """It refuses a child that shares the memory, so the child is a fork. It ends one whose environment is too
    long. Python's own errors do not count.
    """
    peers.need("valgrind")
    folder = tree(tmp_path / "tree", "-g", "-O1", "-DSPAWN_BY_FORK")
    report = tmp_path / "report"
    options = ["--leak-check=full", "--show-leak-kinds=definite,indirect", "--num-callers=40"]
    command = ["valgrind", *options, "--child-silent-after-fork=yes", f"--log-file={report}", sys.executable]
    script = (
        "import errno; from bench import starts; print(*starts.measure(1000, (errno.ENOENT, errno.EACCES)))"
    )

    assert "Mark(starts=1000, " in run(folder, *command, "-c", script)
    text = re.sub(r"^==\d+== ?", "", report.read_text(), flags=re.MULTILINE)
    assert "ERROR SUMMARY" in text
    assert not [each for each in text.split("\n\n") if "_spawn" in each]
