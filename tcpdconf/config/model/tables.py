"""Models the tables below a service: listeners, access, limits, messages and others."""

import ipaddress
from typing import Annotated, Final, Literal, Self

import pydantic
from pydantic import Discriminator, Field, Strict, Tag

from tcpdconf.config.model import fields, values

MOST_CLUSTER_LEVELS: Final = 30
"""Levels of a service whose connections all hosts count, at most: each costs a key of the engine."""


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
    """The PROXY protocol on one listener. Every peer that is not exempt must send its header."""

    trusted: Trusted = Field(
        description='Addresses and networks of proxies whose header is believed. "any" believes every peer.',
        examples=[["192.0.2.7", "2001:db8::/32"]],
    )
    timeout: fields.Seconds = Field(
        default=15, description="Time for the whole header to arrive, in seconds.", examples=[5, "5s"]
    )
    versions: Annotated[tuple[Literal["v1", "v2"], ...], Strict(False), Field(min_length=1)] = Field(
        default=("v1", "v2"), description="Versions of the header that are accepted.", examples=[["v2"]]
    )
    local: Literal["serve", "close"] = Field(
        default="serve",
        description='Answer to LOCAL and UNKNOWN, which health checks send: "serve" with the address '
        'of the proxy, or "close".',
    )
    exempt: Annotated[tuple[fields.Network, ...], Strict(False)] = Field(
        default=(),
        description="Peers that connect without a header, under their own address.",
        examples=[["127.0.0.1", "::1"]],
    )
    local_addresses: Annotated[tuple[fields.Network, ...], Strict(False)] = Field(
        default=(),
        description="Local addresses at which a header is expected, for a listener on several. When "
        "left out, all.",
        examples=[["192.0.2.1", "2001:db8::1"]],
    )
    max_header: fields.HeaderSize = Field(
        default=4096,
        description="Maximum size of a header of version 2, in bytes. A larger one is refused. Only headers "
        "with a client's certificate need more than the default.",
        examples=["16KiB"],
    )
    max_pending: fields.Count = Field(
        default=256, description="Maximum number of connections that wait for their header.", examples=[1024]
    )
    max_pending_per_peer: fields.Count = Field(
        default=256,
        description="Maximum number of connections from one proxy that wait for their header.",
        examples=[64],
    )


class Listener(Model):
    """One address and port on which a service accepts connections."""

    port: fields.Port = Field(description="Port number, or a name from /etc/services.", examples=[25, "smtp"])
    address: fields.Address = Field(
        default="*",
        description='Local address. "*" is every address of both families.',
        examples=["127.0.0.1", "::1", "*"],
    )
    backlog: fields.Count | None = Field(
        default=None,
        description="Length of the kernel's queue of connections not yet accepted (listen(2)). When "
        "left out, the most that the kernel allows.",
        examples=[4096],
    )
    freebind: bool = Field(
        default=False, description="Binds the address even if no interface has it yet (IP_FREEBIND)."
    )
    haproxy: HAProxy | None = Field(
        default=None,
        description="Expects a header of HAProxy's PROXY protocol. When left out, none.",
        examples=[{"trusted": ["192.0.2.7"]}],
    )


class Keepalive(Model):
    """Probes of the kernel that find out whether a client is still there (tcp(7))."""

    time: fields.KeepaliveSeconds = Field(
        default=300,
        description="Time without data after which the first probe is sent, in seconds.",
        examples=["10min"],
    )
    interval: fields.KeepaliveSeconds = Field(
        default=30, description="Time between two probes, in seconds.", examples=["15s"]
    )
    count: int = Field(
        default=4,
        ge=1,
        le=127,
        description="Number of probes without an answer after which the connection ends. user_timeout "
        "overrides it.",
        examples=[6],
    )

    @property
    def lasts(self) -> float:
        """Return the time, in seconds, after which the connection of a vanished client ends."""
        return self.time + self.interval * self.count


def _keepalive_shape(value: object) -> str:
    return "<times>" if isinstance(value, dict | Keepalive) else "<switch>"


KeepaliveOrNot = Annotated[
    Annotated[fields.NoKeepalive, Tag("<switch>")] | Annotated[Keepalive, Tag("<times>")],
    Discriminator(_keepalive_shape),
]


