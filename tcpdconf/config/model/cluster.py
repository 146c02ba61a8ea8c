"""Models [cluster]: the engine in which several hosts count connections together."""

from typing import Annotated, Literal, Self

import pydantic
from pydantic import Field

from tcpdconf.config import collisions
from tcpdconf.config.model import fields
from tcpdconf.config.model.tables import Model


class Cluster(Model):
    """The engine (Valkey or Redis) in which hosts count together. When left out, each counts for itself."""

    url: fields.EngineUrl = Field(
        description="Address of the engine: redis://HOST:PORT/DATABASE, rediss:// with TLS, or "
        "unix:///PATH. Port and database may be left out.",
        examples=["rediss://192.0.2.10:6379/0", "unix:///run/redis/redis.sock"],
    )
    username: fields.Text | None = Field(
        default=None,
        description="User of the engine (ACL). When left out, the engine's default user.",
        examples=["tcpdconf"],
    )
    password_file: fields.Path | None = Field(
        default=None,
        description="File with the password, alone on its first line. When left out, no password is sent.",
        examples=["/etc/tcpdconf/cluster.secret"],
    )
    ca_file: fields.Path | None = Field(
        default=None,
        description="File with the CA certificates (PEM) by which the engine's certificate is verified. For "
        "rediss:// only. When left out, the CA certificates of the system.",
        examples=["/etc/tcpdconf/cluster-ca.pem"],
    )
    certificate_file: fields.Path | None = Field(
        default=None,
        description="File with the client certificate (PEM) of this host. For rediss:// only. When left out, "
        "no certificate is sent.",
        examples=["/etc/tcpdconf/cluster-cert.pem"],
    )
    key_file: fields.Path | None = Field(
        default=None,
        description="File with the private key (PEM) of certificate_file.",
        examples=["/etc/tcpdconf/cluster-key.pem"],
    )
    prefix: fields.EnginePrefix = Field(
        default="tcpdconf:",
        description="First part of the name of every key and channel in the engine. Hosts with the same "
        "prefix count together.",
        examples=["mail:"],
    )
    deadline: Annotated[float, fields.Duration(0.001, 1)] = Field(
        default=0.02,
        description="Time, in seconds, for which a connection waits for the engine. After three failures in a"
        " row, no connection waits until the engine has answered a probe.",
        examples=["20ms", "50ms"],
    )
    on_failure: Literal["local", "refuse"] = Field(
        default="local",
        description='Behaviour while the engine does not answer: "local" applies the limits to this host '
        'alone, "refuse" refuses the clients of services with scope = "cluster".',
        examples=["refuse"],
    )
    user: fields.Account | None = Field(
        default=None,
        description="User, by name or number, that the cluster process runs as. When left out, nobody if the "
        "daemon runs as root, else the user of the daemon.",
        examples=["tcpdconf-cluster"],
    )
    name: fields.HostLabel | None = Field(
        default=None,
        description="Name of this host in status and in bans. When left out, its host name.",
        examples=["mx1"],
    )

    @property
    def files(self) -> dict[str, str]:
        """Return the paths of the configured files, by key."""
        named = ("password_file", "ca_file", "certificate_file", "key_file")
        return {key: path for key in named if (path := getattr(self, key)) is not None}

    @property
    def is_readable_on_the_way(self) -> bool:
        """True if others on the network could read the data sent to the engine, including the password."""
        host = self.url.host
        return not (self.url.tls or host is None or host == "localhost" or collisions.is_loopback(host))

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.url.tls:
            for key in ("ca_file", "certificate_file", "key_file"):
                if getattr(self, key) is not None:
                    raise fields.wrong("is for rediss:// only", (key,), "conflict", hint="delete it")
        if (self.certificate_file is None) != (self.key_file is None):
            which = "certificate_file" if self.key_file is None else "key_file"
            raise fields.wrong(
                f"goes with {'key_file' if self.key_file is None else 'certificate_file'}",
                (which,),
                "missing-key",
                hint="name both files",
            )
        if self.username is not None and self.password_file is None:
            raise fields.wrong("goes with password_file", ("username",), "missing-key")
        return self
