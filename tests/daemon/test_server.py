"""What a running daemon cannot be made to do: a defect in the middle of a connection."""

import socket

import daemons
import pytest

from tcpdconf.config import model, tables
from tcpdconf.daemon import ledger, loop, program, server


class Broken:
    """Lookups with a defect."""

    def begin(self, *_: object) -> None:
        """Fail."""
        raise ZeroDivisionError


def test_a_defect_costs_one_connection_and_not_its_slot(capfd: pytest.CaptureFixture[str]) -> None:
    service = model.Service.model_validate(
        {"program": ["/bin/true"], "listeners": [{"port": 1}], "limits": {"max_connections": 1}}
    )
    events = loop.Loop()
    held = ledger.Ledger(ledger.create(), 1)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    port = listener.getsockname()[1]
    serving = server.Serving(
        service=service,
        sources=[],
        base={},
        runner=program.Program(["/bin/true"], {}, "inherit", tables.Rlimits()),
        lookups=Broken(),  # type: ignore[arg-type] # its only use is to fail
        messages={},
    )
    made = server.Server("test", events, held)
    made.serve(serving, [(listener, None)])
    for _ in range(3):
        with daemons.connect(port) as client:
            events.after(0.05, events.stop)
            events.run()
            assert client.recv(1) == b""
    made.close()

    assert held.counts()["connections"] == 0
    assert capfd.readouterr().err.count("error: cannot serve 127.0.0.1:") == 3
