"""Models the tables below a service: listeners, access, limits, messages and others."""

from typing import Annotated, Literal, Self

import pydantic
from pydantic import Discriminator, Field, Strict, Tag

from tcpdconf.config.model import fields, values


class Model(pydantic.BaseModel):
    """Every table: frozen, no key that is not declared, no conversion between types."""

    model_config = pydantic.ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )


def _trusted_shape(value: object) -> str:
    return "<any>" if isinstance(value, str) else "<list>"


Trusted = Annotated[
    Annotated[Literal["any"], Tag("<any>")]
    | Annotated[tuple[fields.Network, ...], Strict(False), Field(min_length=1), Tag("<list>")],
    Discriminator(_trusted_shape),
]


class HAProxy(Model):
    """The PROXY protocol on one listener: its header is then required from every peer that is not exempt."""

    trusted: Trusted = Field(
        description='Addresses and networks whose header is believed; "any" believes everybody.',
        examples=[["192.0.2.7", "2001:db8::/32"]],
    )
    timeout: fields.Seconds = Field(
        default=15, description="Time within which the header must have come.", examples=[5, "5s"]
    )
    versions: Annotated[tuple[Literal["v1", "v2"], ...], Strict(False), Field(min_length=1)] = Field(
        default=("v1", "v2"), description="Versions of the header that are accepted.", examples=[["v2"]]
    )
    local: Literal["serve", "close"] = Field(
        default="serve", description="What to do with LOCAL and UNKNOWN, which health checks send."
    )
    exempt: Annotated[tuple[fields.Network, ...], Strict(False)] = Field(
        default=(), description="Peers that connect without a header.", examples=[["127.0.0.1", "::1"]]
    )
    local_addresses: Annotated[tuple[fields.Network, ...], Strict(False)] = Field(
        default=(),
        description="This host's addresses where a header is expected, of a listener that has several; "
        "everywhere when left out.",
        examples=[["192.0.2.1", "2001:db8::1"]],
    )
    max_pending: fields.Count = Field(default=256, description="Headers awaited at once.", examples=[1024])
    max_pending_per_peer: fields.Count = Field(
        default=256, description="Headers awaited at once from one peer.", examples=[64]
    )


class Listener(Model):
    """One address and port on which a service accepts connections."""

    port: fields.Port = Field(
        description="Port number, or a name from the services database.", examples=[25, "smtp"]
    )
    address: fields.Address = Field(
        default="*",
        description='Local address; "*" is every address of both families.',
        examples=["127.0.0.1", "::1", "*"],
    )
    backlog: fields.Count | None = Field(
        default=None, description="Connections that the kernel queues; its most if unset.", examples=[4096]
    )
    freebind: bool = Field(default=False, description="Bind although no interface has the address (yet).")
    haproxy: HAProxy | None = Field(
        default=None, description="Expect HAProxy's PROXY protocol.", examples=[{"trusted": ["192.0.2.7"]}]
    )


class AccessRule(Model):
    """One rule of an access source. It names a peer network, local ends, or both."""

    network: fields.Network | None = Field(
        default=None,
        description='Peers that the rule is for; "*" is everybody.',
        examples=["192.0.2.0/24", "2001:db8::/32", "*"],
    )
    local: fields.LocalEnd | None = Field(
        default=None,
        description="This host's end that the rule is for; without network it is judged by itself, first.",
        examples=["192.0.2.1:25", "*:25"],
    )
    proxied_local: fields.LocalEnd | None = Field(
        default=None,
        description="The same for the local end that a PROXY header names.",
        examples=["192.0.2.1:25"],
    )
    action: Literal["allow", "deny"] = Field(description="Admit or refuse.")
    environment: fields.Environment = Field(
        default={}, description="Variables for the program.", examples=[{"RELAYCLIENT": ""}]
    )
    max_per_ip: fields.Count | None = Field(
        default=None, description="In place of limits.max_per_ip, for these peers.", examples=[100]
    )

    @pydantic.model_validator(mode="after")
    def _names_somebody(self) -> Self:
        if self.network is None and self.local is None and self.proxied_local is None:
            raise fields.wrong("must name a network, a local end, or both", code="missing-key")
        return self


