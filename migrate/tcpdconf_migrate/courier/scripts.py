"""Describes Courier's start scripts: the files that each of them reads, and how it starts couriertcpd.

The commands are those of Courier's own scripts, upstream's and Debian's. So the shells read the settings as
often, in the same order and with the same quoting.
"""

import shlex
from collections.abc import Sequence
from typing import Final, NamedTuple

from tcpdconf_migrate.courier import installation

# imapd, imapd-ssl, pop3d, pop3d-ssl; SSL is "SSL" for the second of each pair
_MAILBOX: Final = """\
{outer}
: "${{IMAPACCESSFILE:={directory}/imapaccess}}"
exec /usr/bin/env -i /bin/sh -c " set -a ;
prefix={prefix} ; exec_prefix={prefix} ; sbindir={sbindir} ; bindir={bindir} ; {variables}
{inner}
PROXY_HOSTNAME=$PROXY_HOSTNAME ; {changes}
{run} {courierlogger} -pid=${SSL}PIDFILE -start ${SSL}LOGGEROPTS {couriertcpd} -address=${SSL}ADDRESS \
-maxprocs=$MAXDAEMONS -maxperip=$MAXPERIP {access} $TCPDOPTS ${SSL}PORT {tls} {login} {server} \
${{MAILDIRPATH}}"
"""
_ESMTPD: Final = """\
prefix={prefix} ; exec_prefix={prefix} ; sysconfdir={directory} ; sbindir={sbindir}
{outer}
test -f "$ACCESSFILE.dat" && ACCESSFILE="-access=${{ACCESSFILE}}.dat" || ACCESSFILE=""
test -z "$ADDRESS" || ADDRESS="-address=$ADDRESS"
TCPDOPTS="$TCPDOPTS -user=$MAILUSER -group=$MAILGROUP $ADDRESS $BLACKLISTS $DROP $ACCESSFILE \
-maxprocs=$MAXDAEMONS -maxperc=$MAXPERC -maxperip=$MAXPERIP -pid=$PIDFILE"
(
echo "prefix={prefix} ; exec_prefix={prefix} ; sysconfdir={directory} ; sbindir={sbindir} ; set -a"
echo "{inner}"
echo {run} {couriertcpd} $TCPDOPTS $PORT {sbindir}/courieresmtpd
) | /usr/bin/env -i /bin/sh
"""
_ESMTPD_SSL: Final = """\
prefix={prefix} ; exec_prefix={prefix} ; sysconfdir={directory} ; sbindir={sbindir}
{outer}
test -f "$ACCESSFILE.dat" && ACCESSFILE="-access=${{ACCESSFILE}}.dat" || ACCESSFILE=""
/usr/bin/env -i /bin/sh -c " set -a ;
{inner}
ESMTP_TLS=1 ;
{run} {couriertcpd} -stderrlogger={courierlogger} -stderrloggername=esmtpd-ssl -maxprocs=$MAXDAEMONS \
-maxperip=$MAXPERIP -maxperc=$MAXPERC -pid=$SSLPIDFILE $TCPDOPTS -user=$MAILUSER -group=$MAILGROUP \
$BLACKLISTS $DROP $ACCESSFILE -address=$SSLADDRESS $SSLPORT $COURIERTLS -server -tcpd {sbindir}/courieresmtpd"
"""


class Script(NamedTuple):
    """Describes a start script.

    Attributes:
        name: the name of the script and of its own file.
        service: the name of the service.
        files: the files that it reads; later ones override earlier ones.
        switch: the variable that decides whether it is started with the host.
        unit: Debian's systemd unit.
        changes: variables that it sets for the program, after the files.
        limit: the resource limit that it sets, and the variable with its value in KiB.
        umask: the variable with its umask.
        in_prefix: True if it works in PREFIX.
    """

    name: str
    service: str
    files: tuple[str, ...]
    switch: str
    unit: str
    changes: str = ""
    limit: tuple[str, str] | None = None
    umask: str | None = None
    in_prefix: bool = True

    def ordered(self, there: installation.Installation) -> tuple[str, ...]:
        """Return the files in the order in which this installation's script passes them to the program."""
        return self.files[::-1] if there.ssl_first and not self.over_tls else self.files

    @property
    def over_tls(self) -> bool:
        """True if couriertls runs in front of the server."""
        return self.name.endswith("-ssl")

    @property
    def needed(self) -> tuple[str, ...]:
        """Return the variables whose values are couriertcpd's own options and port."""
        ssl = "SSL" if self.over_tls else ""
        tls = ("COURIERTLS",) if self.over_tls else ()
        if self.name.startswith("esmtpd"):
            address = ("SSLADDRESS",) if self.over_tls else ()
            return f"{ssl}PORT", "MAXDAEMONS", "MAXPERC", "MAXPERIP", f"{ssl}PIDFILE", *address, *tls
        return f"{ssl}PORT", f"{ssl}ADDRESS", "MAXDAEMONS", "MAXPERIP", *tls


