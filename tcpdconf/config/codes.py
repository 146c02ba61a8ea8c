"""Lists the codes of problems, each with its cause, its cure and an example.

A code is stable: scripts may look for it. docs/reference/problems.md is made from this table, and a problem
cannot have a code that is not in it.
"""

from typing import Final, Literal, NamedTuple

Code = Literal[
    "above-host-limit",
    "banned-address",
    "cannot-bind",
    "cannot-use",
    "client-speaks-first",
    "conflict",
    "damaged-bans",
    "duplicate-chain",
    "duplicate-key",
    "duplicate-listener",
    "duplicate-rule",
    "duplicate-service",
    "encoding",
    "ignored-file",
    "ignored-set-user-id",
    "limits-nobody",
    "missing-file",
    "missing-key",
    "missing-module",
    "missing-program",
    "needs-capability",
    "needs-root",
    "no-fast-open",
    "no-files",
    "no-limit-per-address",
    "no-list-answers",
    "no-service",
    "not-enabled",
    "odd-records",
    "overrides-keepalive",
    "penalises-nothing",
    "runs-as-root",
    "short-timeout",
    "syntax",
    "too-large",
    "too-many-problems",
    "trusts-everybody",
    "unclaimed-socket",
    "unencrypted-engine",
    "unknown-chain",
    "unknown-group",
    "unknown-interface",
    "unknown-key",
    "unknown-port",
    "unknown-preset",
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
        "A warning: with all slots taken, the services together need more processes than a limit of the"
        " kernel, the cgroup or the unit allows, or a worker needs more descriptors. Connections would then"
        " wait although slots are free. The message names the limit. `check` compares with the limits of the"
        " running daemon. If none runs, it takes those of the unit `tcpdconf.service`, and without a unit its"
        " own. `run` compares with its own limits.",
        "Lower `max_connections`, or raise the limit: [how](../how-to/limits.md#capacity-of-the-host).",
        "conf.d/smtp.toml:5:19: warning: services.smtp.limits.max_connections: 50000 connections of all"
        " services, each with a program, and the daemon need at least 50007 processes and threads, and"
        " kernel.pid_max is 32768",
    ),
    "banned-address": Description(
        "A warning: an address that `daemon.never_ban` names, or a trusted proxy, is banned. The ban was"
        " forced, or is older than the setting. Clients behind a banned proxy are served, since their own"
        " addresses count.",
        "Lift the ban with `tcpdconf unban`, or remove the address from the configuration.",
        "conf.d/smtp.toml:2:1: warning: daemon.never_ban: 192.0.2.7 is banned, but 192.0.2.0/24"
        " should not be",
    ),
    "cannot-bind": Description(
        "The kernel does not let the daemon listen there: another program already listens, or no interface"
        " has the address.",
        "Stop the other program (`ss -ltnp` names it), or choose another port or address. `freebind = true`"
        " listens on an address that no interface has yet.",
        "conf.d/smtp.toml:9:8: error: services.smtp.listeners[0].port: cannot bind *:25: Address"
        " already in use",
    ),
    "cannot-use": Description(
        "A configured file exists but cannot be used. For example, an access or environment file cannot be"
        " parsed, or the service's user may not execute the program.",
        "Correct the file that the message names, and try it again with `check --probe`.",
        "conf.d/smtp.toml:14:8: error: services.smtp.access[0].file: cannot load access rules:"
        " /etc/smtpaccess:1:1: there must be a TAB between the network and its value",
    ),
    "client-speaks-first": Description(
        "`early_talker` finds clients that send data before the program does. At this port every client has"
        " to: TLS from the start (465, 993, 995) and HTTP begin with the client. A warning if tcpdconf does"
        " not know the protocol of the port.",
        "Leave `early_talker` out for this service. If it has other listeners as well, divide it into two"
        " services. The warning stays; it is not an error.",
        "conf.d/imap.toml:6:14: error: services.imap.listeners[1].port: clients of port 993 have to send data"
        " first, so early_talker would find all of them",
    ),
    "conflict": Description(
        "Two values contradict each other.",
        "Change one of them; the message gives the bound.",
        "conf.d/smtp.toml:6:11: error: services.smtp.limits.warn_at: must be at most"
        " max_connections (10), not 20",
    ),
    "damaged-bans": Description(
        "A warning: the file of bans in the state directory has a line that is no ban.",
        "Nothing has to be done. The daemon puts the file aside when it starts, and keeps the bans that can"
        " be read. The file that was put aside shows what is missing.",
        "conf.d: warning: daemon: /var/lib/tcpdconf/bans: line 7: it is no ban",
    ),
    "duplicate-chain": Description(
        "Two files define the same chain of DNS lists.",
        "Delete or rename one. The message names both places.",
        "conf.d/20.toml:1:13: error: dns_chains.spam: is defined twice, first at conf.d/10.toml:1:13",
    ),
    "duplicate-key": Description(
        "A key is written twice in one file, or two files set the same key of `[dns]` or `[daemon]`.",
        "Delete one. The message names both places.",
        "conf.d/smtp.toml:4:1: error: services.smtp.user: is defined twice, first at conf.d/smtp.toml:3:1",
    ),
    "duplicate-listener": Description(
        'Two listeners have the same port, on the same address or one of them on `"*"`.',
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
        "Delete or rename one. The message names both places.",
        "conf.d/20.toml:1:11: error: services.smtp: is defined twice, first at conf.d/10.toml:1:11",
    ),
    "encoding": Description(
        "A file is not UTF-8.",
        "Convert it, for example with `iconv -f latin1 -t utf-8`.",
        "conf.d/smtp.toml:3:17: error: is not UTF-8: byte 0xe4",
    ),
    "ignored-file": Description(
        "A warning: tcpdconf reads only files whose name ends in `.toml`, and another file looks like a"
        " configuration.",
        "Rename it as the hint says, or move it out of the directory.",
        "conf.d/imap.conf: warning: is ignored: its name does not end in .toml",
    ),
    "ignored-set-user-id": Description(
        "A warning: with `no_new_privileges` the kernel ignores the set-user-ID and set-group-ID bits of"
        " programs, and the program of the service has one of them.",
        "Leave `no_new_privileges` out, unless the program can do without.",
        "conf.d/smtp.toml:4:21: warning: services.smtp.no_new_privileges: /etc/default/helper does not become"
        " another user or group, as its mode says",
    ),
    "limits-nobody": Description(
        "A warning: a limit per address or network is above `max_connections`. The service is full before"
        " a client reaches its own limit.",
        "Lower it, or raise `max_connections`.",
        "conf.d/smtp.toml:6:14: warning: services.smtp.limits.max_per_ip: 50 is more than max_connections"
        " (40), so it has no effect",
    ),
    "missing-file": Description(
        "A file or directory that the service needs does not exist, has another type, or cannot be read by"
        " the user who checks.",
        "Create it, correct its path, or check as root.",
        "conf.d/smtp.toml:5:8: error: services.smtp.access[0].file: cannot read /nowhere/smtpaccess: No such"
        " file or directory",
    ),
    "missing-key": Description(
        "A table lacks a key that it always needs, or needs beside another key.",
        "Add the key. The hint shows how.",
        "conf.d/smtp.toml:1:1: error: services.smtp.program: is missing",
    ),
    "missing-module": Description(
        "`[cluster]` needs the Python module hiredis, which parses the protocol of Valkey and Redis.",
        "Install tcpdconf with its extra: `pip install 'tcpdconf[cluster]'`, or hiredis itself.",
        "conf.d/00-all.toml:3:1: error: cluster: needs the Python module hiredis, which is not installed",
    ),
    "missing-program": Description(
        "The program does not exist or is not executable. This is a warning, because the program may be"
        " installed later. A directory in its place is an error.",
        "Install the program, or correct its path. PATH is not searched.",
        "conf.d/smtp.toml:2:12: warning: services.smtp.program[0]: there is no program"
        " /nowhere/courieresmtpd",
    ),
    "needs-capability": Description(
        "The daemon lacks a right that the shipped unit does not give. `tcp.mark` needs CAP_NET_RAW, and so"
        " does `tcp.interface` on a socket that has another interface. `nice` needs the system call"
        " setpriority, and CAP_SYS_NICE for a value below the daemon's. `oom_score_adjust` needs"
        " CAP_SYS_RESOURCE for a value below the daemon's. `check` warns of these two if `tcpdconf.service`"
        " forbids them.",
        "Add a drop-in to the unit: [`net-raw.conf`](../how-to/systemd.md#marks-and-interfaces),"
        " [`nice.conf` or `OOMScoreAdjust=`](../how-to/systemd.md#priorities). Without systemd, run the"
        " daemon as root. To take an interface back without the drop-in, stop the daemon and start it: a"
        " restart keeps the sockets.",
        "conf.d/smtp.toml:4:16: error: services.smtp.tcp.mark: needs CAP_NET_RAW",
    ),
    "needs-root": Description(
        "The service has a port below 1024, or a user or group other than the daemon's, and the daemon lacks"
        " the rights for it. Or the daemon is not in `daemon.control_group`, or may not become"
        " `daemon.http.user`.",
        "Run the daemon as root, or give it CAP_NET_BIND_SERVICE, CAP_SETUID and CAP_SETGID. systemd can"
        " bind the ports instead, with a socket unit.",
        "conf.d/smtp.toml:9:8: error: services.smtp.listeners[0].port: listening on port 25 needs root",
    ),
    "no-fast-open": Description(
        "A warning: the kernel lets no server use TCP Fast Open, so `tcp.fastopen` has no effect.",
        "Set bit 2 of `net.ipv4.tcp_fastopen`: `sysctl -w net.ipv4.tcp_fastopen=3` keeps what clients may do"
        " by default.",
        "conf.d/smtp.toml:4:20: warning: services.smtp.tcp.fastopen: has no effect, because"
        " net.ipv4.tcp_fastopen is 1",
    ),
    "no-files": Description(
        "The directory has no file whose name ends in `.toml`. Names that begin with `.` or `#` are ignored.",
        "Name the right directory, or put a file into it.",
        "conf.d: error: has no file whose name ends in .toml",
    ),
    "no-limit-per-address": Description(
        "A warning: other hosts can reach a listener, and one address may take all slots of the service.",
        "Set `limits.max_per_ip`.",
        "conf.d/smtp.toml:1:1: warning: services.smtp.limits: one address may take all 40 connections",
    ),
    "no-list-answers": Description(
        "A warning of `check --probe`: all lists of a chain, or all lists of a service, fail their test or do"
        " not answer. They have no effect.",
        "Set `dns.servers` to a resolver of your own, because large lists refuse public ones. Delete lists"
        " that have closed.",
        "conf.d/smtp.toml:4:14: warning: services.smtp.dns_lists: none of these DNS lists works, so they"
        " have no effect: bl.example does not list 127.0.0.2",
    ),
    "no-service": Description(
        "No service is defined, or all services are disabled.",
        "Set `enabled = true` for one.",
        "conf.d: error: has no enabled service",
    ),
    "not-enabled": Description(
        "The command line names a service that is disabled.",
        "Set `enabled = true`, or name another service.",
        "conf.d/imap.toml:4:11: error: services.imap.enabled: must be true, because the command line names"
        " this service",
    ),
    "odd-records": Description(
        "A warning: an access database has records that match no address, or values that couriertcpd"
        " probably reads otherwise than intended. For example, `DENY` admits, because only `deny` denies.",
        "Correct the text from which the database is made, and make it again.",
        "conf.d/smtp.toml:5:8: warning: services.smtp.access[0].file: /etc/default/smtpaccess.dat has"
        ' records that match no address: 1, such as "127.0.0.7 "',
    ),
    "overrides-keepalive": Description(
        "A warning: with `user_timeout` the kernel does not count the probes of `keepalive`. It ends an idle"
        " connection by the time alone. It also ends the connection of a client that is there and reads"
        " nothing for that time, such as a mail program that waits for its user.",
        "Leave `user_timeout` out, or set it to time + interval * count of `keepalive`.",
        "conf.d/smtp.toml:5:16: warning: services.smtp.user_timeout: overrides keepalive.count: a vanished"
        " client is given up after 330 s instead of 420 s, and one that reads nothing after 120 s",
    ),
    "penalises-nothing": Description(
        "A warning: the table `penalties` sets no time for any kind of offence, so nobody gets a penalty.",
        "Set `refused`, `proxy`, `early_talker`, `killed` or `status`, or delete the table:"
        " [how](../how-to/penalties.md).",
        "conf.d/smtp.toml:4:13: warning: services.smtp.penalties: no kind of offence has a penalty",
    ),
    "runs-as-root": Description(
        "A warning: the service has no `user`, so a daemon of root runs its program as root. Or"
        " `daemon.http.user` is root.",
        "Set `user` to the account of the program. Programs that change to another user themselves, as"
        ' imaplogin and pop3login do, need `user = "root"`, which silences the warning.',
        "conf.d/smtp.toml:1:1: warning: services.smtp: runs as root",
    ),
    "short-timeout": Description(
        "A warning: the time for a PROXY header is shorter than TCP needs to resend a lost packet.",
        "Set `timeout` to 3 or more.",
        "conf.d/smtp.toml:5:48: warning: services.smtp.listeners[0].haproxy.timeout: too short for a header"
        " whose packet is lost once: 1 s",
    ),
    "syntax": Description(
        "The file is not valid TOML.",
        "Correct the place that the message points at. The cause may be on a line before, such as a quote or"
        " bracket that is not closed.",
        'conf.d/smtp.toml:2:6: error: a key must be followed by "=" and its value',
    ),
    "too-large": Description(
        "The files of conf.d together exceed [a limit](configuration.md), which keeps a reload from delaying"
        " the running services. Long lists of access rules are the usual reason.",
        'Put access rules into a file of their own, which `access` names with `file = "..."`. With'
        ' `format = "toml"`, the file holds the same rules. A worker reads a million of them while it'
        " serves.",
        "conf.d/smtp.toml: error: is too long: all files together have 60020 tokens, at most 50000 are"
        " allowed",
    ),
    "too-many-problems": Description(
        "The configuration has more problems than `check` reports at once.",
        "Correct the problems that are shown, and check again.",
        "conf.d: error: has more than 500 problems",
    ),
    "trusts-everybody": Description(
        'A warning: with `trusted = "any"`, every client of the port can claim any address.',
        "List the addresses of the proxies, unless a firewall closes the port to all other hosts.",
        "conf.d/smtp.toml:5:23: warning: services.smtp.listeners[0].haproxy.trusted: any client of this"
        " port can claim any address",
    ),
    "unclaimed-socket": Description(
        "The service manager passes a socket that no listener uses.",
        "Give the socket unit and the listeners the same ports.",
        "conf.d: error: services: the service manager passes descriptor 3 (127.0.0.1:26), but no listener"
        " uses it",
    ),
    "unencrypted-engine": Description(
        "A warning: `cluster.url` leads to another host without TLS. Others on the network can read the"
        " password and the addresses of clients, and answer in the engine's place.",
        "Use `rediss://`, or a tunnel whose end is an address of this host.",
        "conf.d/00-defaults.toml:4:7: warning: cluster.url: others on the network can read the password and"
        " the clients' addresses",
    ),
    "unknown-chain": Description(
        "A string in `dns_lists` names a chain that no file defines.",
        "Correct the name, or define the chain under `[dns_chains]`.",
        'conf.d/smtp.toml:4:14: error: services.smtp.dns_lists[0]: there is no chain "span"',
    ),
    "unknown-group": Description(
        "The host has no such group, as `group` of a service or of `daemon.http`, or `daemon.control_group`.",
        "Create it, or correct its name.",
        'conf.d/smtp.toml:4:9: error: services.smtp.group: unknown group "no-such-group"',
    ),
    "unknown-interface": Description(
        "This host has no network interface with this name. `check` warns, since the interface may come"
        " later. The daemon cannot start or reload before.",
        "Correct the name (`ip link` lists them), or create the interface first.",
        "conf.d/smtp.toml:4:21: warning: services.smtp.tcp.interface: there is no interface eth9",
    ),
    "unknown-key": Description(
        "The table has no such key.",
        "Correct it. The hint names a similar key, or the table that has this key.",
        "conf.d/smtp.toml:5:1: error: services.smtp.limits.max_per_ips: unknown key",
    ),
    "unknown-port": Description(
        "The host's services database (`/etc/services`) has no such name, and it is no well-known mail port.",
        "Correct the name, or write the number.",
        'conf.d/smtp.toml:3:23: error: services.smtp.listeners[0].port: unknown port name "smpt"',
    ),
    "unknown-preset": Description(
        "A DNS list has a `preset` that tcpdconf does not know.",
        "Correct the name, or write the zone and its other keys.",
        'conf.d/smtp.toml:4:25: error: services.smtp.dns_lists[0].preset: there is no preset "spamhaus-zn"',
    ),
    "unknown-service": Description(
        "The command line names a service that does not exist.",
        "Name one of the services that the message lists.",
        'conf.d: error: services: there is no service "imap4"; there are: imap, smtp',
    ),
    "unknown-user": Description(
        "The host has no such user. Or `user` is a number that the user database lacks, and `group` is not"
        " set.",
        "Create the user, correct its name, or add `group`.",
        'conf.d/smtp.toml:4:8: error: services.smtp.user: unknown user "no-such-user"',
    ),
    "unreadable": Description(
        "The user who checks cannot read the directory, or a file in it.",
        "Correct its path or its mode, or check as root.",
        "conf.d/smtp.toml: error: cannot read: Is a directory",
    ),
    "untrusted-path": Description(
        "The service's user may not open a file, and root does not open it either. The path leads through a"
        " symbolic link that a user other than root may replace, or to such a file with more than one hard"
        " link. With such a link, that user could make the daemon open any file of the host as root.",
        "Write the path of the file itself, let the service's user open it, or let only root write to the"
        " directory of the link.",
        "conf.d/smtp.toml:5:22: error: services.smtp.environment_files[0].path: cannot open"
        " /srv/mail/env: others may replace the symbolic link /srv/mail/env",
    ),
    "wrong-access-file": Description(
        "An access file cannot be used: its format is unknown, or a line or record of it is wrong.",
        "Correct the file at the place that the message names.",
        "/etc/default/smtpaccess:1:11: error: services.smtp.access[0].file: cannot load access rules:"
        ' "DENY" is neither allow nor deny, and couriertcpd admits this network: write deny',
    ),
    "wrong-environment-file": Description(
        "A line of an environment file is no assignment or not UTF-8, or the file is too large or not a"
        " regular file.",
        "Correct the line. A shell script needs `shell = true`.",
        "conf.d/smtp.toml:4:22: error: services.smtp.environment_files[0].path: /etc/default/env:2: must be"
        " NAME=VALUE or a comment",
    ),
    "wrong-place": Description(
        "A key has no meaning beside the other keys of its table.",
        "Delete it, or move it as the message says.",
        "conf.d/smtp.toml:7:10: error: services.smtp.access[0].action: goes with a CIDR list only",
    ),
    "wrong-replacement": Description(
        "`check --replace` names a file outside the directory, or one whose name makes tcpdconf ignore it.",
        "Name a file `DIR/NAME.toml`, which need not exist.",
        "conf.d: error: cannot replace other/smtp.toml: it is not in this directory",
    ),
    "wrong-type": Description(
        "A value has the wrong type, such as a string instead of a number.",
        "Write a value of the type that the message names. The hint shows how.",
        "conf.d/smtp.toml:5:14: error: services.smtp.limits.max_per_ip: must be a whole number, not"
        ' a string ("4")',
    ),
    "wrong-value": Description(
        "A value has the right type, but is out of range or in another notation than the key expects.",
        "Write a value that the message allows.",
        "conf.d/smtp.toml:5:14: error: services.smtp.limits.max_per_ip: must be at least 1, not 0",
    ),
}