class AccessFile(Model):
    """A TOML access file."""

    rules: Annotated[tuple[AccessRule, ...], Strict(False)] = Field(
        default=(), description="The rules.", examples=[[{"network": "192.0.2.0/24", "action": "allow"}]]
    )


class AccessSource(Model):
    """A source of access rules: the most specific rule of the first source that has one decides."""

    file: fields.Path | None = Field(
        default=None,
        description="A file, or a directory of Courier text files.",
        examples=["/etc/courier/smtpaccess.dat"],
    )
    format: Literal["gdbm", "db", "courier", "toml", "cidr"] | None = Field(
        default=None, description="Format of the file; recognised from its content when left out."
    )
    action: Literal["allow", "deny"] | None = Field(
        default=None, description="What a CIDR list means for the networks in it."
    )
    local: bool = Field(
        default=False, description="Look up the local address and port in the file as well (-accesslocal)."
    )
    rules: Annotated[tuple[AccessRule, ...], Strict(False)] | None = Field(
        default=None,
        description="Rules in place.",
        examples=[[{"network": "192.0.2.0/24", "action": "allow"}]],
    )

    @pydantic.model_validator(mode="after")
    def _is_file_or_rules(self) -> Self:
        if (self.file is None) == (self.rules is None):
            raise fields.wrong("must have either file or rules", code="missing-key")
        if self.rules is not None:
            for key in ("format", "action", "local"):
                if getattr(self, key):
                    raise fields.wrong("goes with file, not with rules", (key,), "wrong-place")
        if self.format == "cidr" and self.action is None:
            raise fields.wrong('a CIDR list needs action = "allow" or "deny"', code="missing-key")
        if self.action is not None and self.format not in {"cidr", None}:
            raise fields.wrong("goes with a CIDR list only", ("action",), "wrong-place")
        return self


class EnvironmentFile(Model):
    """A file of variables for the program."""

    path: fields.Path = Field(description="The file.", examples=["/etc/default/smtp"])
    shell: bool = Field(
        default=False, description="Source it with /bin/sh instead of reading KEY=VALUE lines."
    )


def _written_environment_file(value: object) -> object:
    if not isinstance(value, str | dict | EnvironmentFile):
        raise fields.wrong(
            f"must be a path or a table with path, not {values.described(value)}", code="wrong-type"
        )
    return {"path": value} if isinstance(value, str) else value


# a bare path is an environment file with default settings
PathOrFile = Annotated[
    EnvironmentFile,
    pydantic.BeforeValidator(_written_environment_file, json_schema_input_type=fields.Path | EnvironmentFile),
]


class StderrFile(Model):
    """Standard error appended to a file."""

    file: fields.Path = Field(description="The file; created when missing.", examples=["/var/log/smtp.log"])


class StderrLogger(Model):
    """Standard error read by one logger per service."""

    logger: fields.Program = Field(
        description="The logger's program and arguments; the name is added.",
        examples=[["/usr/sbin/courierlogger"]],
    )
    name: fields.Text | None = Field(
        default=None, description="Its last argument; the program's name when left out.", examples=["esmtpd"]
    )


def _stderr_shape(value: object) -> str:
    if isinstance(value, StderrLogger) or (isinstance(value, dict) and {"logger", "name"} & value.keys()):
        return "<logger>"
    return "<file>" if isinstance(value, dict | StderrFile) else "<word>"


Stderr = Annotated[
    Annotated[Literal["inherit", "socket"], Tag("<word>")]
    | Annotated[StderrFile, Tag("<file>")]
    | Annotated[StderrLogger, Tag("<logger>")],
    Discriminator(_stderr_shape),
]


class Rlimits(Model):
    """Resource limits of the program, soft and hard (setrlimit(2)): sizes in bytes, cpu in seconds."""

    as_: fields.Size | None = Field(
        default=None, alias="as", description="Address space.", examples=["512MiB"]
    )
    core: fields.Size | None = Field(default=None, description="Size of a core file.", examples=[0])
    cpu: fields.Size | None = Field(default=None, description="CPU time in seconds.", examples=[60])
    data: fields.Size | None = Field(default=None, description="Data segment.", examples=["32MiB"])
    fsize: fields.Size | None = Field(
        default=None, description="Size of a file that it writes.", examples=["1GiB"]
    )
    memlock: fields.Size | None = Field(default=None, description="Locked memory.", examples=["64KiB"])
    nofile: fields.Size | None = Field(default=None, description="Open files.", examples=[1024])
    nproc: fields.Size | None = Field(default=None, description="Processes of the user.", examples=[100])
    stack: fields.Size | None = Field(default=None, description="Stack.", examples=["8MiB", "unlimited"])


