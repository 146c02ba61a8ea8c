"""Finds where an installation of Courier keeps its programs, from the directory of its configuration."""

import os
import pwd
from collections.abc import Iterator
from typing import NamedTuple


class Installation(NamedTuple):
    """Holds the paths and names that are built into Courier's start scripts.

    Attributes:
        prefix: the beginning of most of its paths; esmtpd and pop3d work in it.
        sbindir: esmtpd and its start scripts; couriertcpd and courierlogger unless said otherwise.
        libexecdir: imaplogin, courierpop3login and courierpop3d, in `courier` below it.
        scripts: the start scripts.
        tls_user: the user that couriertls becomes.
        ssl_first: True if imapd and pop3d get the variables of their -ssl file first.
        units: True if Debian's systemd units start it.
    """

    prefix: str
    bindir: str
    sbindir: str
    libexecdir: str
    scripts: str
    couriertcpd: str
    courierlogger: str
    imaplogin: str
    pop3login: str
    pop3d: str
    tls_user: str
    ssl_first: bool = False
    units: bool = False


def find(directory: str) -> Installation:
    """Return the installation with this configuration: the first one that exists, or else Debian's."""
    known = list(_known(directory))
    for candidate in known:
        if any(map(os.path.exists, (candidate.imaplogin, candidate.pop3login))):
            return candidate
    return next(candidate for candidate in known if candidate.units)


def _known(directory: str) -> Iterator[Installation]:
    """Yield upstream's two packages, whose configuration is PREFIX/etc; Debian's; /usr with libexec."""
    prefix, etc = os.path.split(directory)
    if etc == "etc":
        yield _courier(prefix, f"{prefix}/libexec")
        yield _courier_imap(prefix)
    yield _courier("/usr", "/usr/lib/courier")._replace(tls_user="courier", units=True)
    yield _courier("/usr", "/usr/libexec")


def _courier(prefix: str, libexecdir: str) -> Installation:
    sbindir, programs = f"{prefix}/sbin", f"{libexecdir}/courier"
    return Installation(
        prefix=prefix,
        bindir=f"{prefix}/bin",
        sbindir=sbindir,
        libexecdir=libexecdir,
        scripts=sbindir,
        couriertcpd=f"{sbindir}/couriertcpd",
        courierlogger=_courierlogger(),
        imaplogin=f"{programs}/imaplogin",
        pop3login=f"{programs}/courierpop3login",
        pop3d=f"{programs}/courierpop3d",
        tls_user=_mail_user(),
    )


def _courier_imap(prefix: str) -> Installation:
    """Return the package that has only the IMAP and POP3 servers."""
    bindir, sbindir, libexecdir = f"{prefix}/bin", f"{prefix}/sbin", f"{prefix}/libexec"
    return Installation(
        prefix=prefix,
        bindir=bindir,
        sbindir=sbindir,
        libexecdir=libexecdir,
        scripts=libexecdir,
        couriertcpd=f"{libexecdir}/couriertcpd",
        courierlogger=_courierlogger(),
        imaplogin=f"{sbindir}/imaplogin",
        pop3login=f"{sbindir}/pop3login",
        pop3d=f"{bindir}/pop3d",
        tls_user=_mail_user(),
        ssl_first=True,
    )


def _courierlogger() -> str:
    """Return the path of courierlogger, which is part of courier-authlib with its own prefix."""
    local = "/usr/local/sbin/courierlogger"
    return local if os.path.exists(local) else "/usr/sbin/courierlogger"


def _mail_user() -> str:
    """Return the user that upstream's build chooses: courier, or daemon if there is no such user."""
    try:
        pwd.getpwnam("courier")
    except KeyError:
        return "daemon"
    return "courier"
