"""Models [daemon.http]: metrics, health and a page over HTTP."""

from typing import Annotated, Self

import pydantic
from pydantic import Field, Strict

from tcpdconf.config.model import fields
from tcpdconf.config.model.tables import Model


class Http(Model):
    """Metrics, health and a page over HTTP, read-only, from a process of its own. Off when left out."""

    listen: fields.HttpEnd = Field(
        description="Address and port, or unix: and the path of a Unix socket. An address that other hosts "
        "can reach needs allow.",
        examples=["127.0.0.1:9435", "unix:/run/tcpdconf/http.sock"],
    )
    user: fields.Account | None = Field(
        default=None,
        description="User, by name or number, that the process runs as. When left out, nobody if the daemon "
        "runs as root, else the user of the daemon.",
        examples=["tcpdconf-http"],
    )
    group: fields.Account | None = Field(
        default=None,
        description="Group, by name or number, that the Unix socket belongs to. When left out, the group of "
        "the daemon.",
        examples=["prometheus"],
    )
    mode: fields.Mode | None = Field(
        default=None,
        description='Mode of the Unix socket, in octal: "660" or 0o660. Users with write permission can send '
        'requests. When left out, "660" with a group, else "600".',
        examples=["660"],
    )
    allow: Annotated[tuple[fields.Network, ...], Strict(False)] = Field(
        default=(),
        description="Networks whose clients get an answer; others are refused. When left out, all clients "
        "get one; only a loopback address may do without.",
        examples=[["127.0.0.1", "192.0.2.0/24"]],
    )
    hosts: Annotated[tuple[fields.HostName, ...], Strict(False)] = Field(
        default=(),
        description="Accepted names in the header Host, besides the host name, localhost and IP addresses.",
        examples=[["mail.example.org"]],
    )
    addresses: bool = Field(
        default=True,
        description="false: the page and /status.json omit the addresses of clients, bans, and the values "
        "that a reload has changed. Metrics never contain addresses.",
    )

    @property
    def path(self) -> str | None:
        """The path of the Unix socket, or None for an address."""
        return self.listen if isinstance(self.listen, str) else None

    @property
    def socket_mode(self) -> int:
        """The mode of the Unix socket."""
        return self.mode if self.mode is not None else 0o600 if self.group is None else 0o660

    @pydantic.model_validator(mode="after")
    def _is_no_door_to_others(self) -> Self:
        if isinstance(self.listen, str):
            if self.allow:
                raise fields.wrong(
                    "is for an address, not for a Unix socket",
                    ("allow",),
                    "conflict",
                    hint="use mode and group, which say who may connect",
                )
            return self
        for name in ("group", "mode"):
            if getattr(self, name) is not None:
                raise fields.wrong(
                    "is for a Unix socket, not for an address",
                    (name,),
                    "conflict",
                    hint="use allow, which says who may ask" if name == "mode" else "delete it",
                )
        fields.require_allow(self.listen, self.allow)
        return self
