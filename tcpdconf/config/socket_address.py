"""Writes an address with a port as every message, log line and status shows it."""


def shown(address: str, port: int) -> str:
    """Return `*:25`, `192.0.2.1:25` or `[2001:db8::1]:25` (RFC 3986, 3.2.2, for the brackets)."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
