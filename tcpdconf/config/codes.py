"""The codes of problems: each with its cause, its cure, and an example of what has it.

A code is stable: scripts may look for it. docs/reference/problems.md is made from this table, and a problem
cannot have a code that is not in it.
"""

from typing import Final, Literal, NamedTuple

Code = Literal[
    "above-host-limit",
    "cannot-bind",
    "cannot-use",
    "conflict",
    "duplicate-chain",
    "duplicate-key",
    "duplicate-listener",
    "duplicate-rule",
    "duplicate-service",
    "encoding",
    "ignored-file",
    "limits-nobody",
    "missing-file",
    "missing-key",
    "missing-program",
    "needs-root",
    "no-files",
    "no-limit-per-address",
    "no-list-answers",
    "no-service",
    "not-enabled",
    "odd-records",
    "runs-as-root",
    "short-timeout",
    "syntax",
    "too-large",
    "too-many-problems",
    "trusts-everybody",
    "unclaimed-socket",
    "unknown-chain",
    "unknown-group",
    "unknown-key",
    "unknown-port",
    "unknown-service",
    "unknown-user",
    "unreadable",
    "untrusted-path",
    "wrong-access-file",
    "wrong-environment-file",
    "wrong-place",
    "wrong-replacement",
    "wrong-type",
    "wrong-value",
]


class Description(NamedTuple):
    """Explains a code: the cause of such a problem, its cure, and an example as `check` prints it."""

    cause: str
    cure: str
    example: str


