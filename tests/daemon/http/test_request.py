"""Heads of requests: what is read of them, and that nothing else is."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpdconf.daemon.http import request
from tcpdconf.daemon.http.request import BadRequestError, Request


def test_what_the_server_needs_is_read() -> None:
    head = (
        b"GET /metrics?a=b HTTP/1.1\r\nHost: a.example:9435\r\nACCEPT: text/plain\r\nAccept:\tx/y \r\nX: \xff"
    )

    assert request.parse(head) == Request("GET", "/metrics", "a.example:9435", "text/plain,x/y ")


@pytest.mark.parametrize("line", [b"Host : a", b" x", b"X: \x00", b"X: a\rb", b"X: a\nb", b":", b"no colon"])
def test_malformed_headers(line: bytes) -> None:
    with pytest.raises(BadRequestError):
        request.parse(b"GET / HTTP/1.1\r\nHost: a\r\n" + line)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    with contextlib.suppress(BadRequestError):
        request.parse(data)
    with contextlib.suppress(BadRequestError):
        found = request.parse(b"GET / HTTP/1.0\r\nAccept: " + data + b"\r\nHost: " + data)
        assert not set(found.accept + (found.host or "")) & set("\r\n\0")
        request.wants_openmetrics(found.accept)
        request.is_own(found.host, {"localhost"})


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain;version=0.0.4", False),
        ("application/openmetrics-text", True),
        ("text/html, application/openmetrics-text; version=1.0.0; charset=utf-8;q=0.5", True),
        ("application/openmetrics-text;version=0.0.1", False),
        ("application/openmetrics-text;version=0.0.1, application/openmetrics-text;version=1.0.0", True),
        ("application/openmetrics-textual", False),
    ],
)
def test_openmetrics_is_for_those_who_name_it(accept: str, wanted: bool) -> None:
    assert request.wants_openmetrics(accept) is wanted
