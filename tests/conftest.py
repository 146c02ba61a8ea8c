"""Isolates all tests from a tcpdconf, a systemd or a shell around them.

Commands of tcpdconf look for a daemon in the host's runtime directory unless another one is given. Here the
variable for it names a directory that does not exist, and a test fails if it starts a program without either.
A slow host must not fail a test either, so Hypothesis has no deadline.
"""

import gc
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence

import pytest
from hypothesis import HealthCheck, settings

_DIRECTORY = "RUNTIME_DIRECTORY"
_COMMANDS = frozenset({"run", "status", "connections", "reload", "stop", "explain"})
# what a service manager tells those that it starts, and what a login session tells
_CALLERS = (
    *("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM", "INVOCATION_ID"),
    *("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "XDG_RUNTIME_DIR"),
)

settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


def pytest_collection_finish() -> None:
    """Let no test pay for looking through thousands of collected ones for garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def nobodys_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    """The runtime directory of whoever names none; nobody may make one there."""
    nowhere = tmp_path_factory.getbasetemp() / "nobody"
    with pytest.MonkeyPatch.context() as patch:
        for name in _CALLERS:
            patch.delenv(name, raising=False)
        patch.setenv(_DIRECTORY, str(nowhere))
        patch.setenv("STATE_DIRECTORY", str(tmp_path_factory.getbasetemp() / "state"))
        yield nowhere


@pytest.fixture(autouse=True)
def own_runtime_directory(nobodys_host: pathlib.Path) -> Iterator[None]:
    """Fail where a daemon was started without a runtime directory of its own."""
    yield
    if nobodys_host.exists():
        nobodys_host.rmdir()
        pytest.fail("a daemon was started without --runtime-dir: the next test would meet it")


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    """Refuse to start a command of tcpdconf that would look for the host's daemon (an audit hook)."""
    if event == "subprocess.Popen":
        _, words, _, environment = arguments
        _require_a_directory(words, os.environ if environment is None else environment)  # type: ignore[arg-type]


def _require_a_directory(
    words: str | bytes | os.PathLike[str] | Sequence[str | bytes | os.PathLike[str]],
    environment: Mapping[str | bytes, object],
) -> None:
    told = {_DIRECTORY, os.fsencode(_DIRECTORY)} & set(environment)
    if told or isinstance(words, str | bytes | os.PathLike):
        return
    texts = [os.fsdecode(word) for word in words]
    ours = next((at for at, text in enumerate(texts) if os.path.basename(text) == "tcpdconf"), len(texts))
    named = any(text.startswith("--runtime-dir") for text in texts)
    assert named or not _COMMANDS & set(texts[ours + 1 :][:1]), f"without --runtime-dir: {texts}"


sys.addaudithook(_watch)
