"""Offences of a service's clients, with values: lines of the log, and penalties from and for other hosts."""

import pytest
from support.links import end

from tcpdconf.config.model.service import Service
from tcpdconf.daemon.guard.offences import Offences
from tcpdconf.daemon.messages.cluster import NetworkPenalty
from tcpdconf.daemon.process import loop, throttle

NETWORK = 0xC0000201  # 192.0.2.1


class Made:
    """Offences of a service `test`, and what was reported of them."""

    def __init__(self) -> None:
        self.charged: list[None] = []
        self.enforced: list[NetworkPenalty] = []
        self.offences = Offences("test", loop.Loop(), lambda: self.charged.append(None), self.enforced.append)

    def renew(self, **settings: object) -> None:
        """Apply these settings; none at all leave the service without penalties."""
        service = {"program": ["/bin/true"], "listeners": [{"port": 1}]}
        more = {"penalties": settings} if settings else {}
        self.offences.renew(Service.model_validate(service | more), None)


@pytest.fixture
def made() -> Made:
    return Made()


def test_without_penalties_nobody_is_charged(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    made.renew()

    made.offences.charge(end("192.0.2.1"), "refused")
    made.offences.charge_exit(end("192.0.2.1"), 9)
    made.offences.restore([NetworkPenalty(4, NETWORK, 32, 60.0, "refused")])

    assert made.offences.refusal(end("192.0.2.1")) is None
    assert made.offences.status([(4, NETWORK)]) is None
    assert (made.charged, made.enforced, capfd.readouterr().err) == ([], [], "")


def test_a_penalty_is_passed_on_once_it_is_enforced(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    made.renew(killed="30s", min="45s", max="1h", network={"ipv4": 24})

    for _ in range(2):
        made.offences.charge_exit(end("192.0.2.1"), 9)

    (passed_on,) = made.enforced
    assert passed_on._replace(seconds=60.0) == NetworkPenalty(4, NETWORK >> 8, 24, 60.0, "killed")
    assert passed_on.seconds == pytest.approx(60, abs=1)
    assert len(made.charged) == 2
    first, second = capfd.readouterr().err.splitlines()
    fields = "penalty service=test peer=192.0.2.1:25 network=192.0.2.0/24 offence=killed"
    assert f"{fields} seconds=30.0 active=no" in first
    assert fields in second
    assert second.endswith("active=yes")
    assert made.offences.refusal(end("192.0.2.254")) is not None
    assert made.offences.refusal(end("192.0.3.1")) is None


@pytest.mark.parametrize(("status", "charged"), [(0, 0), (1 << 8, 0), (75 << 8, 1), (9, 1), (13, 0), (15, 0)])
def test_the_end_of_a_program(made: Made, status: int, charged: int) -> None:
    """Status 75 is configured; SIGKILL is an offence, SIGPIPE and SIGTERM are none."""
    made.renew(killed="30s", status={"75": "30s"})
    made.offences.charge_exit(end("192.0.2.1"), status)
    assert len(made.charged) == charged


def test_a_penalty_of_another_host_lasts_no_longer_than_one_of_this_service(made: Made) -> None:
    made.renew(refused="10s", min="10s", max="60s")

    made.offences.restore([NetworkPenalty(4, NETWORK, 32, 3600.0, "refused")])

    status = made.offences.status([])
    assert status is not None
    assert status.active == 1
    assert [each.seconds for each in status.sources] == [pytest.approx(60, abs=1)]
    made.offences.restore(
        [NetworkPenalty(4, NETWORK, 32, 5.0, "killed")]
    )  # one that ends sooner changes nothing
    status = made.offences.status([])
    assert status is not None
    assert [each.offence for each in status.sources] == ["refused"]


def test_the_status_has_an_address_that_is_asked_for(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tcpdconf.daemon.guard.offences.MOST_PENALTIES", 1)
    made.renew(refused="10s", min="10s")
    for address in ("192.0.2.1", "192.0.2.2", "192.0.2.3"):
        made.offences.charge(end(address), "refused")

    status = made.offences.status([(4, NETWORK), (4, NETWORK + 9)])

    assert status is not None
    assert status.active == 3
    assert {each.bits for each in status.sources} == {NETWORK, NETWORK + 2}


def test_suppressed_lines_are_counted(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    made.renew(refused="10s")
    for _ in range(throttle.BURST + 5):
        made.offences.charge(end("192.0.2.1"), "refused")
    made.offences.log_suppressed()

    *lines, last = capfd.readouterr().err.splitlines()
    assert len(lines) in {throttle.BURST, throttle.BURST + 1}  # one more if this took 200 ms
    assert last == f"suppressed service=test line=penalty unlogged={throttle.BURST + 5 - len(lines)}"
