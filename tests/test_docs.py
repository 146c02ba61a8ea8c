"""Tests that the examples of README and docs work as shown.

Fenced blocks are known by their word. `console` holds commands (`$ `) with their output; they are run,
in order, in a directory with a copy of conf.d and in a network whose ports are all free, where tcpdconf is
the wheel in an environment of its own. A `tcpdconf run` among them, or at the end of a `sh` block, runs until
the page ends, and `log` holds lines that the latest one has written; a command with `&` runs until then as
well. Other `sh` blocks are shown only. A block that begins with `# PATH` is that file. A block in an HTML
comment counts as well: it makes the trouble that the page is about. Numbers that differ from run to run
(pids, ports, seconds) do not count.
"""

import ast
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tomllib
from collections.abc import Iterator, Sequence

import pytest
from config.load import test_mistakes
from support import loglines, markdown, networks, packages, peers
from support.courier import courierhost
from support.dns import dnsservers
from support.running import daemons

from tcpdconf.config import problems
from tcpdconf.config.model import tables
from tcpdconf.config.model.service import Settings
from tcpdconf.daemon.control import client as control_client
from tcpdconf.policy import connection, environ
from tcpdconf.policy.access import file as access_file

TOP = pathlib.Path(__file__).parent.parent
PAGES = [
    *(TOP / f"{each}.md" for each in ("README", "CONTRIBUTING", "SECURITY")),
    *sorted((TOP / "docs").rglob("*.md")),
]
ON_A_MAIL_HOST = {TOP / "docs/tutorial/imap.md", TOP / "docs/how-to/imap-behind-haproxy.md"}
NEEDED = {
    "docs/how-to/imap-behind-haproxy.md": ["haproxy"],
    "docs/how-to/migrate.md": ["esmtpd", "imapd", "pop3d"],  # Debian's, as they were installed
    "docs/how-to/several-hosts.md": ["haproxy"],
    "docs/how-to/systemd.md": ["systemd-socket-activate"],
    "docs/how-to/three-in-the-morning.md": ["rbldnsd"],
}
# name servers that a page's `[dns]` names; this one lists everybody
BESIDE = {
    "docs/how-to/three-in-the-morning.md": lambda: dnsservers.Rbldnsd(
        {"block.example": ("ip4set", "0.0.0.0-255.255.255.255\n")}, port=5353
    )
}
VARYING = re.compile(
    r"(?<=\bpid=)\d+|(?<=\bpeer=127\.0\.0\.\d:)\d+|(?<=\bvia=127\.0\.0\.1:)\d+"
    r"|(?<=\bTCPREMOTEPORT=)\d+|(?<=\bseconds=)[\d.]+|(?<=  )\d+ ms +"
)

HOME = "/srv/me"  # where a reader has the folder of the commands


def name(page: pathlib.Path) -> str:
    return str(page.relative_to(TOP))


def steady(text: str) -> list[str]:
    """Lines without what differs from run to run."""
    return VARYING.sub("N", loglines.TIME.sub("TIME", text)).splitlines()


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Each command of a console block, with the output that is shown."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


