"""Models [services.NAME.agent]: the service's answers to the agent-check of HAProxy."""

from typing import Annotated, Self

import pydantic
from pydantic import Field, Strict

from tcpdconf.config.model import fields
from tcpdconf.config.model.tables import Model


class Agent(Model):
    """Tells HAProxy (agent-check) how many slots are free, and that the service stops or does not run."""

    listen: fields.AgentEnd = Field(
        description="Address and port at which each client gets one line: up N% ready, drain or down. An "
        "address that other hosts can reach needs allow.",
        examples=["127.0.0.1:9143", "[::1]:9143"],
    )
    announce: Annotated[float, fields.Duration(0, 3600)] = Field(
        default=5,
        description="Time, in seconds, for which tcpdconf stop --drain answers drain and still accepts "
        "connections before it closes the listeners. At least twice the agent-inter of HAProxy.",
        examples=[10, "10s"],
    )
    allow: Annotated[tuple[fields.Network, ...], Strict(False)] = Field(
        default=(),
        description="Networks whose clients get an answer. When left out, all clients get one; only a "
        "loopback address may do without.",
        examples=[["192.0.2.7", "2001:db8::/64"]],
    )

    @pydantic.model_validator(mode="after")
    def _is_no_door_to_others(self) -> Self:
        fields.require_allow(self.listen, self.allow)
        return self
