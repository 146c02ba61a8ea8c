"""nginx as the proxy: its stream module writes the header that tcpdconf reads (`proxy_protocol on`)."""

import contextlib
import os
import pathlib
import subprocess
from collections.abc import Iterator

import pytest
from support import peers
from support.running import daemons, processes

MODULE = pathlib.Path("/usr/lib/nginx/modules/ngx_stream_module.so")


@contextlib.contextmanager
def nginx(folder: pathlib.Path, port: int, to: int) -> Iterator[None]:
    """Pass connections on to a port of 127.0.0.1, with the header."""
    text = f"""
        load_module {MODULE};
        daemon off;
        master_process off;
        pid {folder}/pid;
        error_log stderr;
        events {{ }}
        stream {{
            server {{
                listen 127.0.0.1:{port};
                proxy_pass 127.0.0.1:{to};
                proxy_protocol on;
            }}
        }}
    """
    (folder / "nginx.conf").write_text(text)
    command = ["/usr/sbin/nginx", "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]
    server = subprocess.Popen(command, env={"PATH": os.defpath}, stderr=subprocess.DEVNULL)
    try:
        daemons.until(lambda: port in processes.listening(), "nginx")
        yield
    finally:
        server.terminate()
        server.wait(daemons.SECONDS)


@pytest.mark.peer
def test_a_program_behind_nginx_is_told_of_the_client(tmp_path: pathlib.Path) -> None:
    peers.need("/usr/sbin/nginx")
    if not MODULE.exists():
        peers.without(str(MODULE))
    port, front = daemons.free_port(), daemons.free_port()
    text = f"""
        [services.test]
        program = ["/usr/bin/env"]
        address_format = "plain"
        [[services.test.listeners]]
        address = "127.0.0.1"
        port = {port}
        haproxy = {{ trusted = ["127.0.0.1"] }}
    """
    (tmp_path / "nginx").mkdir()
    with (
        daemons.Daemon(tmp_path, text),
        nginx(tmp_path / "nginx", front, port),
        daemons.connect(front, source="127.0.0.9") as client,
    ):
        said = daemons.read(client).decode().splitlines()
        assert "TCPREMOTEIP=127.0.0.9" in said
        assert f"TCPREMOTEPORT={client.getsockname()[1]}" in said
        assert f"TCPLOCALPORT={front}" in said
