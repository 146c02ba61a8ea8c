"""Tests that the daemon opens no file with root's rights that a service's user can choose by a link.

`theirs` belongs to the user of the service, who may put anything into it. `secret` and `vault` are another's.
"""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from support import peers
from support.running import daemons, processes, reloads

USER, OTHER = 54321, 54322
DAEMON = 1  # the number of the user and the group `daemon` wherever there is one
ENVIRONMENT = 'program = ["/usr/bin/env", "-0"]\n'
SPEAKS = 'program = ["/bin/sh", "-c", "echo spoken >&2"]\n'
CAPABILITIES = "+setuid,+setgid,+dac_override,+kill"
CAPABLE = (
    "setpriv", f"--reuid={DAEMON}", f"--regid={DAEMON}", "--clear-groups",
    f"--inh-caps={CAPABILITIES}", f"--ambient-caps={CAPABILITIES}",
)  # fmt: skip
REFUSED = "others may replace"
pytestmark = pytest.mark.peer


class Place(NamedTuple):
    """A host with a service's user on it."""

    folder: pathlib.Path
    theirs: pathlib.Path
    secret: pathlib.Path
    vault: pathlib.Path
    port: int

    def service(self, settings: str, user: str = f"user = {USER}\ngroup = {USER}\n") -> str:
        """A service of that user."""
        return reloads.service(self.port, user + settings)

    def reads(self, path: str | pathlib.Path) -> str:
        """A service of that user whose programs show the variables of a file."""
        return self.service(f'{ENVIRONMENT}environment_files = ["{path}"]\n')

    def writes(self, path: str | pathlib.Path) -> str:
        """A service of that user whose programs write to a file."""
        return self.service(f'{SPEAKS}stderr = {{ file = "{path}" }}\n')

    def own(self, name: str, text: str = "") -> pathlib.Path:
        """A file of the user's."""
        path = self.theirs / name
        path.write_text(text)
        os.chown(path, USER, USER)
        return path

    def directory(self, name: str) -> pathlib.Path:
        """A directory of the user's."""
        path = self.theirs / name
        path.mkdir()
        os.chown(path, USER, USER)
        return path

    def as_user(self, *command: str) -> None:
        """Run what the user can do, and does."""
        subprocess.run([*become(USER), *command], cwd=self.theirs, check=True)

    def variables(self) -> dict[str, str]:
        """Return the output of a program."""
        return daemons.environment(daemons.talk(self.port))


def become(user: int) -> list[str]:
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--bounding-set=-all"]


@pytest.fixture
def place() -> Iterator[Place]:
    peers.need_root()
    peers.need("setpriv")
    with daemons.public_folder() as folder:
        found = Place(
            folder, folder / "theirs", folder / "others/secret", folder / "vault", daemons.free_port()
        )
        for path, user, mode in ((found.theirs, USER, 0o755), (found.secret.parent, OTHER, 0o755)):
            path.mkdir()
            os.chown(path, user, user)
            path.chmod(mode)
        found.vault.mkdir(0o700)
        found.secret.write_text("SECRET=another's\n")
        found.secret.chmod(0o600)
        yield found


def link(place: Place) -> None:
    place.as_user("ln", "-sf", str(place.secret), "env")


def long_way(place: Place) -> None:
    """By a second link, and a directory of the user's."""
    place.as_user("mkdir", "way")
    place.as_user("ln", "-s", "../../others", "way/there")
    place.as_user("ln", "-sf", "way/there/secret", "env")


def hard_link(place: Place) -> None:
    """As everybody may make them where fs.protected_hardlinks is 0, the kernel's default."""
    (place.theirs / "env").unlink()
    (place.theirs / "env").hardlink_to(place.secret)


@pytest.mark.parametrize("plant", [link, long_way, hard_link])
@pytest.mark.parametrize("before", [(), CAPABLE], ids=["root", "capable"])
def test_a_secret_of_another_service_is_not_handed_over(
    place: Place, plant: Callable[[Place], None], before: tuple[str, ...]
) -> None:
    env = place.own("env", "MINE=1\n")
    os.chown(place.folder, *(DAEMON, DAEMON) if before else (0, 0))  # for the control socket
    with reloads.Daemon(place.folder, place.reads(env), before=before) as daemon:
        assert "MINE" in place.variables()
        plant(place)
        assert REFUSED in problems(daemon)

        assert "SECRET" not in place.variables()
        assert "MINE" in place.variables()