class Tcp(Model):
    """Options of the listening sockets, which connections inherit (tcp(7), socket(7))."""

    fastopen: fields.Count | None = Field(
        default=None,
        description="Accepts data in the first packet (TCP Fast Open), from as many clients at once. Only if "
        "net.ipv4.tcp_fastopen allows it to servers. When left out, off.",
        examples=[256],
    )
    nodelay: bool = Field(
        default=False, description="Sends small packets at once, without waiting for others (TCP_NODELAY)."
    )
    interface: fields.Interface | None = Field(
        default=None,
        description="Network interface through which clients must come (SO_BINDTODEVICE). When left out, "
        "all. To change it, the daemon needs CAP_NET_RAW.",
        examples=["eth0"],
    )
    mark: int | None = Field(
        default=None,
        ge=1,
        le=2**32 - 1,
        description="Mark of the packets, for firewall and routing rules (SO_MARK). The daemon needs "
        "CAP_NET_RAW. When left out, none.",
        examples=[1],
    )


class EarlyTalker(Model):
    """Waits whether a client sends data before the program has greeted it, as spam programs do."""

    wait: fields.Seconds = Field(
        default=2,
        description="Time, in seconds, for which a client must send nothing. The lookups of the service "
        "take place at the same time.",
        examples=["2s", "6s"],
    )
    variable: fields.Variable = Field(
        default="EARLYTALKER",
        description='Variable that is set to "1" if the client has sent data. drop can refuse such clients.',
        examples=["EARLYTALKER"],
    )
    pass_for: Annotated[float, fields.Duration(0, 2592000)] = Field(
        default=86400,
        description="Time, in seconds, for which a client that has waited does not wait again: an IPv4 "
        "address, or an IPv6 network of 64 bits. 0: it waits each time.",
        examples=["24h"],
    )


class AccessRule(Model):
    """One rule of an access source. It names a peer network, local ends, or both."""

    network: fields.Network | None = Field(
        default=None,
        description='Peers that the rule matches: an address, a network or "*" (all).',
        examples=["192.0.2.0/24", "2001:db8::/32", "*"],
    )
    local: fields.LocalEnd | None = Field(
        default=None,
        description="Local address and port that the rule matches. Rules without network are applied "
        "first, by themselves.",
        examples=["192.0.2.1:25", "*:25"],
    )
    proxied_local: fields.LocalEnd | None = Field(
        default=None,
        description="Local end, as named by a PROXY header, that the rule matches.",
        examples=["192.0.2.1:25"],
    )
    action: Literal["allow", "deny"] = Field(description="Admits or refuses the client.")
    environment: fields.Environment = Field(
        default={},
        description="Variables that the rule sets for the program.",
        examples=[{"RELAYCLIENT": ""}],
    )
    max_per_ip: fields.Count | None = Field(
        default=None,
        description="Maximum number of connections from one address, instead of limits.max_per_ip.",
        examples=[100],
    )

    @pydantic.model_validator(mode="after")
    def _names_somebody(self) -> Self:
        if self.network is None and self.local is None and self.proxied_local is None:
            raise fields.wrong("must name a network, a local end, or both", code="missing-key")
        return self


class AccessFile(Model):
    """A TOML access file."""

    rules: Annotated[tuple[AccessRule, ...], Strict(False)] = Field(
        default=(),
        description="Rules of the file.",
        examples=[[{"network": "192.0.2.0/24", "action": "allow"}]],
    )


