"""ipsvd's tcpsvd and tcpdconf behind the same clients: tcpsvd(8) and ipsvd-instruct(5) hold for both.

`address_format = "plain"` is for programs of UCSPI servers such as tcpsvd. The two differ in two variables.
tcpsvd sets TCPLOCALHOST without looking up names (`-l`), and TCPCONCURRENCY where it counts addresses (`-C`).
And tcpdconf ends a text for refused clients with CR LF if it does not have one.
"""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Final

import pytest
from support import peers
from support.running import daemons, processes

pytestmark = pytest.mark.peer

HOST: Final = "127.0.0.1"
ONLY_TCPSVD: Final = {"TCPLOCALHOST", "TCPCONCURRENCY"}
SHOW: Final = ["/usr/bin/env"]
HOLD: Final = ["/bin/sh", "-c", "echo $TCPREMOTEIP; read line; echo $line"]
MISSING: Final = ["/nonexistent/program"]

Serve = Callable[..., contextlib.AbstractContextManager[int]]


@pytest.fixture(params=["tcpsvd", "tcpdconf"])
def serve(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Serve:
    """Serve a program at a port, with the limits and instructions of a test, by one of the two."""
    if request.param == "tcpdconf":
        return lambda program, **settings: by_tcpdconf(tmp_path, program, **settings)
    peers.need("tcpsvd")
    return lambda program, **settings: by_tcpsvd(tmp_path, program, **settings)


@contextlib.contextmanager
def by_tcpsvd(
    folder: pathlib.Path, program: list[str], slots: int = 30, each: str = "", instructions: str = ""
) -> Iterator[int]:
    """Serve by tcpsvd; `each` is the argument of -C.

    The instructions are for 127.0.0.2, and 127.0.0.3 is denied.
    """
    port = daemons.free_port()
    known = folder / "instructions"
    known.mkdir()
    (known / "127.0.0.2").write_text(instructions)
    (known / "127.0.0.3").touch(0)
    options = ["-l", "localhost", "-c", str(slots), *(["-C", each] if each else []), "-i", str(known)]
    server = subprocess.Popen(["tcpsvd", *options, HOST, str(port), *program], env={"PATH": os.defpath})
    try:
        daemons.until(lambda: port in processes.listening(), "tcpsvd")
        yield port
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(daemons.SECONDS)


@contextlib.contextmanager
def by_tcpdconf(
    folder: pathlib.Path, program: list[str], slots: int = 30, each: str = "", instructions: str = ""
) -> Iterator[int]:
    """Serve by tcpdconf what the same arguments mean."""
    port = daemons.free_port()
    most, _, message = each.partition(":")
    lines = [f"max_connections = {slots}", *([f"max_per_ip = {most}"] if most else [])]
    rule = ['network = "127.0.0.2"', 'action = "allow"']
    for line in instructions.splitlines():
        name, _, value = line[1:].partition("=")
        rule.append(
            f"max_per_ip = {line[1:]}"
            if line[0] == "C"
            else f"environment = {{ {name} = {json.dumps(value)} }}"
        )
    text = f"""
        [services.test]
        program = {json.dumps(program)}
        address_format = "plain"
        messages = {{ per_ip = {json.dumps(message.encode().decode("unicode_escape"))} }}
        listeners = [{{ address = "{HOST}", port = {port} }}]
        limits = {{ {", ".join(lines)} }}
        [[services.test.access]]
        rules = [{{ {", ".join(rule)} }}, {{ network = "127.0.0.3", action = "deny" }}]
    """
    with daemons.Daemon(folder, text):
        yield port


def test_a_program_is_told_of_both_ends(serve: Serve) -> None:
    with serve(SHOW) as port, daemons.connect(port, source="127.0.0.9") as client:
        expected = {"PROTO": "TCP", "TCPLOCALIP": HOST, "TCPLOCALPORT": str(port), "TCPREMOTEIP": "127.0.0.9"}
        expected["TCPREMOTEPORT"] = str(client.getsockname()[1])
        said = dict(line.partition("=")[::2] for line in daemons.read(client).decode().splitlines())
    told = {name: value for name, value in said.items() if name.startswith("TCP") or name == "PROTO"}
    assert {name: value for name, value in told.items() if name not in ONLY_TCPSVD} == expected


def test_a_client_above_the_number_of_slots_waits_for_one(serve: Serve) -> None:
    with (
        serve(HOLD, slots=1) as port,
        daemons.connect(port) as first,
        daemons.connect(port, source="127.0.0.9") as second,
    ):
        assert first.recv(100) == b"127.0.0.1\n"
        second.settimeout(0.2)
        with pytest.raises(TimeoutError):
            second.recv(1)
        first.sendall(b"done\n")
        assert daemons.read(first) == b"done\n"
        second.settimeout(daemons.SECONDS)
        assert second.recv(100) == b"127.0.0.9\n"
        second.sendall(b"done\n")
        assert daemons.read(second) == b"done\n"


def test_an_address_has_its_number_and_is_told_so(serve: Serve) -> None:
    with serve(HOLD, each=r"1:421 too many\r\n") as port, daemons.connect(port) as first:
        assert first.recv(100) == b"127.0.0.1\n"
        assert daemons.talk(port) == b"421 too many\r\n"
        assert daemons.talk(port, source="127.0.0.9", say=b"line\n") == b"127.0.0.9\nline\n"


def test_instructions_for_an_address_set_variables_and_its_number(serve: Serve) -> None:
    with serve(SHOW, each="1", instructions="+DEBUG=yes\nC2\n") as port:
        assert b"\nDEBUG=yes\n" in b"\n" + daemons.talk(port, source="127.0.0.2")
        assert b"DEBUG" not in daemons.talk(port, source="127.0.0.9")


def test_the_number_of_an_instruction_counts_instead_of_the_common_one(serve: Serve) -> None:
    with (
        serve(HOLD, each="1:full\\r\\n", instructions="C2\n") as port,
        daemons.connect(port, source="127.0.0.2") as first,
        daemons.connect(port, source="127.0.0.2") as second,
    ):
        assert first.recv(100) == second.recv(100) == b"127.0.0.2\n"
        assert daemons.talk(port, source="127.0.0.2") == b"full\r\n"


def test_a_denied_address_reads_nothing(serve: Serve) -> None:
    with serve(SHOW) as port:
        assert daemons.talk(port, source="127.0.0.3") == b""


def test_a_program_that_is_missing_costs_its_client_alone(serve: Serve) -> None:
    with serve(MISSING) as port:
        assert daemons.talk(port) == b""
        assert daemons.talk(port) == b""
