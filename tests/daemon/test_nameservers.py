"""A service whose name servers do not answer: its clients do not wait for ever, and everybody can see why."""

import pathlib
import subprocess
import sys

import daemons
import peers
import pytest
import reloads

# A network with a loopback interface and no route.
ALONE = ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh"]
TALK = "import sys, daemons; sys.stdout.buffer.write(daemons.talk(int(sys.argv[1]), source=sys.argv[2]))"


def talk(daemon: daemons.Daemon, port: int, source: str) -> dict[str, str]:
    """The environment of a client's program, in the daemon's own network."""
    inside = ["nsenter", f"--net=/proc/{daemon.process.pid}/ns/net", sys.executable, "-c", TALK]
    done = subprocess.run(
        [*inside, str(port), source],
        env={"PYTHONPATH": str(pathlib.Path(daemons.__file__).parent)},
        stdout=subprocess.PIPE,
        timeout=daemons.SECONDS,
        check=True,
    )
    return daemons.environment(done.stdout)


@pytest.mark.peer
def test_lists_without_a_network_are_paused(tmp_path: pathlib.Path) -> None:
    """ENETUNREACH is known before a question is on its way; it is counted like any other failure."""
    peers.need_root()
    peers.need("unshare", "nsenter", "ip")
    port = daemons.free_port()
    text = f"""
        [services.test]
        program = ["/usr/bin/env", "-0"]
        listeners = [{{ address = "127.0.0.1", port = {port} }}]
        dns_lists = [{{ zone = "bl.example", probe = false }}, {{ zone = "tested.example" }}]
        [dns]
        servers = ["192.0.2.1"]
    """
    with reloads.Daemon(tmp_path, text, before=ALONE) as daemon:
        for number in range(5, 10):
            assert "BLOCK" not in talk(daemon, port, f"127.0.0.{number}")
        daemon.await_log("zone=bl.example state=paused .*unreachable")
        lists = daemon.uses()["dns_lists"]

    assert {name: lists["bl.example"][name] for name in ("state", "asked", "unreachable")} == {
        "state": "paused", "asked": 3, "unreachable": 3,
    }  # fmt: skip
    assert (lists["tested.example"]["state"], lists["tested.example"]["why"]) == (
        "untested", "cannot be tested: unreachable",
    )  # fmt: skip