_ESMTPD_LIMIT: Final = ("data", "ULIMIT")
_IMAP: Final = Script(
    "imapd", "imap", ("imapd", "imapd-ssl"), "IMAPDSTART", "courier-imap",
    changes="IMAP_STARTTLS=$IMAPDSTARTTLS", limit=("as", "IMAP_ULIMITD"), umask="IMAP_UMASK", in_prefix=False,
)  # fmt: skip
SCRIPTS: Final = (
    Script("esmtpd", "smtp", ("esmtpd",), "ESMTPDSTART", "courier-mta", limit=_ESMTPD_LIMIT),
    Script(
        "esmtpd-msa", "submission", ("esmtpd", "esmtpd-msa"), "ESMTPDSTART", "courier-msa",
        limit=_ESMTPD_LIMIT,
    ),
    Script(
        "esmtpd-ssl", "smtps", ("esmtpd", "esmtpd-ssl"), "ESMTPDSSLSTART", "courier-mta-ssl",
        limit=_ESMTPD_LIMIT,
    ),
    _IMAP,
    _IMAP._replace(
        name="imapd-ssl", service="imaps", switch="IMAPDSSLSTART", unit="courier-imap-ssl",
        changes="IMAP_TLS=1",
    ),
    Script("pop3d", "pop3", ("pop3d", "pop3d-ssl"), "POP3DSTART", "courier-pop"),
    Script(
        "pop3d-ssl", "pop3s", ("pop3d", "pop3d-ssl"), "POP3DSSLSTART", "courier-pop-ssl",
        changes="POP3_TLS=1 ; POP3_STARTTLS=NO ; POP3_TLS_REQUIRED=0", in_prefix=False,
    ),
)  # fmt: skip


_NAMES: Final = frozenset(
    name
    for script in SCRIPTS
    for name in (script.name, f"{script.name}.rc", script.unit, f"{script.unit}.service")
)


NEXT: Final = "run tcpdconf-migrate courier DIR, DIR being where its configuration is (/etc/courier)"


def named(path: str) -> bool:
    """Return whether a path or name is that of a start script, or of the unit or script that starts it."""
    return path.rpartition("/")[2] in _NAMES


def commands(
    script: Script, there: installation.Installation, directory: str, files: Sequence[str], run: str
) -> str:
    """Return the /bin/sh commands by which the script starts couriertcpd.

    Args:
        script: the start script.
        there: the installation with its programs.
        directory: the directory of the configuration.
        files: the script's files that exist.
        run: the program to run instead of couriertcpd, or of the courierlogger in front of it.
    """
    mailbox = script.name.startswith(("imapd", "pop3d"))
    texts = {True: _MAILBOX, False: _ESMTPD_SSL if script.over_tls else _ESMTPD}
    imap = script.name.startswith("imapd")
    # for the command line of a script without TLS the settings in its own file override others
    own_last = mailbox and not script.over_tls
    outer = sorted(files, key=lambda file: file.endswith(f"/{script.name}")) if own_last else files
    return texts[mailbox].format(
        **{name: value for name, value in there._asdict().items() if isinstance(value, str)},
        directory=directory,
        outer=_sourcing(outer),
        inner=_sourcing(files),
        run=run,
        SSL="SSL" if script.over_tls else "",
        variables="" if imap else f"libexecdir={there.libexecdir} ;",
        changes=f"{script.changes} ;" if script.changes else "",
        access="-access=$IMAPACCESSFILE.dat" if imap else "",
        tls=f"$COURIERTLS -server -tcpd -user={there.tls_user}" if script.over_tls else "",
        login=there.imaplogin if imap else there.pop3login,
        server=f"{there.bindir}/imapd" if imap else there.pop3d,
    )


def _sourcing(files: Sequence[str]) -> str:
    return " ; ".join(f". {shlex.quote(file)}" for file in files) or ":"
