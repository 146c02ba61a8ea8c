"""The hosts under abuse: their services, and what each of them may do."""

import json
import pathlib
import string
from typing import Final

USERS: Final = (54321, 54322)
HOSTS: Final = ("mx1", "mx2")
SLOTS: Final = {
    "steady": 50, "victim": 12, "twin": 12, "proxied": 30, "listed": 8, "left": 12, "right": 12,
}  # on each host  # fmt: skip
PER_IP: Final = {"steady": 20, "pair": 2, "proxied": 10, "listed": 2, "sides": 2}  # by what counts together
GROUP: Final = {"victim": "pair", "twin": "pair", "left": "sides", "right": "sides"}
BROKERED: Final = "sides"  # the group that counts on each host alone; its services have different users
WORKERS: Final = {"steady": 3, "victim": 3, "twin": 3}  # others have one
LASTING: Final = ["/bin/sh", "-c", "/usr/bin/env -0; exec sleep 0.2"]  # programs that are seen from outside
TALKING: Final = ["/bin/cat", "/proc/self/environ", "-"]  # that hold their slot until the client says no more
DENIED: Final = "127.9"  # the network that access rules refuse
RULED: Final = "127.8"  # the one for which a rule sets a variable
LISTED: Final = "127.7"  # the one that is on the list
PLAIN: Final = "127.6"
PROXY_SECONDS: Final = 2.0
DEADLINE: Final = 1.0  # of the engine: a busy machine is no failure of it

_PROGRAMS: Final = {"steady": TALKING, "proxied": ["/usr/bin/env", "-0"]}
_SERVICE: Final = string.Template("""
[services.$name]
program = $program
workers = $workers
user = $user
group = $user
environment = { GENERATION = "$generation", MARK = "$name-$generation" }
messages = { access = "access", per_ip = "per_ip", dropped = "dropped", spawn = "spawn" }
$keys
[[services.$name.listeners]]
address = "127.0.0.1"
port = $port
$listener
[services.$name.limits]
max_connections = $slots
max_per_ip = $per_ip
scope = "$scope"
$group
[[services.$name.access]]
rules = [
  { network = "$denied.0.0/16", action = "deny" },
  { network = "$ruled.0.0/16", action = "allow", environment = { RULE = "ruled" } },
]
""")


def counts_as(service: str) -> str:
    """The group of a service, or itself: its connections are counted under this name."""
    return GROUP.get(service, service)


def configuration(
    host: str, ports: dict[str, int], generation: int, *, folder: pathlib.Path, server: str, user: int
) -> str:
    """The whole configuration of one host and generation; `user` is that of the group's services.

    The engine of the cluster is in the folder.
    """
    logger = f'stderr = {{ logger = ["/bin/sh", "-c", "exec cat >> {folder}/logged"], name = "x" }}'
    table = 'zone = "bl.example", action = "block", variable = "BLOCK", probe = false'
    lists = f"dns_lists = [{{ {table} }}]\ndns = {{ deadline = 0.5 }}"
    special: dict[str, dict[str, object]] = {
        "victim": {"user": user, "keys": logger},
        "twin": {"user": user},
        "right": {"user": USERS[1]},
        "proxied": {"listener": f'haproxy = {{ trusted = ["127.0.0.0/8"], timeout = {PROXY_SECONDS} }}'},
        "listed": {"keys": lists},
    }
    text = f'[dns]\nservers = ["{server}"]\ntimeout = 0.2\nattempts = 1\n[daemon]\nwatch = false\n'
    text += f'[cluster]\nname = "{host}"\nurl = "unix://{folder}/redis.sock"\ndeadline = "{DEADLINE:g}s"\n'
    for name, slots in SLOTS.items():
        values: dict[str, object] = {
            "name": name, "user": USERS[0], "generation": generation, "keys": "", "listener": "",
            "port": ports[name], "slots": slots, "per_ip": PER_IP[counts_as(name)], "denied": DENIED,
            "ruled": RULED, "program": json.dumps(_PROGRAMS.get(name, LASTING)),
            "workers": WORKERS.get(name, 1),
            "scope": "host" if GROUP.get(name) == BROKERED else "cluster",
            "group": f'group = "{GROUP[name]}"' if name in GROUP else "",
        }  # fmt: skip
        text += _SERVICE.substitute(values | special.get(name, {}))
    return text


def expected(name: str, generation: str, source: str) -> dict[str, str]:
    """The environment that a program must have, but for ports and what lists say."""
    found = {"GENERATION": generation, "MARK": f"{name}-{generation}", "PROTO": "TCP"}
    found |= {"TCPREMOTEIP": f"::ffff:{source}", "TCPLOCALIP": "::ffff:127.0.0.1"}
    if source.startswith(f"{RULED}."):
        found["RULE"] = "ruled"
    return found
