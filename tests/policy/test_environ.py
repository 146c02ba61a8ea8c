import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpdconf.config import dialect
from tcpdconf.config.model.service import ServiceSettings
from tcpdconf.policy import connection, environ

V4 = connection.endpoint(4, 0xC0000201, 40000)
V6 = connection.endpoint(6, 0x20010DB8 << 96 | 1, 40001)
MAPPED = connection.endpoint(6, 0xFFFF << 32 | 0xC0000201, 40000)


@pytest.mark.parametrize(
    ("peer", "local", "form", "expected"),
    [
        (V4, V4, "mapped", ("TCP", "::ffff:192.0.2.1", "::ffff:192.0.2.1")),
        (V4, V4, "plain", ("TCP", "192.0.2.1", "192.0.2.1")),
        (V6, V6, "mapped", ("TCP", "2001:db8::1", "2001:db8::1")),
        (V6, V6, "plain", ("TCP6", "2001:db8::1", "2001:db8::1")),
        (MAPPED, V6, "plain", ("TCP", "192.0.2.1", "2001:db8::1")),
    ],
)
def test_addresses(
    peer: connection.Endpoint, local: connection.Endpoint, form: str, expected: tuple[str, str, str]
) -> None:
    service = ServiceSettings.model_validate({"address_format": form})
    found = environ.of(connection.Link(peer, local), {}, (), service.address_format)

    assert (found["PROTO"], found["TCPREMOTEIP"], found["TCPLOCALIP"]) == expected
    assert (found["TCPREMOTEPORT"], found["TCPLOCALPORT"]) == (str(peer.port), str(local.port))


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("mapped", "proxy via ::ffff:192.0.2.1, port 40000"),
        ("plain", "proxy via 192.0.2.1, port 40000"),
    ],
)
def test_a_proxied_connection_has_remote_info(form: str, expected: str) -> None:
    service = ServiceSettings.model_validate({"address_format": form})
    link = connection.Link(V6, V4, connection.Proxy(V6, V6))
    found = environ.of(link, {}, (), service.address_format)

    assert (found["TCPREMOTEINFO"], found["TCPLOCALPORT"]) == (expected, "40000")


NAMES = st.sampled_from([*sorted(environ.DAEMON), *sorted(environ.CONNECTION), "PATH", "HOME", "A", "B"])
VARIABLES = st.dictionaries(NAMES, st.text("ab", max_size=2))


@given(VARIABLES, st.booleans() | st.lists(NAMES), VARIABLES, VARIABLES)
def test_base_lets_nothing_of_the_daemons_own_through(
    daemon: dict[str, str], inherit: bool | list[str], files: dict[str, str], table: dict[str, str]
) -> None:
    service = ServiceSettings.model_validate({"inherit_environment": inherit, "environment": table})
    found = environ.base(service, daemon, files)

    expected = dict[str, str]()
    for name, value in daemon.items():
        wanted = inherit if isinstance(inherit, bool) else name in inherit
        if wanted and name not in environ.DAEMON | environ.CONNECTION:
            expected[name] = value
    for layer in (files, table):
        expected.update(layer)
    assert found == expected


@given(st.lists(st.tuples(NAMES, st.text("ab", max_size=2))))
def test_no_rule_displaces_what_is_known_of_the_connection(rules: list[tuple[str, str]]) -> None:
    found = environ.of(connection.Link(V4, V6), {}, rules, "mapped")
    known = environ.of(connection.Link(V4, V6), {}, (), "mapped")

    assert found == {**dict(rules), **known}


@given(VARIABLES, VARIABLES)
def test_the_drop_in_passes_on_all_that_it_has(daemon: dict[str, str], table: dict[str, str]) -> None:
    service = ServiceSettings.model_validate({"environment": table})

    assert environ.base(service, daemon, {}, dialect.COURIERTCPD) == {**daemon, **table}


def test_the_drop_in_says_no_protocol() -> None:
    link = connection.Link(V4, V6)

    found = environ.of(link, {}, (), "mapped", dialect.COURIERTCPD)
    assert {**found, "PROTO": "TCP"} == environ.of(link, {}, (), "mapped")
