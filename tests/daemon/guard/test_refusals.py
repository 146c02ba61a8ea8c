"""Refusals of a service's clients, with values: lines, suppressed lines, addresses."""

import pytest
from support.links import end

from tcpdconf.daemon.guard.refusals import Refusals
from tcpdconf.daemon.messages.worker import RefusedAddress
from tcpdconf.daemon.process import loop, throttle
from tcpdconf.policy.connection import Refused

ACCESS = Refused("access", (("rule", "192.0.2"),))


@pytest.fixture
def made() -> Refusals:
    return Refusals("test", loop.Loop())


def test_a_line_has_the_reason_and_its_details(made: Refusals, capfd: pytest.CaptureFixture[str]) -> None:
    made.log(lambda: {"peer": end("192.0.2.1")}, ACCESS)
    made.log_observed(lambda: {"peer": end("192.0.2.1")}, ACCESS)

    first, second = capfd.readouterr().err.splitlines()
    fields = "service=test reason=access peer=192.0.2.1:25 rule=192.0.2"
    assert first == f"refuse {fields}"
    assert second == f"would-refuse {fields}"


def test_lines_of_each_kind_and_reason_are_limited_apart(
    made: Refusals, capfd: pytest.CaptureFixture[str]
) -> None:
    named = []

    def ends() -> dict[str, object]:
        named.append("192.0.2.1")
        return {"peer": "192.0.2.1"}

    for _ in range(throttle.BURST + 5):
        made.log(ends, ACCESS)
    logged = len(named)
    made.log_observed(ends, ACCESS)
    made.log(ends, Refused("rate"))
    made.log_suppressed()

    assert logged in {throttle.BURST, throttle.BURST + 1}  # one more if this took 200 ms
    assert len(named) == logged + 2  # a suppressed line names nobody
    lines = capfd.readouterr().err.splitlines()
    unlogged = throttle.BURST + 5 - logged
    assert lines[-1] == f"suppressed service=test line=refuse reason=access unlogged={unlogged}"
    assert [" reason=rate " in line for line in lines].count(True) == 1


def test_the_addresses_that_were_refused_most_come_first(made: Refusals) -> None:
    for address, times in (("192.0.2.1", 1), ("2001:db8::1", 3), ("192.0.2.2", 2)):
        for _ in range(times):
            made.count(end(address))

    assert made.addresses() == (
        RefusedAddress(6, 0x20010DB8 << 96 | 1, 3),
        RefusedAddress(4, 0xC0000202, 2),
        RefusedAddress(4, 0xC0000201, 1),
    )
