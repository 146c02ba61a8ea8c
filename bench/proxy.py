"""What a PROXY header costs a connection, and what peers that send none cost the others.

python -m bench.proxy
"""

import contextlib
import functools
import pathlib
import socket
import tempfile

from bench import clients

SILENT = 500
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.9 5555 25\r\n"
V2 = (
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"
    + socket.inet_aton("192.0.2.7")
    + socket.inet_aton("198.51.100.9")
    + b"\x15\xb3\0\x19"
)


def service(name: str, program: str, port: int, more: str = "") -> str:
    """One service on one port."""
    return f"""
        [services.{name}]
        program = ["{program}"]
        listeners = [{{ address = "127.0.0.1", port = {port}{more} }}]
        limits = {{ max_connections = 1000 }}
    """


def main() -> None:
    """Measure and print."""
    plain, proxied = clients.free_port(), clients.free_port()
    pending = "max_pending = 1000, max_pending_per_peer = 1000"
    haproxy = f', haproxy = {{ trusted = ["127.0.0.1"], timeout = 600, {pending} }}'
    with tempfile.TemporaryDirectory() as folder:
        program = clients.static_program(pathlib.Path(folder))
        text = service("plain", program, plain) + service("proxied", program, proxied, haproxy)
        cases = {
            "no header": functools.partial(clients.connect_to_eof, plain),
            "v1": functools.partial(clients.connect_to_eof, proxied, V1),
            "v2": functools.partial(clients.connect_to_eof, proxied, V2),
        }
        with clients.daemon(text):
            clients.report(clients.rounds(cases, times=7, each=300), "no header")
            with contextlib.ExitStack() as silent:
                for _ in range(SILENT):
                    silent.enter_context(socket.create_connection(("127.0.0.1", proxied)))
                print(f"beside {SILENT} peers that send nothing:")
                clients.report(clients.rounds(cases, times=7, each=300), "no header")


if __name__ == "__main__":
    main()