def problems(daemon: reloads.Daemon) -> str:
    """Return the reason for which a reload is rejected."""
    answer = daemon.ask("reload")
    assert not answer["ok"], answer
    return "\n".join(str(problem["message"]) for problem in answer["problems"])


PARENT = """
import os, subprocess, sys
with subprocess.Popen(["setpriv", "--pdeathsig", "TERM", *sys.argv[1:]], stderr=2) as daemon:
    sys.stdin.read()
    os._exit(0)
"""


def test_a_daemon_whose_parent_dies_is_told_as_it_was_to_be(place: Place) -> None:
    """Any change of a user resets the signal at the parent's death (PR_SET_PDEATHSIG, prctl(2))."""
    conf = daemons.configure(place.folder, place.reads(place.own("env", "MINE=1\n")))
    command = [sys.executable, "-m", "tcpdconf", "run", str(conf), "--runtime-dir", str(place.folder / "run")]
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, *command], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdin is not None
        assert parent.stderr is not None
        assert any(" running " in line for line in parent.stderr)
        (daemon,) = daemons.children(parent.pid)
        parent.stdin.close()
        parent.wait(daemons.SECONDS)
        try:
            daemons.until(lambda: processes.over(daemon), "the end of the daemon")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(daemon, signal.SIGKILL)


def test_a_service_of_the_supervisors_user_does_not_get_its_capabilities(place: Place) -> None:
    """That user's directories are not the supervisor's alone."""
    for path in (place.folder, place.theirs):
        os.chown(path, DAEMON, DAEMON)
    env = place.own("env", "MINE=1\n")
    text = place.service(f'{ENVIRONMENT}environment_files = ["{env}"]\n', "")
    with reloads.Daemon(place.folder, text, before=CAPABLE) as daemon:
        env.unlink()
        env.symlink_to(place.secret)
        os.chown(env, DAEMON, DAEMON, follow_symlinks=False)
        assert REFUSED in problems(daemon)

        assert "SECRET" not in place.variables()


def test_a_directory_on_the_way_that_becomes_a_link(place: Place) -> None:
    place.directory("etc")
    env = place.own("etc/secret", "MINE=1\n")
    with reloads.Daemon(place.folder, place.reads(env)) as daemon:
        place.as_user("mv", "etc", "before")
        place.as_user("ln", "-s", str(place.secret.parent), "etc")
        assert REFUSED in problems(daemon)

        assert "SECRET" not in place.variables()


@pytest.mark.parametrize("kind", ["access", "directory", "zone"])
def test_other_files_of_a_service(place: Place, kind: str) -> None:
    """A secret zone would be shown by what is asked; access rules set variables."""
    place.directory("rules")
    file = place.own("rules/file", "127\tallow,MINE=1\n" if kind != "zone" else "mine.example\n")
    if kind == "zone":
        server = f"servers = ['127.0.0.1:{daemons.free_port()}']\n"
        settings = f'dns_lists = [{{ zone_file = "{file}", display_zone = "hidden", action = "block" }}]\n'
        text = place.service(ENVIRONMENT + settings) + f"[dns]\n{server}"
    else:
        named = file if kind == "access" else file.parent
        text = place.service(f'{ENVIRONMENT}access = [{{ file = "{named}" }}]\n')
    with reloads.Daemon(place.folder, text) as daemon:
        file.unlink()
        place.as_user("ln", "-s", str(place.secret), "rules/file")

        assert f"cannot open {file}: {REFUSED} the symbolic link {file}" in problems(daemon)


