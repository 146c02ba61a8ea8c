"""Models conf.d/*.toml: the schema, its defaults, and rules that concern one table.

`Settings` is one file as written, in which no key is required. `Config` is the effective whole, with
`defaults` filled in. Rules that need the host (users, ports, files) are in `host`; rules that need several
services are in `load`. Descriptions and examples become the JSON Schema and the reference.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, Strict, model_validator

from tcpdconf.config.model import dns as dns_model
from tcpdconf.config.model import fields, tables
from tcpdconf.config.model.agent import Agent
from tcpdconf.config.model.cluster import Cluster
from tcpdconf.config.model.dns import Dns, DnsChain, Judging, ListOrChain
from tcpdconf.config.model.http import Http


class Daemon(tables.Model):
    """Settings of the daemon."""

    log_level: fields.LogLevel = Field(
        default="info", description="Logs lines of this level and of more important ones."
    )
    log_format: Literal["text", "json"] = Field(
        default="text",
        description='Form of the lines of the log: "text" is an event and key=value pairs, "json" one JSON '
        "object a line. Under systemd, text goes to the journal with a field for each key.",
        examples=["json"],
    )
    stop_timeout: Annotated[float, fields.Duration(0, 86400)] = Field(
        default=10,
        description="Time that programs have to end after SIGTERM, in seconds. tcpdconf then ends "
        "without them.",
        examples=[30],
    )
    drain_timeout: Annotated[float, fields.Duration(0, 604800)] = Field(
        default=300,
        description="Time, in seconds, that programs of a removed service may continue before they "
        "get SIGTERM. After a take-over, it applies to the programs of the previous "
        "daemon.",
        examples=[3600, "1h"],
    )
    watch: fields.Watched = Field(
        default=True,
        description='Reloads by itself when files change. "poll" checks the files every 2 s instead '
        "of using inotify. false: reload only on SIGHUP or command.",
        examples=[False, "poll"],
    )
    settle: Annotated[float, fields.Duration(0, 60)] = Field(
        default=0.3,
        description="Time without a further change, in seconds, after which changed files are reloaded.",
        examples=[1],
    )
    never_ban: Annotated[tuple[fields.Network, ...], Strict(False)] = Field(
        default=(),
        description="Addresses and networks that cannot be banned without --force, beside loopback, this "
        "host's own addresses and trusted proxies.",
        examples=[["192.0.2.0/24"]],
    )
    control_group: fields.Account | None = Field(
        default=None,
        description="Group, by name or number, that may ban and unban clients: a second control socket, "
        "guard.sock, takes ban, unban and bans from its members. When left out, none.",
        examples=["fail2ban"],
    )
    http: Http | None = Field(
        default=None,
        description="Serves metrics, health and a page over HTTP. When left out, off.",
        examples=[{"listen": "127.0.0.1:9435"}],
    )
    allow_empty: bool = Field(
        default=False,
        description="Accepts a configuration without an enabled service. Otherwise it is an error.",
    )


class ServiceSettings(tables.Model):
    """A service, or the defaults of all services. A key that the defaults set may be left out."""

    enabled: bool = Field(default=True, description="Runs the service.")
    program: fields.Program | None = Field(
        default=None,
        description="Program to start for each connection, and its arguments. The first element is "
        "the path; PATH is not searched.",
        examples=[["/usr/sbin/courieresmtpd"]],
    )
    workers: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1,
        description="Number of processes that accept connections and start programs. All limits hold over "
        "all of them.",
        examples=[4],
    )
    user: fields.Account | None = Field(
        default=None,
        description="User, by name or number, that the worker and its programs run as. When left out, "
        "that of the daemon.",
        examples=["courier"],
    )
    group: fields.Account | None = Field(
        default=None,
        description="Group, by name or number, that the worker and its programs run as. When left "
        "out, the user's own.",
        examples=["mail"],
    )
    supplementary_groups: Annotated[tuple[fields.Account, ...], Strict(False)] = Field(
        default=(),
        description="Groups, by name or number, that the worker and its programs have beside those of the "
        "user.",
        examples=[["ssl-cert", 4000]],
    )
    directory: fields.Path = Field(
        default="/", description="Working directory of the program.", examples=["/usr"]
    )
    umask: fields.Umask | None = Field(
        default=None,
        description='File mode creation mask of the program, in octal: "022" or 0o022. When left out, '
        "that of the daemon.",
        examples=["022"],
    )
    rlimits: tables.Rlimits = Field(
        default=tables.Rlimits(),
        description="Resource limits of the program.",
        examples=[{"as": "512MiB", "nofile": 1024}],
    )
    nice: Annotated[int, Field(ge=-20, le=19)] | None = Field(
        default=None,
        description="Nice value of the worker and its programs: -20 has the most processor time, 19 the "
        "least. When left out, that of the daemon.",
        examples=[5],
    )
    oom_score_adjust: Annotated[int, Field(ge=-1000, le=1000)] | None = Field(
        default=None,
        description="How soon the kernel kills the worker and its programs when memory runs out: -1000 "
        "never, 1000 first. When left out, as soon as the daemon.",
        examples=[500],
    )
    no_new_privileges: bool = Field(
        default=False,
        description="Ignores set-user-ID and set-group-ID bits and file capabilities when programs are "
        "executed (PR_SET_NO_NEW_PRIVS). Services that start such programs then fail; Courier's sendmail and "
        "submitmkdir are such programs.",
    )
    inherit_environment: fields.Inherited = Field(
        default=False,
        description="Passes the environment of the daemon to the program: all of it, none, or the "
        "named variables.",
        examples=[["PATH", "LANG"]],
    )
    environment_files: Annotated[tuple[tables.PathOrFile, ...], Strict(False)] = Field(
        default=(),
        description="Files that set variables of the program, read in order. A later file overrides "
        "an earlier one.",
        examples=[["/etc/default/smtp", {"path": "/etc/courier/esmtpd", "shell": True}]],
    )
    environment: fields.Environment = Field(
        default={},
        description="Variables of the program. They override those of environment_files.",
        examples=[{"SHELL": "/bin/sh"}],
    )
    address_format: Literal["mapped", "plain"] = Field(
        default="mapped",
        description="Form of IPv4 addresses in the variables of the program: ::ffff:192.0.2.1 "
        '("mapped", as couriertcpd) or 192.0.2.1 ("plain").',
    )
    lookup_names: bool = Field(
        default=False,
        description="Looks up the names of both ends in the DNS and sets TCPREMOTEHOST and TCPLOCALHOST.",
    )
    drop: Annotated[tuple[fields.Variable, ...], Strict(False)] = Field(
        default=(),
        description="Refuses a client if one of these variables is not empty after access rules and "
        "DNS lists.",
        examples=[["BLOCK"]],
    )
    deny_message: fields.Text | None = Field(
        default=None,
        description="Text sent to a client that an access rule or drop refuses. When left out, none.",
        examples=["550 go away"],
    )
    messages: tables.Messages = Field(
        default=tables.Messages(),
        description="Texts sent to refused clients, by reason.",
        examples=[{"per_ip": "421 4.7.0 Too many connections"}],
    )
    stderr: tables.Stderr = Field(
        default="inherit",
        description='Standard error of the program: "inherit" (that of the daemon), "socket" (the '
        "connection), a file or a logger.",
        examples=["socket", {"logger": ["/usr/sbin/courierlogger"], "name": "esmtpd"}],
    )
    log_level: fields.LogLevel | None = Field(
        default=None,
        description="Lets the worker of the service log lines of this level and of more important ones. When "
        "left out, daemon.log_level.",
        examples=["notice"],
    )
    listeners: Annotated[tuple[tables.Listener, ...], Strict(False)] = Field(
        default=(),
        description="Addresses and ports on which the service accepts connections.",
        examples=[[{"address": "127.0.0.1", "port": 2525}]],
    )
    keepalive: tables.KeepaliveOrNot = Field(
        default=tables.Keepalive(),
        description="Probes that find clients which have vanished. false: none. "
        '"kernel": with the times of the kernel (net.ipv4.tcp_keepalive_time and others).',
        examples=[{"time": "10min", "interval": "30s", "count": 6}],
    )
    user_timeout: Annotated[float, fields.Duration(0, 86400)] | None = Field(
        default=None,
        description="Time, in seconds, after which a connection ends if its client does not acknowledge "
        "data, or does not read (TCP_USER_TIMEOUT). 0: that of the kernel. When left out, time + interval "
        "* count of keepalive, or that of the kernel without these times.",
        examples=["2min"],
    )
    tcp: tables.Tcp = Field(
        default=tables.Tcp(),
        description="Options of the listening sockets.",
        examples=[{"nodelay": True}],
    )
    agent: Agent | None = Field(
        default=None,
        description="Tells HAProxy by its agent-check how many slots are free, and when the service stops. "
        "When left out, off.",
        examples=[{"listen": "127.0.0.1:9143"}],
    )
    early_talker: tables.EarlyTalker | None = Field(
        default=None,
        description="Finds clients that send data before the program has greeted them. Only for protocols "
        "in which the server speaks first, as SMTP. When left out, off.",
        examples=[{"wait": "2s", "variable": "EARLYTALKER"}],
    )
    max_duration: Annotated[float, fields.Duration(1, 2592000)] | None = Field(
        default=None,
        description="Time, in seconds, after which the program of a connection gets SIGTERM, and SIGKILL if "
        "it has not ended daemon.stop_timeout later. Programs that it has started get none. When left out, "
        "a connection may last for ever.",
        examples=["12h"],
    )
    limits: tables.Limits = Field(
        default=tables.Limits(),
        description="Limits on the connections of the service.",
        examples=[{"max_connections": 200, "max_per_ip": 20}],
    )
    penalties: tables.Penalties | None = Field(
        default=None,
        description="Refuses clients that have offended, for a time that grows with each offence. When left "
        "out, off.",
        examples=[{"refused": "30s", "status": {"75": "10s"}}],
    )
    access: Annotated[tuple[tables.AccessSource, ...], Strict(False)] = Field(
        default=(),
        description="Sources of access rules, in order. The first source with a matching rule "
        "decides. Without one, the client is admitted.",
        examples=[[{"file": "/etc/courier/smtpaccess.dat"}]],
    )
    dns_lists: Annotated[tuple[ListOrChain, ...], Strict(False)] = Field(
        default=(),
        description="DNS block and allow lists, judged in order. A string names a chain of dns_chains.",
        examples=[["chain", {"zone": "dnsbl.example.org"}]],
    )
    dns: Judging = Field(
        default=Judging(),
        description="Deadline, pause, exempt clients and thresholds for the service's own dns_lists "
        "and name lookups. A chain has its own.",
        examples=[{"deadline": 5}],
    )

    def observed(self) -> list[str]:
        """Return the keys of limits, penalties and access sources that only observe (`enforce = false`)."""
        limits = self.limits
        found = []
        if not limits.enforce:
            named = ("max_per_ip", "max_per_network", "rate")
            found += [f"limits.{name}" for name in named if getattr(limits, name) is not None]
        for index, level in enumerate(limits.levels):
            if not limits.enforces(level):
                found.append(f"limits.levels[{index}]")
        if self.penalties is not None and not self.penalties.enforce:
            found.append("penalties")
        return found + [f"access[{index}]" for index, each in enumerate(self.access) if not each.enforce]


class Service(ServiceSettings):
    """A service with everything that it needs."""

    program: fields.Program
    listeners: Annotated[tuple[tables.Listener, ...], Strict(False), Field(min_length=1)]

    @model_validator(mode="after")
    def _weighs_against_something(self) -> Self:
        for index, item in enumerate(self.dns_lists):
            if not isinstance(item, str):
                dns_model.require_threshold(item, self.dns, ("dns_lists", index), "dns.threshold")
        return self


class Settings(tables.Model):
    """One file of conf.d as written."""

    services: dict[fields.Name, ServiceSettings] = Field(
        default={},
        description="Services, by name.",
        examples=[{"echo": {"program": ["/bin/cat"], "listeners": [{"port": 7}]}}],
    )
    defaults: ServiceSettings = Field(
        default=ServiceSettings(),
        description="Values for the keys that services leave out.",
        examples=[{"user": "courier"}],
    )
    dns: Dns = Field(
        default=Dns(), description="Resolver of the daemon.", examples=[{"servers": ["127.0.0.1:5353"]}]
    )
    dns_chains: dict[fields.Name, DnsChain] = Field(
        default={},
        description="Chains of DNS lists that services share, by name.",
        examples=[{"inbound": {"lists": [{"zone": "dnsbl.example.org"}]}}],
    )
    daemon: Daemon = Field(
        default=Daemon(),
        description="Settings of the daemon as a whole.",
        examples=[{"log_level": "debug"}],
    )
    cluster: Cluster | None = Field(
        default=None,
        description="Engine in which hosts count together. When left out, none: each host counts for itself.",
        examples=[{"url": "unix:///run/redis/redis.sock"}],
    )


class Config(tables.Model):
    """The effective configuration of a directory."""

    services: dict[fields.Name, Service] = Field(default={})
    dns: Dns = Dns()
    dns_chains: dict[fields.Name, DnsChain] = Field(default={})
    daemon: Daemon = Daemon()
    cluster: Cluster | None = None

    def enabled(self) -> dict[str, Service]:
        """Return the enabled services, by name."""
        return {name: service for name, service in self.services.items() if service.enabled}
