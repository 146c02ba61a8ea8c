"""Conversations that varnishtest holds with tcpdconf, as HAProxy's regression tests hold them with HAProxy.

The files in `vtc` say again what HAProxy documents of src_conn_rate and of the PROXY protocol's TLVs.
"""

import os
import pathlib
import subprocess

import pytest
from support import peers
from support.running import daemons

ANSWER = r"HTTP/1.0 200 OK\r\nClient: %s\r\nAuthority: %s\r\nContent-Length: 0\r\n\r\n"  # of printf(1)
FILES = sorted((pathlib.Path(__file__).parent / "vtc").glob("*.vtc"))


@pytest.mark.peer
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_conversation_goes_as_written(file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    peers.need("varnishtest")
    direct, proxied = daemons.free_port(), daemons.free_port()
    text = f"""
        [services.test]
        program = ["/bin/sh", "-c", '''printf '{ANSWER}' "$TCPREMOTEIP" "$PROXY_AUTHORITY"''']
        address_format = "plain"
        [services.test.limits]
        {'rate = "3/1h"' if file.stem == "rate" else ""}
        [[services.test.listeners]]
        address = "127.0.0.1"
        port = {direct}
        [[services.test.listeners]]
        address = "127.0.0.1"
        port = {proxied}
        haproxy = {{ trusted = ["127.0.0.1"] }}
    """
    places = [f"-D{name}=127.0.0.1:{port}" for name, port in (("direct", direct), ("proxied", proxied))]
    with daemons.Daemon(tmp_path, text):
        command = ["varnishtest", *places, str(file)]
        environment = {"PATH": os.defpath, "TMPDIR": str(tmp_path)}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 0, done.stdout + done.stderr
