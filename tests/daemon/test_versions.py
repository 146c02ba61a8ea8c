"""Another version takes the place of the daemon that runs, and back; no client is lost on either way.

Earlier versions come from the history of this repository. Their number was 0.1.0 all the time, so their
commits name them: the first that has `--take-over`, and the last before the hand-over had a version and
bans were known.
"""

import contextlib
import pathlib
import signal
import subprocess

import pytest
from support import peers
from support.running import daemons, stores

from tcpdconf.daemon.control import client as control_client

pytestmark = [pytest.mark.peer, pytest.mark.slow]

TOP = pathlib.Path(__file__).parents[2]
FIRST = "bbdde5077d90173a08978a6f3caf80045c67887c"  # 22 November 2026
UNVERSIONED = "e4b41e9e130099b09efbb157eaf9bfeba264e0d2"
# it says when it is told to end, and ends when it has answered
PATIENT = "trap 'echo stopping' TERM; echo here; read word || read word; echo $word"


@pytest.fixture(scope="module", params=[FIRST, UNVERSIONED], ids=["first", "last without versions"])
def earlier(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The beginning of a command line that makes `python -m tcpdconf` the earlier one."""
    folder = tmp_path_factory.mktemp("earlier")
    archive = folder / "tcpdconf.tar"
    command = ["git", "archive", f"--output={archive}", request.param, "tcpdconf"]
    if subprocess.run(command, cwd=TOP, capture_output=True, check=False).returncode != 0:
        without_history()
    subprocess.run(["tar", "--extract", "--file", archive, "--directory", folder], check=True)
    return ["env", "--chdir", str(folder)]


def without_history() -> None:
    """Skip the test where nothing can be wrong: in a shallow clone, or without a repository."""
    shallow = ["git", "rev-parse", "--is-shallow-repository"]
    said = subprocess.run(shallow, cwd=TOP, capture_output=True, text=True, check=False)
    if said.stdout != "false\n":
        pytest.skip("needs the history of the repository")
    peers.without("the history of the repository")


def conf(port: int) -> str:
    return f"""
        [services.patient]
        program = ["/bin/sh", "-c", "{PATIENT}"]
        listeners = [{{ address = "127.0.0.1", port = {port} }}]
        [services.patient.limits]
        max_connections = 100
        max_per_ip = 100
        """


class Runs:
    """Daemons one after the other, which share runtime and state directories."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._count = 0
        self._environment = {"STATE_DIRECTORY": str(folder / "state")}
        (folder / "run").mkdir(mode=0o700)

    def _next(self) -> pathlib.Path:
        self._count += 1
        made = self._folder / str(self._count)
        made.mkdir()
        (made / "run").symlink_to(self._folder / "run")
        return made

    def daemon(self, text: str, before: list[str], *arguments: str) -> daemons.Daemon:
        """The next one, which `before` may make an earlier version."""
        return daemons.Daemon(
            self._next(), text, before=before, arguments=arguments, environment=self._environment
        )


def test_each_takes_over_from_the_other_with_live_connections(
    earlier: list[str], tmp_path: pathlib.Path
) -> None:
    port = daemons.free_port()
    runs = Runs(tmp_path)
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(runs.daemon(conf(port), earlier))
        for before in ([], earlier, []):  # to this version, back, and to it again
            client = stack.enter_context(daemons.connect(port))
            assert daemons.line(client) == b"here\n"
            successor = stack.enter_context(runs.daemon(conf(port), before, "--take-over"))
            running.await_log("^stopping drain=300s")
            with daemons.connect(port) as other:
                assert daemons.line(other) == b"here\n"
                other.sendall(b"new\n")
                assert daemons.read(other) == b"new\n"
            assert running.process.poll() is None
            client.sendall(b"still here\n")
            assert daemons.read(client) == b"still here\n"
            assert running.process.wait(daemons.SECONDS) == 0
            running = successor
        assert running.stop() == 0


def test_each_is_restarted_as_the_other_with_live_connections(
    earlier: list[str], tmp_path: pathlib.Path
) -> None:
    """A service manager keeps the sockets: who is there may end, and who comes meanwhile waits."""
    port = daemons.free_port()
    with contextlib.ExitStack() as stack:
        stored = stack.enter_context(stores.store())
        first = daemons.Daemon(tmp_path, conf(port), before=earlier, stored=stored)
        running = stack.enter_context(first)
        daemons.until(lambda: stored, "the store")
        client = stack.enter_context(daemons.connect(port))
        assert daemons.line(client) == b"here\n"
        for number, before in enumerate(([], earlier, [])):
            running.process.send_signal(signal.SIGTERM)
            assert daemons.line(client) == b"stopping\n"
            waiting = stack.enter_context(daemons.connect(port))
            client.sendall(b"still here\n")
            assert daemons.read(client) == b"still here\n"
            assert running.process.wait(daemons.SECONDS) == 0
            next_one = stores.activated(tmp_path / str(number), conf(port), stored, before)
            running = stack.enter_context(next_one)
            assert daemons.line(waiting) == b"here\n"
            client = waiting


@pytest.mark.parametrize("earlier", [UNVERSIONED], indirect=True, ids=["last without versions"])
def test_bans_outlive_a_version_that_knows_none(earlier: list[str], tmp_path: pathlib.Path) -> None:
    """The earlier version leaves the file of bans as it is, and this one reads it again."""
    port = daemons.free_port()
    runs = Runs(tmp_path)
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(runs.daemon(conf(port), []))
        request = {"command": "ban", "networks": ["127.0.0.2"], "force": True, "reason": "test"}
        assert control_client.ask(running.runtime, request)["ok"]
        for before in (earlier, []):
            successor = stack.enter_context(runs.daemon(conf(port), before, "--take-over"))
            assert running.process.wait(daemons.SECONDS) == 0
            running = successor
        found = control_client.ask(running.runtime, {"command": "bans"})
        assert [each["network"] for each in found["bans"]] == ["127.0.0.2"]
        with daemons.connect(port, source="127.0.0.2") as client:
            assert client.recv(1) == b""
        assert not any("aside" in line or "not read" in line for line in running.log)
    assert [path.name for path in (tmp_path / "state").glob("bans*")] == ["bans"]