class Session:
    """A directory in which a page's commands are run, and what some of them have left running.

    `commands` is where tcpdconf is installed; `before` stands in front of every command.
    """

    def __init__(self, folder: pathlib.Path, commands: pathlib.Path, before: Sequence[str] = ()) -> None:
        self._folder = folder
        self._before = before
        self._environment = {
            "PATH": f"{commands}:{os.environ['PATH']}",
            "HOME": str(folder),
            "RUNTIME_DIRECTORY": str(folder / "run"),
            "STATE_DIRECTORY": str(folder / "state"),
        }
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._others: list[subprocess.Popen[bytes]] = []

    def show(self, block: markdown.Block) -> None:
        """Do what a block shows."""
        match block.word:
            case "toml" | "cfg" | "yaml":
                file = re.match(r"# (\S+\.\w+)\n", block.text)
                if file:
                    (self._folder / file[1]).write_text(block.text)
            case "sh":
                self._serve(*re.findall(r"tcpdconf (run .*)$", block.text))
            case "console":
                for command, output in commands(block.text):
                    if command.startswith("tcpdconf run "):
                        self._serve(command.removeprefix("tcpdconf "))
                        self._check_log(output)
                    elif command.endswith(" &"):
                        self._start(command.removesuffix(" &"))
                    else:
                        said = self._said(command).replace(str(self._folder), HOME)
                        assert steady(output) == steady(said), command
                        self._await_programs()
            case "log":
                self._check_log(block.text)

    def end(self) -> None:
        """Stop what runs."""
        for process in self._others:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(daemons.SECONDS)
        for process in self._daemons:
            process.terminate()
        ended = {process.wait(daemons.SECONDS) for process in self._daemons}
        assert ended <= {-signal.SIGTERM if self._before else 0}  # what stands before takes the signal itself

    @property
    def _log(self) -> pathlib.Path:
        return self._folder / f"log-{len(self._daemons)}"

    def _logged(self) -> str:
        """Return the log of the latest daemon, without the times."""
        return loglines.without_times(self._log.read_text())

    def _serve(self, *arguments: str) -> None:
        if arguments:
            command = [*self._before, "tcpdconf", *arguments[0].split()]
            stderr = (self._folder / f"log-{len(self._daemons) + 1}").open("wb")
            with stderr:
                self._daemons.append(
                    subprocess.Popen(command, cwd=self._folder, env=self._environment, stderr=stderr)
                )
            daemons.until(lambda: "\nrunning " in self._logged(), "the daemon")

    def _start(self, command: str) -> None:
        """Run it in the background, from when it listens or is connected."""
        process = subprocess.Popen(
            [*self._before, "/bin/sh", "-c", command],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._others.append(process)
        daemons.until(lambda: self._has_a_socket(process.pid), command)

    def _has_a_socket(self, session: int) -> bool:
        """Return whether a process of this session has a TCP socket. `ss` runs out here, for the pids."""
        found = subprocess.run(["ss", "-Htanp"], capture_output=True, text=True, check=True).stdout
        members = (int(pid) for pid in set(re.findall(r"\bpid=(\d+)", found)))
        return session in map(_session, members)

    def _said(self, command: str) -> str:
        """Run a command at a terminal where nobody types. A command that waits for input is a failure."""
        terminal, own = os.openpty()
        try:
            said = subprocess.run(
                [*self._before, "/bin/sh", "-c", command],
                cwd=self._folder,
                env=self._environment,
                stdin=own,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=daemons.SECONDS,
                check=False,
            )
        finally:
            os.close(terminal)
            os.close(own)
        return said.stdout

    def _await_programs(self) -> None:
        """Wait for the programs of clients that have ended: a reader takes longer to type the next command.

        A client in the background keeps its program.
        """

        def ended() -> bool:
            with contextlib.suppress(control_client.ControlError):  # it has stopped, or is on the mail host
                status = control_client.ask(str(self._folder / "run"), {"command": "status"})
                if any(service["connections"] for service in status["services"].values()):
                    return False
            words = [line.partition(" ")[0] for line in self._logged().splitlines()]
            return words.count("accept") == words.count("end")

        if self._daemons and not self._others:
            daemons.until(ended, f"the end of the programs:\n{self._log.read_text()}")

    def _check_log(self, shown: str) -> None:
        """Wait until all lines that are shown have been written, in their order; others may be between."""

        def written() -> bool:
            rest = iter(steady(self._log.read_text().replace(str(self._folder), HOME)))
            return all(any(each.startswith(line) for each in rest) for line in steady(shown))

        daemons.until(
            written,
            f"these lines in the log:\n{shown}\nwhich is\n{self._log.read_text()}",
        )


def _session(pid: int) -> int:
    """The session that a process is in; 0 when it has ended."""
    with contextlib.suppress(ProcessLookupError):
        return os.getsid(pid)
    return 0


@pytest.fixture(scope="module")
def commands_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The commands of a fresh environment with the wheel in it, as a reader has them."""
    folder = tmp_path_factory.mktemp("installed")
    packages.install(packages.build(folder)["wheel"], folder / "venv")
    return folder / "venv/bin"


def follow(page: pathlib.Path, session: Session) -> None:
    """Do all that a page shows, in its order."""
    try:
        for block in markdown.blocks(page, "toml", "cfg", "yaml", "sh", "console", "log"):
            session.show(block)
    finally:
        session.end()


SHOWN = [page for page in PAGES if markdown.blocks(page, "console") and page not in ON_A_MAIL_HOST]
FIRST = {TOP / "README.md", *(TOP / "docs/tutorial").iterdir()}  # pages that a newcomer follows


@pytest.mark.peer
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[] if page in FIRST else pytest.mark.slow, id=name(page)) for page in SHOWN],
)
def test_commands_do_what_is_shown(
    page: pathlib.Path, commands_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    peers.need("nc", "ss", *NEEDED.get(name(page), ()))
    shutil.copytree(TOP / "conf.d", tmp_path / "conf.d")
    with networks.new(), BESIDE.get(name(page), contextlib.nullcontext)():
        follow(page, Session(tmp_path, commands_folder))


@pytest.mark.peer
@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(ON_A_MAIL_HOST), ids=name)
def test_commands_do_what_is_shown_on_a_mail_host(
    page: pathlib.Path, commands_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Its `sh` blocks have been followed: Courier is installed, and authdaemond knows users by userdb."""
    peers.need("nc", "/usr/bin/imapd", *NEEDED.get(name(page), ()))
    courierhost.need()
    with networks.new(), courierhost.Host(tmp_path) as host, daemons.public_folder() as folder:
        before = [*host.inside, "env", f"--chdir={folder}"]
        follow(page, Session(folder, commands_folder, before))


@pytest.mark.parametrize("page", [page for page in PAGES if markdown.blocks(page, "toml")], ids=name)
def test_shown_toml_is_valid(page: pathlib.Path) -> None:
    for block in markdown.blocks(page, "toml"):
        if "max_per_ips" in block.text:  # the tutorial's mistake
            continue
        read = tables.AccessFile if block.text.startswith("[[rules]]") else Settings
        read.model_validate(tomllib.loads(block.text))


def test_the_how_to_for_imap_shows_the_shipped_service() -> None:
    shown, _ = (
        tomllib.loads(block.text)
        for block in markdown.blocks(TOP / "docs/how-to/serve-courier-imap.md", "toml")
    )
    shipped = tomllib.loads((TOP / "conf.d/30-imap.toml").read_text())
    assert {**shipped["services"]["imap"], **shown["services"]["imap"]} == shipped["services"]["imap"]


@pytest.mark.parametrize("form", ["courier", "cidr", "toml"])
def test_access_files_are_what_the_reference_shows(form: str) -> None:
    shown = markdown.blocks(TOP / "docs/reference/access-files.md", form)
    assert shown
    for block in shown:
        data = block.text.encode()
        assert access_file.recognise("shown", data) == form
        source = {"file": "/shown", "local": ".25\t" in block.text} | (
            {"action": "deny"} if form == "cidr" else {}
        )
        table = access_file.read([("shown", data)], tables.AccessSource.model_validate(source))
        assert len(table.peers) + len(table.locals) > 0


def test_every_variable_of_a_connection_is_in_the_reference() -> None:
    page = (TOP / "docs/reference/environment.md").read_text()
    here = connection.endpoint(4, 0x7F000001, 25)
    link = connection.Link(here, here, connection.Proxy(here, here))
    set_for_one = environ.of(link, {}, (), "mapped")
    assert [
        name for name in {*set_for_one, *environ.DAEMON, *environ.CONNECTION} if f"`{name}`" not in page
    ] == [
        "TCPLOCALINFO"  # in no contract, only kept from being inherited
    ]


TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "array": (list,), "string or null": (str, type(None)),
}  # fmt: skip


