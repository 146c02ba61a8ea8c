"""Writes HTTP responses. Their headers forbid pages of other hosts to read or frame them, and any caching."""

import email.utils
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple, Self

_STATUS: Final = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    421: "Misdirected Request",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
_POLICY: Final = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Connection": "close",
}
_NONE: Final[Mapping[str, str]] = MappingProxyType({})


class Response(NamedTuple):
    """Holds a response; `headers` are added to the headers of every response."""

    status: int
    kind: str  # the media type
    body: bytes
    headers: Mapping[str, str] = _NONE

    @classmethod
    def plain(cls, status: int, text: str, headers: Mapping[str, str] = _NONE) -> Self:
        """Return a response with a line of text."""
        return cls(status, "text/plain; charset=utf-8", f"{text}\n".encode(), headers)

    def written(self, *, with_body: bool = True) -> bytes:
        """Return the bytes to send."""
        headers = {
            "Date": email.utils.formatdate(usegmt=True),
            "Content-Type": self.kind,
            "Content-Length": str(len(self.body)),
            **_HEADERS,
            **self.headers,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"HTTP/1.1 {self.status} {_STATUS[self.status]}\r\n{lines}\r\n".encode("latin-1")
        return head + self.body if with_body else head


def allowing(*, style: str, script: str) -> dict[str, str]:
    """Return the header that allows a page the style sheet and the script with these hashes, in base64.

    The script may send requests to this process.
    """
    policy = f"{_POLICY}; style-src 'sha256-{style}'; script-src 'sha256-{script}'; connect-src 'self'"
    return {"Content-Security-Policy": policy}