class NetworkSize(Model):
    """How large a network is, by family, for max_per_network."""

    ipv4: int = Field(default=24, ge=0, le=32, description="Prefix length for IPv4.", examples=[24])
    ipv6: int = Field(default=64, ge=0, le=128, description="Prefix length for IPv6.", examples=[64])


class Level(Model):
    """One more level of limits: networks of this size."""

    ipv4: int | None = Field(
        default=None,
        ge=0,
        le=32,
        description="Prefix length for IPv4; left out: not for IPv4.",
        examples=[16],
    )
    ipv6: int | None = Field(
        default=None,
        ge=0,
        le=128,
        description="Prefix length for IPv6; left out: not for IPv6.",
        examples=[48],
    )
    max_connections: fields.Count | None = Field(
        default=None, description="Connections at once from one network.", examples=[30]
    )
    rate: fields.Rate | None = Field(
        default=None, description="New connections from one network.", examples=["300/min"]
    )

    @pydantic.model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.ipv4 is None and self.ipv6 is None:
            raise fields.wrong("must have ipv4, ipv6 or both", code="missing-key")
        if self.max_connections is None and self.rate is None:
            raise fields.wrong("must have max_connections, rate or both", code="missing-key")
        return self


class Limits(Model):
    """How many connections a service takes. What is left out is not limited."""

    max_connections: fields.Count = Field(
        default=40, description="Connections at once; when reached, further ones wait.", examples=[200]
    )
    max_per_ip: fields.Count | None = Field(
        default=None, description="Connections at once from one address.", examples=[20]
    )
    max_per_network: fields.Count | None = Field(
        default=None, description="Connections at once from one network.", examples=[50]
    )
    network: NetworkSize = Field(
        default=NetworkSize(),
        description="What a network is for max_per_network.",
        examples=[{"ipv4": 24, "ipv6": 64}],
    )
    rate: fields.Rate | None = Field(
        default=None, description="New connections from one address.", examples=["30/min", "5/s"]
    )
    levels: Annotated[tuple[Level, ...], Strict(False)] = Field(
        default=(),
        description="Further network levels.",
        examples=[[{"ipv4": 16, "ipv6": 48, "max_connections": 100}]],
    )
    warn_at: fields.Count | None = Field(
        default=None,
        description="Connections at which to log a warning; 90 % of max_connections when left out.",
        examples=[180],
    )

    @pydantic.model_validator(mode="after")
    def _warns_in_time(self) -> Self:
        if self.warn_at is not None and self.warn_at > self.max_connections:
            raise fields.wrong(
                f"must be at most max_connections ({self.max_connections}), not {self.warn_at}",
                ("warn_at",),
                "conflict",
            )
        return self


class Messages(Model):
    """Texts for refused clients, by reason. A line ending is added unless the text has one."""

    access: fields.Text | None = Field(
        default=None,
        description="Refused by an access rule (instead of deny_message).",
        examples=["554 5.7.1 Access denied"],
    )
    per_ip: fields.Text | None = Field(
        default=None,
        description="Too many connections from its address.",
        examples=["421 4.7.0 Too many connections from your address"],
    )
    per_network: fields.Text | None = Field(
        default=None,
        description="Too many connections from its network.",
        examples=["421 4.7.0 Too many connections from your network"],
    )
    rate: fields.Text | None = Field(
        default=None, description="Too many new connections.", examples=["421 4.7.0 Too many new connections"]
    )
    dropped: fields.Text | None = Field(
        default=None,
        description="A drop variable is set (instead of deny_message).",
        examples=["554 5.7.1 Listed"],
    )
    spawn: fields.Text | None = Field(
        default=None, description="The program could not be started.", examples=["421 4.3.0 Try again later"]
    )