def keys_in_json(page: str) -> list[dict[str, tuple[type, ...]]]:
    """The keys of each table between "In JSON" and the next heading, with their types."""
    section = page.partition("## In JSON\n")[2].partition("\n## ")[0]
    tables_shown = [part for part in section.split("\n\n") if part.startswith("| key | type |")]
    return [
        {
            key: TYPES[kind]
            for keys, kind in re.findall(r"^\| (`.*?`) \| ([a-z ]+) \|", table, re.MULTILINE)
            for key in re.findall(r"`(\w+)`", keys)
        }
        for table in tables_shown
    ]


def test_problems_in_json_have_the_keys_of_the_reference(tmp_path: pathlib.Path) -> None:
    """Each golden mistake, as `check --format json` prints it."""
    problem_keys, edit_keys = keys_in_json((TOP / "docs/reference/problems.md").read_text())
    edits = 0
    for case in test_mistakes.CASES:
        folder = tmp_path / case.stem
        folder.mkdir()
        test_mistakes.write(test_mistakes.read(case).files, folder)
        for each in json.loads(problems.render(test_mistakes.found(folder), "json")):
            assert list(each) == list(problem_keys)
            assert all(isinstance(each[key], kind) for key, kind in problem_keys.items()), each
            assert (each["line"] == 0) == (each["column"] == 0)
            named = folder / each["file"]
            assert each["line"] or not named.is_file() or each["code"] == "ignored-file", each
            for edit in each["edits"]:
                edits += 1
                assert list(edit) == list(edit_keys)
                assert all(isinstance(edit[key], kind) for key, kind in edit_keys.items())
                assert (1, 1) <= (edit["line"], edit["column"]) <= (edit["end_line"], edit["end_column"])
    assert edits > 50


def logged(path: pathlib.Path) -> Iterator[list[str]]:
    """The fixed parts of the text of every line that a module may log, debug lines left out."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="log"), attr=level), args=[*texts, text]):
                if level in {"error", "warning", "info"} or (level == "write" and texts):
                    parts = text.values if isinstance(text, ast.JoinedStr) else [text]
                    yield [str(part.value).strip() for part in parts if isinstance(part, ast.Constant)]


def test_every_line_of_the_log_is_in_the_reference() -> None:
    page = (TOP / "docs/reference/log.md").read_text()
    lines = [line for path in sorted((TOP / "tcpdconf/daemon").rglob("*.py")) for line in logged(path)]
    assert len(lines) > 15
    assert [line for line in lines if not all(part in page for part in line)] == []


def test_every_key_of_a_line_is_among_the_keys_in_json() -> None:
    page = (TOP / "docs/reference/log.md").read_text()
    section = page.partition("## JSON\n")[2].partition("\n## ")[0]
    keys = {
        key
        for first in re.findall(r"^\| (`.*?`) \| ", section, re.MULTILINE)
        for key in re.findall(r"`(\w+)`", first)
    }
    used = set(re.findall(r"\b([a-z_]+)=", page.partition("## Connections")[2]))
    assert used - keys == set()
    given = {
        each.arg
        for path in (TOP / "tcpdconf/daemon").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "log"
        for each in node.keywords
    }
    assert given - keys <= {None}


def anchors(page: pathlib.Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = (re.sub(r"\[(.*?)\]\(.*?\)", r"\1", each) for each in headings)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in plain}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: pathlib.Path) -> None:
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text()):
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"
