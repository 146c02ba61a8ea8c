"""Numbers of the ports that configurations name.

It imports little, for the drop-in looks at ports before all else.
"""

import socket
from typing import Final

# a container without /etc/services still knows mail (IANA service names, and two of Debian's)
MAIL: Final = {
    "smtp": 25, "pop3": 110, "imap": 143, "imap2": 143, "smtps": 465, "submissions": 465, "urd": 465,
    "submission": 587, "imaps": 993, "pop3s": 995, "sieve": 4190,
}  # fmt: skip


def number(name: str) -> int:
    """Return what the services database says of a name, or a well-known mail port.

    Raises:
        LookupError: nobody knows the name.
    """
    try:
        return socket.getservbyname(name, "tcp")
    except OSError:
        return MAIL[name]
