"""DNS lists of a service, made as its table is written, and what clients' names may have."""

from typing import Any

from policy import links

from tcpdconf.config import model
from tcpdconf.policy import dnschain

CLIENT = links.end("127.0.0.5")
FRONT = "5.0.0.127."
A2 = {"A": ["127.0.0.2"]}
TWO = {"A": ["127.0.0.2", "127.0.0.3"], "TXT": ["t1"]}
ONLY = {"TXT": ["only text"]}
Table = dict[str, Any]


def block(zone: str = "bl.test", **keys: Any) -> Table:  # noqa: ANN401 (as TOML gives them)
    return {"zone": zone, **keys}


def allow(zone: str = "bl.test", **keys: Any) -> Table:  # noqa: ANN401 (as TOML gives them)
    return {"zone": zone, "action": "allow", **keys}


def service(*lists: Table | str, **keys: Any) -> model.ServiceSettings:  # noqa: ANN401 (as TOML gives them)
    return model.ServiceSettings.model_validate({"dns_lists": list(lists), **keys})


def chain(*lists: Table | str, **keys: Any) -> dnschain.Chain:  # noqa: ANN401 (as TOML gives them)
    return dnschain.build(service(*lists, **keys), {}, {})


def weighed(*lists: Table, threshold: int = 3) -> dnschain.Chain:
    return chain(*lists, dns={"threshold": {"BLOCK": threshold}})