CODES: Final[dict[Code, Description]] = {
    "above-host-limit": Description(
        "A warning: when all slots are taken, the services together need more processes than a limit of the"
        " kernel, the cgroup or the unit allows, or a worker more descriptors. Connections would then wait"
        " although there are slots. The message names the limit: the running daemon's; if none runs, that of"
        " the unit `tcpdconf.service`; without a unit, that of the process that checks. `run` takes its own.",
        "Lower `max_connections`, or raise the limit: [how](../how-to/limits.md#what-the-host-can-carry).",
        "conf.d/smtp.toml:5:19: warning: services.smtp.limits.max_connections: 50000 connections of all"
        " services, each with a program, and the daemon need at least 50007 processes and threads, and"
        " kernel.pid_max is 32768",
    ),
    "cannot-bind": Description(
        "The kernel does not let the daemon listen there: another program does, or no interface has the"
        " address.",
        "Stop the other program (`ss -ltnp` names it), or choose another port or address; `freebind`"
        " listens on an address that is still to come.",
        "conf.d/smtp.toml:9:8: error: services.smtp.listeners[0].port: cannot bind *:25: Address"
        " already in use",
    ),
    "cannot-use": Description(
        "Something that is configured is there but does not do: an access or environment file that"
        " cannot be parsed, a program that the service's user may not execute.",
        "Do what the message says to the file that it names; `check --probe` tries it again.",
        "conf.d/smtp.toml:14:8: error: services.smtp.access[0].file: cannot load access rules:"
        " /etc/smtpaccess:1:1: there must be a TAB between the network and its value",
    ),
    "conflict": Description(
        "Two values contradict each other.",
        "Change one of them as the message says.",
        "conf.d/smtp.toml:6:11: error: services.smtp.limits.warn_at: must be at most"
        " max_connections (10), not 20",
    ),
    "duplicate-chain": Description(
        "Two files define the same chain of DNS lists.",
        "Delete or rename one; the message names both places.",
        "conf.d/20.toml:1:13: error: dns_chains.spam: is defined twice; first at conf.d/10.toml:1:13",
    ),
    "duplicate-key": Description(
        "A key is written twice, in one file or, of `[dns]` and `[daemon]`, in two.",
        "Delete one; the message names both places.",
        "conf.d/smtp.toml:4:1: error: services.smtp.user: is defined twice; first at conf.d/smtp.toml:3:1",
    ),
    "duplicate-listener": Description(
        'Two listeners want the same port, on the same address or one of them on `"*"`.',
        "Give one of them another port or address, or disable one of the services.",
        "conf.d/20.toml:3:46: error: services.b.listeners[0].port: 127.0.0.1:4999 is taken by"
        " services.a, which"
        " listens on *:4999 at conf.d/10.toml:3:23",
    ),
    "duplicate-rule": Description(
        "Two access rules of one source are for the same network and the same local end.",
        "Delete one of them.",
        "conf.d/smtp.toml:7:3: error: services.smtp.access[0].rules[1]: a rule for the same network and local"
        " end stands above",
    ),
    "duplicate-service": Description(
        "Two files define the same service.",
        "Delete or rename one; the message names both places.",
        "conf.d/20.toml:1:11: error: services.smtp: is defined twice; first at conf.d/10.toml:1:11",
    ),
    "encoding": Description(
        "A file is not UTF-8.",
        "Save it as UTF-8, for instance with `iconv -f latin1 -t utf-8`.",
        "conf.d/smtp.toml:3:17: error: is not UTF-8: byte 0xe4",
    ),
    "ignored-file": Description(
        "A warning: only files whose name ends in `.toml` are read, and another one looks as if it was meant"
        " to be.",
        "Rename it as the message says, or move it out of the directory.",
        "conf.d/imap.conf: warning: is ignored: its name does not end in .toml",
    ),
    "limits-nobody": Description(
        "A warning: a limit of one address or network is above that of the service, which is reached before.",
        "Lower it, or raise `max_connections`.",
        "conf.d/smtp.toml:6:14: warning: services.smtp.limits.max_per_ip: 50 is more than max_connections"
        " (40), so it limits nobody",
    ),
    "missing-file": Description(
        "A file or directory that the service needs is not there, is something else, or may not be read by"
        " who checks.",
        "Create it, correct its path, or check as root.",
        "conf.d/smtp.toml:5:8: error: services.smtp.access[0].file: cannot read /nowhere/smtpaccess: No such"
        " file or directory",
    ),
    "missing-key": Description(
        "A table lacks a key that it needs, alone or beside another.",
        "Add it; the hint shows how it is written.",
        "conf.d/smtp.toml:1:1: error: services.smtp.program: is missing",
    ),
    "missing-program": Description(
        "The program is not there, or is not executable. It may be installed later, so this warns;"
        " a directory is an error.",
        "Install it, or correct its path; there is no PATH search.",
        "conf.d/smtp.toml:2:12: warning: services.smtp.program[0]: there is no program"
        " /nowhere/courieresmtpd",
    ),
    "needs-root": Description(
        "A port below 1024, or another user than the daemon's own, and the daemon has not the rights.",
        "Run it as root, or give it CAP_NET_BIND_SERVICE, CAP_SETUID and CAP_SETGID; or let systemd pass"
        " the sockets on.",
        "conf.d/smtp.toml:9:8: error: services.smtp.listeners[0].port: listening on port 25 needs root",
    ),
    "no-files": Description(
        "The directory has no file whose name ends in `.toml`; those that begin with `.` or `#` do not"
        " count.",
        "Name the right directory, or put a file into it.",
        "conf.d: error: has no file whose name ends in .toml",
    ),
    "no-limit-per-address": Description(
        "A warning: a listener can be reached from outside, and one address may take all slots.",
        "Set `limits.max_per_ip`.",
        "conf.d/smtp.toml:1:1: warning: services.smtp.limits: one address may take all 40 connections",
    ),
    "no-list-answers": Description(
        "A warning of `check --probe`: each list of a chain, or each of a service's own, fails its test or"
        " does not answer, so they judge no client.",
        "Ask through a resolver of your own (`dns.servers`): large lists refuse public ones. Delete lists"
        " that have closed.",
        "conf.d/smtp.toml:4:14: warning: services.smtp.dns_lists: none of these DNS lists can be asked, so"
        " they judge nobody: bl.example does not list 127.0.0.2",
    ),
    "no-service": Description(
        "All services are disabled, or there is none.",
        "Set `enabled = true` for one.",
        "conf.d: error: has no enabled service",
    ),
    "not-enabled": Description(
        "A service that was named on the command line is disabled.",
        "Set `enabled = true`, or name another.",
        "conf.d/imap.toml:4:11: error: services.imap.enabled: must be true for a service that is to run",
    ),
    "odd-records": Description(
        "A warning: an access database has records that match no address, or values that hardly mean what"
        " couriertcpd makes of them, such as `DENY`, which admits.",
        "Correct the text that the database is made from, and make it again.",
        "conf.d/smtp.toml:5:8: warning: services.smtp.access[0].file: /etc/default/smtpaccess.dat has"
        ' records that match nobody: 1, such as "127.0.0.7 "',
    ),
    "runs-as-root": Description(
        "A warning: the service has no `user`, and who checks is root, so its program would run as root.",
        'Set `user` to the account that the program is made for. `user = "root"` is right for a program that'
        " becomes another user itself, as imaplogin and pop3login do; it silences the warning.",
        "conf.d/smtp.toml:1:1: warning: services.smtp: runs as root",
    ),
    "short-timeout": Description(
        "A warning: the time for a PROXY header is shorter than TCP needs to send a lost packet again.",
        "Set `timeout` to 3 or more.",
        "conf.d/smtp.toml:5:48: warning: services.smtp.listeners[0].haproxy.timeout: a header whose"
        " packet is lost once comes too late after 1 s",
    ),
    "syntax": Description(
        "The file is no TOML.",
        "Correct the place that the message points at; it may be a line before, where a quote or bracket"
        " is open.",
        'conf.d/smtp.toml:2:6: error: a key must be followed by "=" and its value',
    ),
    "too-large": Description(
        "The files of conf.d together are larger than the supervisor can read without letting anybody wait:"
        " [the limits](configuration.md). Long lists of access rules are the usual reason.",
        'Put access rules into a file of their own, which `access` names (`file = "..."`; `format = "toml"`'
        " takes rules as they are): the worker reads a million of them beside its work.",
        "conf.d/smtp.toml: error: is too long: all files together have 60020 tokens, and 50000 are the most",
    ),
    "too-many-problems": Description(
        "The configuration has so many problems that the rest is not looked for.",
        "Mend those that are shown, and check again.",
        "conf.d: error: has more problems than 500",
    ),
    "trusts-everybody": Description(
        'A warning: `trusted = "any"` lets whoever reaches the port claim any address.',
        "List the addresses of the proxies, unless a firewall keeps all others away.",
        "conf.d/smtp.toml:5:23: warning: services.smtp.listeners[0].haproxy.trusted: whoever reaches"
        " this port can claim any address",
    ),
    "unclaimed-socket": Description(
        "The service manager passes a socket on for which there is no listener.",
        "Make the ports of the socket unit and of the listeners the same.",
        "conf.d: error: services: no listener is configured for the passed-on descriptor 3 (127.0.0.1:26)",
    ),
    "unknown-chain": Description(
        "A string in `dns_lists` names a chain that no file defines.",
        "Correct the name, or define the chain under `[dns_chains]`.",
        'conf.d/smtp.toml:4:14: error: services.smtp.dns_lists[0]: there is no chain "span"',
    ),
    "unknown-group": Description(
        "The host has no such group.",
        "Create it, or correct its name.",
        'conf.d/smtp.toml:4:9: error: services.smtp.group: unknown group "no-such-group"',
    ),
    "unknown-key": Description(
        "There is no such key in this table.",
        "Correct it; the hint names the key that is meant, or the table that has it.",
        "conf.d/smtp.toml:5:1: error: services.smtp.limits.max_per_ips: unknown key",
    ),
    "unknown-port": Description(
        "The services database has no such name, and it is no well-known mail port.",
        "Write the number.",
        'conf.d/smtp.toml:3:23: error: services.smtp.listeners[0].port: unknown port name "smpt"',
    ),
    "unknown-service": Description(
        "A service that was named on the command line does not exist.",
        "Name one of those that the message lists.",
        'conf.d: error: services: there is no service "imap4"; there are: imap, smtp',
    ),
    "unknown-user": Description(
        "The host has no such user, or a number that the user database lacks stands without a group.",
        "Create the user, correct its name, or add `group`.",
        'conf.d/smtp.toml:4:8: error: services.smtp.user: unknown user "no-such-user"',
    ),
    "unreadable": Description(
        "The directory, or a file in it, cannot be read by who checks.",
        "Correct its path or its mode, or check as root.",
        "conf.d/smtp.toml: error: cannot read: Is a directory",
    ),
    "untrusted-path": Description(
        "The service's user may not open a file, and its path leads through a symbolic link that others than"
        " root may replace, or to a file that others may replace and that has more than one hard link. With"
        " such a link they could have the daemon open any file of the host with its rights.",
        "Name the file that is meant, let the service's user open it, or let only root write to the"
        " directory that has the link.",
        "conf.d/smtp.toml:5:22: error: services.smtp.environment_files[0].path: cannot open"
        " /srv/mail/env: others"
        " may replace the symbolic link /srv/mail/env",
    ),
    "wrong-access-file": Description(
        "An access file cannot be used: its format is unknown, or a line or record of it is wrong.",
        "Correct what stands at the place that is named.",
        "/etc/default/smtpaccess:1:11: error: services.smtp.access[0].file: cannot load access rules:"
        ' "DENY" is neither allow nor deny, and couriertcpd admits this network; write deny',
    ),
    "wrong-environment-file": Description(
        "A line of an environment file assigns nothing or is not UTF-8, or the file is no regular file or"
        " too large.",
        "Correct the line; a file that is a shell script needs `shell = true`.",
        "conf.d/smtp.toml:4:22: error: services.smtp.environment_files[0].path: /etc/default/env:2: must be"
        " NAME=VALUE or a comment",
    ),
    "wrong-place": Description(
        "A key stands beside others with which it means nothing.",
        "Delete it, or move it to where the message says.",
        "conf.d/smtp.toml:7:10: error: services.smtp.access[0].action: goes with a CIDR list only",
    ),
    "wrong-replacement": Description(
        "`check --replace` names a file that is not in the directory, or that would be ignored there.",
        "Name a file `DIR/NAME.toml`; it need not exist.",
        "conf.d: error: cannot replace other/smtp.toml: it is not in this directory",
    ),
    "wrong-type": Description(
        "A value is a string where a number is wanted, a table where an array is, and so on.",
        "Write it as the message says; the hint shows how.",
        "conf.d/smtp.toml:5:14: error: services.smtp.limits.max_per_ip: must be a whole number, not"
        ' a string ("4")',
    ),
    "wrong-value": Description(
        "A value is of the right type but out of range, or not in the notation that the key wants.",
        "Write it as the message says.",
        "conf.d/smtp.toml:5:14: error: services.smtp.limits.max_per_ip: must be at least 1, not 0",
    ),
}
