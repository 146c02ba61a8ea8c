"""Models conf.d/*.toml: the schema, its defaults, and rules that concern one table.

`Settings` is one file as written, in which no key is required. `Config` is the effective whole, with
`defaults` filled in. Rules that need the host (users, ports, files) are in `host`; rules that need several
services are in `load`. Descriptions and examples become the JSON Schema and the reference.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, Strict, model_validator

from tcpdconf.config.model import dns as dns_model
from tcpdconf.config.model import fields, tables
from tcpdconf.config.model.dns import Dns, DnsChain, Judging, ListOrChain


class Daemon(tables.Model):
    """The daemon itself."""

    log_level: fields.LogLevel = Field(
        default="info", description="The least important messages that are logged."
    )
    stop_timeout: Annotated[float, fields.Duration(0, 86400)] = Field(
        default=10,
        description="Time that programs have to end after SIGTERM before tcpdconf ends without them.",
        examples=[30],
    )
    drain_timeout: Annotated[float, fields.Duration(0, 604800)] = Field(
        default=300,
        description="Time that programs of a service that was removed may go on before they get SIGTERM.",
        examples=[3600, "1h"],
    )
    watch: fields.Watched = Field(
        default=True,
        description='Whether changed files are taken on by themselves; "poll" looks for them every 2 s.',
        examples=[False, "poll"],
    )
    settle: Annotated[float, fields.Duration(0, 60)] = Field(
        default=0.3,
        description="Time without a further change before changed files are taken on.",
        examples=[1],
    )
    allow_empty: bool = Field(
        default=False, description="Whether a configuration without any enabled service is right."
    )


class ServiceSettings(tables.Model):
    """A service as written, or the defaults for all: nothing is required here."""

    enabled: bool = Field(default=True, description="Whether the service runs.")
    program: fields.Program | None = Field(
        default=None,
        description="argv; argv[0] is executed as it stands.",
        examples=[["/usr/sbin/courieresmtpd"]],
    )
    user: fields.Account | None = Field(
        default=None, description="User that the service runs as.", examples=["courier"]
    )
    group: fields.Account | None = Field(
        default=None, description="Group, instead of the user's own.", examples=["mail"]
    )
    directory: fields.Path = Field(
        default="/", description="Working directory of the program.", examples=["/usr"]
    )
    umask: fields.Umask | None = Field(
        default=None,
        description='File mode creation mask, octal: "022" or 0o022; the daemon\'s when left out.',
        examples=["022"],
    )
    rlimits: tables.Rlimits = Field(
        default=tables.Rlimits(),
        description="Resource limits of the program.",
        examples=[{"as": "512MiB", "nofile": 1024}],
    )
    inherit_environment: fields.Inherited = Field(
        default=False,
        description="Whether the program sees the daemon's own environment, or which variables of it.",
        examples=[["PATH", "LANG"]],
    )
    environment_files: Annotated[tuple[tables.PathOrFile, ...], Strict(False)] = Field(
        default=(),
        description="Files of variables, read in order.",
        examples=[["/etc/default/smtp", {"path": "/etc/courier/esmtpd", "shell": True}]],
    )
    environment: fields.Environment = Field(
        default={}, description="Variables of the program.", examples=[{"SHELL": "/bin/sh"}]
    )
    address_format: Literal["mapped", "plain"] = Field(
        default="mapped", description="How the program sees an IPv4 address: ::ffff:192.0.2.1, or 192.0.2.1."
    )
    lookup_names: bool = Field(
        default=False, description="Whether to look up TCPREMOTEHOST and TCPLOCALHOST."
    )
    drop: Annotated[tuple[fields.Variable, ...], Strict(False)] = Field(
        default=(), description="Refuse when one of these variables is not empty.", examples=[["BLOCK"]]
    )
    deny_message: fields.Text | None = Field(
        default=None, description="What a client is told that is denied or dropped.", examples=["550 go away"]
    )
    messages: tables.Messages = Field(
        default=tables.Messages(),
        description="Texts for refused clients, by reason.",
        examples=[{"per_ip": "421 4.7.0 Too many connections"}],
    )
    stderr: tables.Stderr = Field(
        default="inherit",
        description='Standard error of the program: "inherit", "socket", a file or a logger.',
        examples=["socket", {"logger": ["/usr/sbin/courierlogger"], "name": "esmtpd"}],
    )
    listeners: Annotated[tuple[tables.Listener, ...], Strict(False)] = Field(
        default=(), description="Where to listen.", examples=[[{"address": "127.0.0.1", "port": 2525}]]
    )
    limits: tables.Limits = Field(
        default=tables.Limits(),
        description="How many connections are taken.",
        examples=[{"max_connections": 200, "max_per_ip": 20}],
    )
    access: Annotated[tuple[tables.AccessSource, ...], Strict(False)] = Field(
        default=(),
        description="Sources of access rules; the first that has a matching rule decides.",
        examples=[[{"file": "/etc/courier/smtpaccess.dat"}]],
    )
    dns_lists: Annotated[tuple[ListOrChain, ...], Strict(False)] = Field(
        default=(),
        description="DNS lists, judged in order; a string names one of dns_chains.",
        examples=[["chain", {"zone": "dnsbl.example.org"}]],
    )
    dns: Judging = Field(
        default=Judging(),
        description="How its own dns_lists are judged, and deadline and pause of names; a chain has its own.",
        examples=[{"deadline": 5}],
    )


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
        description="The services, by name.",
        examples=[{"echo": {"program": ["/bin/cat"], "listeners": [{"port": 7}]}}],
    )
    defaults: ServiceSettings = Field(
        default=ServiceSettings(), description="What services leave out.", examples=[{"user": "courier"}]
    )
    dns: Dns = Field(default=Dns(), description="The resolver.", examples=[{"servers": ["127.0.0.1:5353"]}])
    dns_chains: dict[fields.Name, DnsChain] = Field(
        default={},
        description="Chains of DNS lists, by name.",
        examples=[{"inbound": {"lists": [{"zone": "dnsbl.example.org"}]}}],
    )
    daemon: Daemon = Field(
        default=Daemon(),
        description="What concerns the daemon as a whole.",
        examples=[{"log_level": "debug"}],
    )


class Config(tables.Model):
    """The effective configuration of a directory."""

    services: dict[fields.Name, Service] = Field(default={})
    dns: Dns = Dns()
    dns_chains: dict[fields.Name, DnsChain] = Field(default={})
    daemon: Daemon = Daemon()

    def enabled(self) -> dict[str, Service]:
        """Return the enabled services, by name."""
        return {name: service for name, service in self.services.items() if service.enabled}
