"""DNS lists of a service, made as its table is written, and what clients' names may have."""

from typing import Any

from support import links

from tcpdconf.config.model.service import ServiceSettings
from tcpdconf.policy.dns import chain as dns_chain
from tcpdconf.policy.dns.chain import Chain

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


def service(*lists: Table | str, **keys: Any) -> ServiceSettings:  # noqa: ANN401 (as TOML gives them)
    return ServiceSettings.model_validate({"dns_lists": list(lists), **keys})


def chain(*lists: Table | str, **keys: Any) -> Chain:  # noqa: ANN401 (as TOML gives them)
    return dns_chain.build(service(*lists, **keys), {}, {})


def weighed(*lists: Table, threshold: int = 3) -> Chain:
    return chain(*lists, dns={"threshold": {"BLOCK": threshold}})