class AccessSource(Model):
    """A source of access rules: the most specific rule of the first source that has one decides."""

    file: fields.Path | None = Field(
        default=None,
        description="Path of a file with rules, or of a directory with text files of Courier.",
        examples=["/etc/courier/smtpaccess.dat"],
    )
    format: Literal["gdbm", "db", "courier", "toml", "cidr"] | None = Field(
        default=None, description="Format of the file. When left out, it is recognised from the content."
    )
    action: Literal["allow", "deny"] | None = Field(
        default=None, description="Action for all networks of a CIDR list. Required for that format only."
    )
    local: bool = Field(
        default=False,
        description="Looks up the local address and port in the file too, as couriertcpd's "
        "-accesslocal does.",
    )
    rules: Annotated[tuple[AccessRule, ...], Strict(False)] | None = Field(
        default=None,
        description="Rules written here, instead of a file.",
        examples=[[{"network": "192.0.2.0/24", "action": "allow"}]],
    )
    enforce: bool = Field(
        default=True,
        description="false: observes only. Rules of the source are ignored, and clients that it would refuse "
        "are logged and counted (would-refuse).",
        examples=[False],
    )

    @pydantic.model_validator(mode="after")
    def _is_file_or_rules(self) -> Self:
        if (self.file is None) == (self.rules is None):
            raise fields.wrong("must have either file or rules, not both or none", code="missing-key")
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

    path: fields.Path = Field(description="Path of the file.", examples=["/etc/default/smtp"])
    shell: bool = Field(
        default=False, description="Sources the file with /bin/sh, instead of reading lines of NAME=VALUE."
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

    file: fields.Path = Field(
        description="Path of the file, which is created if it does not exist.", examples=["/var/log/smtp.log"]
    )


class StderrLogger(Model):
    """Standard error read by one logger per service."""

    logger: fields.Program = Field(
        description="Program of the logger and its arguments. The name is added as the last one.",
        examples=[["/usr/sbin/courierlogger"]],
    )
    name: fields.Text | None = Field(
        default=None,
        description="Last argument of the logger. When left out, the name of the program.",
        examples=["esmtpd"],
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
        default=None, alias="as", description="Size of the address space, in bytes.", examples=["512MiB"]
    )
    core: fields.Size | None = Field(default=None, description="Size of a core file, in bytes.", examples=[0])
    cpu: fields.Size | None = Field(default=None, description="CPU time, in seconds.", examples=[60])
    data: fields.Size | None = Field(
        default=None, description="Size of the data segment, in bytes.", examples=["32MiB"]
    )
    fsize: fields.Size | None = Field(
        default=None, description="Size of each file that the program writes, in bytes.", examples=["1GiB"]
    )
    memlock: fields.Size | None = Field(
        default=None, description="Size of locked memory, in bytes.", examples=["64KiB"]
    )
    nofile: fields.Size | None = Field(default=None, description="Number of open files.", examples=[1024])
    nproc: fields.Size | None = Field(
        default=None, description="Number of processes and threads of the user.", examples=[100]
    )
    stack: fields.Size | None = Field(
        default=None, description="Size of the stack, in bytes.", examples=["8MiB", "unlimited"]
    )


class NetworkSize(Model):
    """Size of the networks that max_per_network counts, by family."""

    ipv4: int = Field(
        default=24, ge=0, le=32, description="Prefix length of an IPv4 network, in bits.", examples=[24]
    )
    ipv6: int = Field(
        default=64, ge=0, le=128, description="Prefix length of an IPv6 network, in bits.", examples=[64]
    )


class Level(Model):
    """Limits for networks of one more size."""

    ipv4: int | None = Field(
        default=None,
        ge=0,
        le=32,
        description="Prefix length of an IPv4 network, in bits. When left out, the level does not "
        "count IPv4.",
        examples=[16],
    )
    ipv6: int | None = Field(
        default=None,
        ge=0,
        le=128,
        description="Prefix length of an IPv6 network, in bits. When left out, the level does not "
        "count IPv6.",
        examples=[48],
    )
    max_connections: fields.Count | None = Field(
        default=None,
        description="Maximum number of connections at once from one network of this size.",
        examples=[30],
    )
    rate: fields.Rate | None = Field(
        default=None,
        description="Maximum rate of new connections from one network of this size.",
        examples=["300/min"],
    )
    enforce: bool | None = Field(
        default=None,
        description="false: observes only, as limits.enforce does. When left out, as limits.enforce says.",
        examples=[False],
    )

    @pydantic.model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.ipv4 is None and self.ipv6 is None:
            raise fields.wrong("must have ipv4, ipv6 or both", code="missing-key")
        if self.max_connections is None and self.rate is None:
            raise fields.wrong("must have max_connections, rate or both", code="missing-key")
        return self


class Limits(Model):
    """Limits on the connections of a service."""

    max_connections: fields.Count = Field(
        default=40,
        description="Maximum number of connections at once. Further clients wait in the queue of the kernel.",
        examples=[200],
    )
    max_per_ip: fields.Count | None = Field(
        default=None,
        description="Maximum number of connections at once from one address. Further ones are "
        "refused. When left out, no limit.",
        examples=[20],
    )
    max_per_network: fields.Count | None = Field(
        default=None,
        description="Maximum number of connections at once from one network. Further ones are "
        "refused. When left out, no limit.",
        examples=[50],
    )
    network: NetworkSize = Field(
        default=NetworkSize(),
        description="Size of the networks that max_per_network counts.",
        examples=[{"ipv4": 24, "ipv6": 64}],
    )
    rate: fields.Rate | None = Field(
        default=None,
        description="Maximum rate of new connections from one address. Further ones are refused. When "
        "left out, no limit.",
        examples=["30/min", "5/s"],
    )
    levels: Annotated[tuple[Level, ...], Strict(False)] = Field(
        default=(),
        description="Limits for networks of further sizes.",
        examples=[[{"ipv4": 16, "ipv6": 48, "max_connections": 100}]],
    )
    warn_at: fields.Count | None = Field(
        default=None,
        description="Number of connections at which a warning is logged. When left out, 90 % of "
        "max_connections.",
        examples=[180],
    )
    group: fields.Name | None = Field(
        default=None,
        description="Services with the same group count an address, and its networks, together. Each service "
        "applies its own limits to the common counts. max_connections stays that of each service.",
        examples=["mail"],
    )
    enforce: bool = Field(
        default=True,
        description="false: observes only. Clients beyond a limit are logged and counted (would-refuse), but "
        "not refused. max_connections always holds, since it makes clients wait and refuses none.",
        examples=[False],
    )
    scope: Literal["host", "cluster"] = Field(
        default="host",
        description='"cluster": max_per_ip, max_per_network, rate and levels count the connections of all '
        "hosts that share the engine of [cluster]. max_connections stays this host's.",
        examples=["cluster"],
    )

    def enforces(self, level: Level) -> bool:
        """Return whether a level refuses clients: as it says itself, or else as these limits do."""
        return self.enforce if level.enforce is None else level.enforce

    @pydantic.model_validator(mode="after")
    def _fits_into_the_engine(self) -> Self:
        if self.scope == "cluster" and len(self.levels) > MOST_CLUSTER_LEVELS:
            text = f'must be at most {MOST_CLUSTER_LEVELS} with scope = "cluster", not {len(self.levels)}'
            raise fields.wrong(text, ("levels",), "conflict")
        return self

    @pydantic.model_validator(mode="after")
    def _warns_in_time(self) -> Self:
        if self.warn_at is not None and self.warn_at > self.max_connections:
            raise fields.wrong(
                f"must be at most max_connections ({self.max_connections}), not {self.warn_at}",
                ("warn_at",),
                "conflict",
            )
        return self


class PenaltyNetwork(Model):
    """Size of the networks that penalties fall on, by family."""

    ipv4: int = Field(
        default=32, ge=0, le=32, description="Prefix length of an IPv4 network, in bits.", examples=[24]
    )
    ipv6: int = Field(
        default=64, ge=0, le=128, description="Prefix length of an IPv6 network, in bits.", examples=[56]
    )


class Penalties(Model):
    """Times for which a client that offends is refused. They add up, as sshd's PerSourcePenalties do."""

    network: PenaltyNetwork = Field(
        default=PenaltyNetwork(),
        description="Size of the networks that penalties fall on.",
        examples=[{"ipv4": 32, "ipv6": 56}],
    )
    refused: fields.PenaltySeconds | None = Field(
        default=None,
        description="Penalty, in seconds, for a client that an access rule or a rate refuses, or that drop "
        "refuses because of a variable that an access rule has set. When left out, none.",
        examples=["30s"],
    )
    proxy: fields.PenaltySeconds | None = Field(
        default=None,
        description="Penalty, in seconds, for a peer that is not a trusted proxy and connects to a listener "
        "that expects a PROXY header. When left out, none.",
        examples=["1min"],
    )
    early_talker: fields.PenaltySeconds | None = Field(
        default=None,
        description="Penalty, in seconds, for a client that sends data before it is greeted. When left out, "
        "none.",
        examples=["2min"],
    )
    killed: fields.PenaltySeconds | None = Field(
        default=None,
        description="Penalty, in seconds, for a client whose program is ended by a signal. SIGPIPE, SIGTERM "
        "and the signals of the daemon itself do not count. When left out, none.",
        examples=["90s"],
    )
    status: dict[fields.ExitStatus, fields.PenaltySeconds] = Field(
        default={},
        description="Penalties, in seconds, for a client whose program ends with one of these exit statuses.",
        examples=[{"75": "10s"}],
    )
    min: Annotated[float, fields.Duration(0, 604800)] = Field(
        default=15,
        description="Time, in seconds, that a penalty must reach before it is enforced. Then it is enforced "
        "until it expires.",
        examples=["30s"],
    )
    max: fields.PenaltySeconds = Field(
        default=600, description="Longest penalty, in seconds.", examples=["1h"]
    )
    exempt: Annotated[tuple[fields.Network, ...], Strict(False)] = Field(
        default=(ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1")),
        description="Clients that get no penalty. Trusted proxies of the service never get one.",
        examples=[["127.0.0.0/8", "::1", "192.0.2.0/24"]],
        json_schema_extra={"default": ["127.0.0.0/8", "::1"]},
    )

    enforce: bool = Field(
        default=True,
        description="false: observes only. Clients that would be refused are logged and counted "
        "(would-refuse), and nobody is refused because of a penalty.",
        examples=[False],
    )

    @property
    def charges_nothing(self) -> bool:
        """True if no kind of offence has a penalty."""
        kinds = (self.refused, self.proxy, self.early_talker, self.killed)
        return not self.status and all(seconds is None for seconds in kinds)

    @pydantic.model_validator(mode="after")
    def _fits_between_its_bounds(self) -> Self:
        if self.min > self.max:
            text = f"must be at most max ({self.max:g} seconds), not {self.min:g}"
            raise fields.wrong(text, ("min",), "conflict", hint="write a smaller min, or a larger max")
        kinds: tuple[tuple[str | int, ...], ...] = (("refused",), ("proxy",), ("early_talker",), ("killed",))
        costs = [(key, getattr(self, str(key[0]))) for key in kinds]
        costs += [(("status", status), seconds) for status, seconds in self.status.items()]
        for key, seconds in costs:
            if seconds is not None and seconds > self.max:
                text = f"must be at most max ({self.max:g} seconds), not {seconds:g}"
                raise fields.wrong(text, key, "conflict", hint=f"write less, or max = {seconds:g} or more")
        return self


class Messages(Model):
    """Texts for refused clients, by reason. A line ending is added unless the text has one."""

    access: fields.Text | None = Field(
        default=None,
        description="Text for a client that an access rule refuses. When left out, deny_message.",
        examples=["554 5.7.1 Access denied"],
    )
    banned: fields.Text | None = Field(
        default=None,
        description="Text for a client that is banned (tcpdconf ban). When left out, none.",
        examples=["554 5.7.1 Access denied"],
    )
    per_ip: fields.Text | None = Field(
        default=None,
        description="Text for a client with too many connections from its address. When left out, none.",
        examples=["421 4.7.0 Too many connections from your address"],
    )
    per_network: fields.Text | None = Field(
        default=None,
        description="Text for a client with too many connections from its network. When left out, none.",
        examples=["421 4.7.0 Too many connections from your network"],
    )
    rate: fields.Text | None = Field(
        default=None,
        description="Text for a client with too many new connections. When left out, none.",
        examples=["421 4.7.0 Too many new connections"],
    )
    dropped: fields.Text | None = Field(
        default=None,
        description="Text for a client refused because a variable of drop is set. When left out, "
        "deny_message.",
        examples=["554 5.7.1 Listed"],
    )
    penalty: fields.Text | None = Field(
        default=None,
        description="Text for a client refused because of a penalty. When left out, none.",
        examples=["421 4.7.0 Try again later"],
    )
    cluster: fields.Text | None = Field(
        default=None,
        description="Text for a client that is refused because the engine of [cluster] does not answer "
        '(on_failure = "refuse"). When left out, none.',
        examples=["421 4.3.2 Try again later"],
    )
    spawn: fields.Text | None = Field(
        default=None,
        description="Text for a client whose program cannot be started. When left out, none.",
        examples=["421 4.3.0 Try again later"],
    )