@pytest.mark.parametrize("before", [(), CAPABLE], ids=["root", "capable"])
def test_a_log_file_is_not_made_behind_a_link(place: Place, before: tuple[str, ...]) -> None:
    logs = place.directory("logs")
    os.chown(place.folder, *(DAEMON, DAEMON) if before else (0, 0))  # for the control socket
    with reloads.Daemon(place.folder, place.writes(logs / "log"), before=before) as daemon:
        daemons.talk(place.port)
        assert (logs / "log").read_text() == "spoken\n"
        assert (logs / "log").stat().st_uid == USER
        place.as_user("mv", "logs", "before")
        place.as_user("ln", "-s", str(place.vault), "logs")

        assert REFUSED in problems(daemon)
        assert not list(place.vault.iterdir())


def test_a_log_file_that_is_a_link(place: Place) -> None:
    (place.vault / "there").touch()
    with reloads.Daemon(place.folder, place.writes(place.theirs / "log")) as daemon:
        for name in ("there", "not there"):
            place.as_user("ln", "-sf", str(place.vault / name), "log")
            assert REFUSED in problems(daemon)

    assert [each.name for each in place.vault.iterdir()] == ["there"]
    assert (place.vault / "there").read_text() == ""


def test_a_log_file_that_is_a_descriptor_of_the_daemon(place: Place) -> None:
    """In /proc/self/fd there are the ledgers of all services, and sockets; in /proc/self its memory."""
    with reloads.Daemon(place.folder, place.writes(place.theirs / "log")) as daemon:
        fds = pathlib.Path(f"/proc/{daemon.process.pid}/fd")
        ledgers = [each.name for each in fds.iterdir() if "tcpdconf-ledger" in os.readlink(each)]
        assert ledgers
        for target in (f"fd/{ledgers[0]}", "mem"):
            place.as_user("ln", "-sf", f"/proc/self/{target}", "log")
            problems(daemon)


@pytest.mark.parametrize("target", ["env", "../shared/env"])
def test_links_to_what_the_user_may_read_are_followed(place: Place, target: str) -> None:
    shared = place.folder / "shared"
    shared.mkdir()
    (shared / "env").write_text("SHARED=1\n")
    place.own("env", "SHARED=1\n")
    place.as_user("ln", "-s", target, "link")
    with reloads.Daemon(place.folder, place.reads(place.theirs / "link")):
        assert place.variables()["SHARED"] == "1"


def test_files_of_root_in_directories_of_root(place: Place) -> None:
    """By links of root as well, absolute and relative ones."""
    (place.vault / "env").write_text("MINE=1\n")
    (place.vault / "env").chmod(0o600)
    (place.folder / "link").symlink_to(place.vault)
    (place.folder / "second").symlink_to("link/../vault/env")
    with reloads.Daemon(place.folder, place.reads(place.folder / "second")):
        assert place.variables()["MINE"] == "1"


def test_a_log_in_a_directory_of_a_group(place: Place) -> None:
    """As Ubuntu's /var/log: root:syslog 0775."""
    logs = place.folder / "log"
    logs.mkdir()
    os.chown(logs, 0, OTHER)
    logs.chmod(0o775)
    with reloads.Daemon(place.folder, place.writes(logs / "smtp.log")):
        daemons.talk(place.port)

    assert (logs / "smtp.log").read_text() == "spoken\n"
    assert (logs / "smtp.log").stat().st_uid == 0


def test_a_log_file_of_root_in_the_users_directory(place: Place) -> None:
    log = place.theirs / "log"
    log.touch(0o600)
    with reloads.Daemon(place.folder, place.writes(log)):
        daemons.talk(place.port)

    assert log.read_text() == "spoken\n"


@pytest.mark.parametrize("user", ["", 'user = "root"\n'])
def test_a_service_of_root_is_led_by_nobody_else(place: Place, user: str) -> None:
    place.own("env", "MINE=1\n")
    place.as_user("ln", "-s", "env", "link")
    text = place.service(f'{ENVIRONMENT}environment_files = ["{place.theirs}/link"]\n', user)
    ended = tcpdconf("run", daemons.configure(place.folder, text))

    assert ended.returncode == 78
    assert REFUSED in ended.stderr


def tcpdconf(command: str, conf: pathlib.Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "tcpdconf", command, str(conf)]
    words += ["--runtime-dir", str(conf.parent / "run")] if command == "run" else []
    return subprocess.run(words, capture_output=True, text=True, timeout=daemons.SECONDS, check=False)


