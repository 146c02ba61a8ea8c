"""Looks up the port numbers of names in configurations.

It imports little, since the drop-in checks ports before anything else.
"""

import socket
from typing import Final

# for containers without /etc/services (IANA service names, and two of Debian's)
MAIL: Final = {
    "smtp": 25, "pop3": 110, "imap": 143, "imap2": 143, "smtps": 465, "submissions": 465, "urd": 465,
    "submission": 587, "imaps": 993, "pop3s": 995, "sieve": 4190,
}  # fmt: skip


def number(name: str) -> int:
    """Return the port number of a name from the services database, or of a well-known mail port.

    Raises:
        LookupError: the name is unknown.
    """
    try:
        return socket.getservbyname(name, "tcp")
    except OSError:
        return MAIL[name]