def test_check_tells_beforehand(place: Place) -> None:
    link(place)
    place.as_user("ln", "-s", str(place.vault), "logs")
    settings = f"""{SPEAKS}
        environment_files = ["/dev/null", "{place.theirs}/env"]
        stderr = {{ file = "{place.theirs}/logs/log" }}
    """.replace('"/dev/null", ', "")
    found = tcpdconf("check", daemons.configure(place.folder, place.service(settings)))

    assert found.returncode == 78
    for key, path, planted in (
        ("environment_files[0]", "env", "env"),
        ("stderr.file", "logs/log", "logs"),
    ):
        said = f"cannot open {place.theirs}/{path}: {REFUSED} the symbolic link {place.theirs}/{planted}\n"
        assert f"services.test.{key}: {said}" in found.stdout
    assert found.stdout.count("hint: name the file that is meant") == 2
    assert not list(place.vault.iterdir())


FLIP = """
import itertools, os, sys
secret, own = sys.argv[1:]
for _ in itertools.count():
    os.symlink(secret, "new")
    os.rename("new", "env")
    with open("new", "w") as file:
        file.write("MINE=1\\n")
    os.rename("new", "env")
"""


def test_a_file_that_is_replaced_all_the_time(place: Place) -> None:
    """The daemon opens the file that it has checked; both outcomes of a reload occur."""
    env = place.own("env", "MINE=1\n")
    command = [*become(USER), sys.executable, "-c", FLIP, str(place.secret), str(env)]
    with (
        reloads.Daemon(place.folder, place.reads(env)) as daemon,
        subprocess.Popen(command, cwd=place.theirs) as flipping,
    ):
        outcomes = set()
        try:
            end = time.monotonic() + daemons.SECONDS
            for count in range(10_000):
                outcomes.add(daemon.ask("reload")["ok"])
                found = place.variables()
                assert "SECRET" not in found
                assert "MINE" in found
                if (count >= 50 and len(outcomes) == 2) or time.monotonic() > end:
                    break
        finally:
            flipping.kill()

        assert outcomes == {True, False}
        assert re.search(REFUSED, "\n".join(daemon.log))


def test_a_change_behind_a_link_of_the_user_is_noticed(place: Place) -> None:
    """Root opens nothing through such a link, to hash it, and yet sees that the file is another."""
    env = place.own("env", "WORD=old\n")
    place.as_user("ln", "-s", "env", "link")
    with daemons.Daemon(place.folder, place.reads(place.theirs / "link")) as daemon:
        assert place.variables()["WORD"] == "old"
        env.write_text("WORD=new\n")
        daemon.await_log("^reloaded changed=test")
        assert place.variables()["WORD"] == "new"

        place.own("other", "WORD=other\n")
        place.as_user("ln", "-sf", "other", "link")
        daemon.await_log("^reloaded changed=test", 2)
        assert place.variables()["WORD"] == "other"


def couriertcpd(place: Place, *options: str) -> subprocess.CompletedProcess[str]:
    """The drop-in, which is refused."""
    words = [sys.executable, "-m", "tcpdconf.couriertcpd", "-address=127.0.0.1", "-user=nobody", *options]
    words += ["-nodnslookup", str(place.port), "/bin/true"]
    return subprocess.run(words, capture_output=True, text=True, timeout=daemons.SECONDS, check=False)


def test_the_drop_in_makes_no_log_behind_a_link(place: Place) -> None:
    place.as_user("ln", "-s", str(place.vault), "logs")
    ended = couriertcpd(place, f"-stderr={place.theirs}/logs/log")

    assert ended.returncode == 1
    assert (
        f"cannot open {place.theirs}/logs/log: {REFUSED} the symbolic link {place.theirs}/logs"
        in ended.stderr
    )
    assert not list(place.vault.iterdir())


def test_the_drop_in_reads_no_rules_behind_a_link(place: Place) -> None:
    link(place)
    ended = couriertcpd(place, f"-access={place.theirs}/env")

    assert ended.returncode == 1
    assert f"cannot open {place.theirs}/env: {REFUSED} the symbolic link {place.theirs}/env" in ended.stderr
