"""Recognises values in the notations of other programs, and advises how to write them here.

Each function takes text that its reader refuses, and returns advice: a hint in words, the TOML that was
certainly meant, or neither. It never guesses a value that would mean something else.
"""

import ipaddress
import json
import re
from typing import Final, NamedTuple

from tcpdconf.config import socket_address

_URL: Final = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.IGNORECASE)
_OCTET: Final = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_OCTETS: Final = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{0,2}}\.?")
_SIZE: Final = re.compile(r"(\d{1,15}) ?([kmgt])(?:i?b|bytes?)?", re.IGNORECASE)
_EVERYBODY: Final = frozenset({"any", "all", "0", "", "everybody", "0/0", "everyone"})
_UNITS: Final = {"m": "min", "mn": "min", "minutes": "min", "sec": "s", "hr": "h"}
_VARIABLE: Final = re.compile(r"\$\{?[A-Za-z_]\w*\}?|\{\{.*?\}\}|%[A-Za-z_]+%")
_BLOCK: Final = re.compile(r"([\w.-]+)(?:/([\d.]+))?,([A-Za-z_]\w*)(?:,(.*))?", re.DOTALL)

HIDDEN: Final = "<hidden>"  # shown in place of a secret zone; no zone has these characters


class Advice(NamedTuple):
    """Holds advice: a hint in words, or the TOML to write in place of the value."""

    hint: str | None = None
    meant: str | None = None


NONE: Final = Advice()


def quoted(text: str) -> str:
    """Return text as a TOML string."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def network(text: str) -> Advice:  # noqa: PLR0911 (one for each notation)
    """Advise on prefixes of octets, ranges, masks, brackets, ports and names in place of a network."""
    text = text.strip()
    if text.lower() in _EVERYBODY:
        return Advice(meant='"*"')
    if text.startswith("[") and "]" in text:
        return _bracketed(text, 'the port belongs to "local"')
    if _OCTETS.fullmatch(text):
        octets = text.strip(".").split(".")
        filled = [*octets, "0", "0", "0"][:4]
        return Advice(meant=f'"{".".join(filled)}/{8 * len(octets)}"')
    first, dash, last = text.partition("-")
    if dash:
        return _range(first.strip(), last.strip())
    if "," in text or " " in text:
        return Advice("write one rule, or one element of the array, for each network")
    host, slash, mask = text.partition("/")
    if slash and _OCTETS.fullmatch(host) and mask.isdigit() and int(mask) <= 32:
        filled = [*host.strip(".").split("."), "0", "0", "0"][:4]
        return Advice(meant=f'"{ipaddress.ip_network(".".join(filled) + "/" + mask, strict=False)}"')
    host, colon, port = text.rpartition(":")
    if colon and port.isdigit() and _is_address(host):
        return Advice(f'write "{host}", and the port of this host as local = "*:{port}"')
    if re.fullmatch(r"[A-Za-z][\w-]*(\.[\w-]+)*", text):
        return Advice("write the address: names are not looked up")
    return NONE


def _range(first: str, last: str) -> Advice:
    try:
        low, high = ipaddress.ip_address(first), ipaddress.ip_address(last)
        found = list(ipaddress.summarize_address_range(low, high))
    except (ValueError, TypeError):
        return NONE
    if len(found) == 1:
        return Advice(meant=f'"{found[0]}"')
    written = ", ".join(f'"{each}"' for each in found[:8]) + (", ..." if len(found) > 8 else "")
    return Advice(f"write one rule for each network of the range: {written}")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _bracketed(text: str, port_goes: str) -> Advice:
    inside, _, rest = text[1:].partition("]")
    host, slash, length = inside.partition("/")
    if not _is_address(host) or (slash and not length.isdigit()):
        return NONE
    if rest.startswith("/") and not slash:
        return Advice(meant=f'"{host}{rest}"')
    return Advice(f'write "{inside}"; {port_goes}') if rest else Advice(meant=f'"{inside}"')


def address(text: str) -> Advice:  # noqa: PLR0911 (one for each notation)
    """Advise on brackets, ports, networks, names and URLs in place of an address to listen on."""
    url = _URL.fullmatch(text)
    bare = (url[2].split("/")[0] if url else text).strip()
    found = split(bare)
    if found is not None:
        host, port = found
        return Advice(f'write address = "{host}" and port = {port}')
    if bare.lower() in _EVERYBODY:
        return Advice(meant='"*"')
    if bare.startswith("["):
        return _bracketed(bare, "the port belongs to port")
    if bare.lower() == "localhost":
        return Advice('write a listener for "127.0.0.1" and one for "::1": names are not looked up')
    if "/" in bare:
        host = bare.partition("/")[0]
        if _is_address(host) and bare.rpartition("/")[2] in {"32", "128"}:
            return Advice(meant=f'"{host}"')
        return Advice("write one address without a prefix length")
    if "," in bare:
        return Advice("write a [[...listeners]] table for each address")
    if _is_address(bare) and bare != text:
        return Advice(meant=f'"{bare}"')
    return Advice("write the address: names are not looked up") if re.match(r"[A-Za-z]", bare) else NONE


def split(text: str) -> tuple[str, int] | None:
    """Split `ADDRESS:PORT`, `[ADDRESS]:PORT`, `*:PORT` or Courier's `ADDRESS.PORT` into address and port."""
    found = re.fullmatch(
        r"(\d+\.\d+\.\d+\.\d+)[.:](\d{1,5})|\[([^\]]+)\][.:](\d{1,5})|(\*|0|):(\d{1,5})", text
    )
    if found is None:
        return None
    host, digits = next(pair for pair in (found.group(1, 2), found.group(3, 4), found.group(5, 6)) if pair[1])
    host = "*" if host in {"0", ""} else host
    if (host != "*" and not _is_address(host)) or not 1 <= int(digits) <= 65535:
        return None
    return host, int(digits)


def port(text: str) -> Advice:
    """Advise on several ports, addresses with ports, or a protocol beside the name, in place of a port."""
    if re.fullmatch(r":\d{1,5}", text.strip()):
        return Advice(meant=text.strip()[1:])
    found = split(text.strip())
    if found is not None:
        return Advice(f'write address = "{found[0]}" and port = {found[1]}')
    name, slash, protocol = text.partition("/")
    if slash and protocol in {"tcp", "udp"}:
        return Advice(meant=name if name.isdigit() else f'"{name}"')
    if "," in text or ("-" in text and text.replace("-", "").isdigit()):
        return Advice("write a [[...listeners]] table for each port")
    return Advice(meant=text.strip()) if text.strip().isdigit() and text != text.strip() else NONE


def size(value: object) -> Advice:
    """Advise on sizes as written in the shell, in systemd and by people."""
    if isinstance(value, int) and value == -1:
        return Advice(meant='"unlimited"')
    text = value.strip() if isinstance(value, str) else ""
    if text.lower() in {"-1", "infinity", "infinite", "inf", "max", "none", "unlimited"}:
        return Advice(meant='"unlimited"')
    found = _SIZE.fullmatch(text)
    return Advice(meant=f'"{found[1]}{found[2].upper()}iB"') if found else NONE


def rate(value: object) -> Advice:
    """Advise on rates in other notations."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return Advice(f'add the time: "{value}/s", "{value}/min" or "{value}/h"')
    text = value.strip() if isinstance(value, str) else ""
    if text.isdigit():
        return rate(int(text))
    found = re.fullmatch(r"(\d{1,9}) *(?:/|per|a|in) *(\d{1,6})? *([A-Za-z]+)", text)
    if found is None or int(found[1]) == 0:
        return NONE
    unit = found[3].lower()
    unit = _UNITS.get(unit, unit)
    if not re.fullmatch(r"(s|sec|second|min|minute|h|hour|d|day)s?", unit):
        return NONE
    return Advice(meant=f'"{found[1]}/{found[2] or ""}{unit}"')


def path(value: object) -> Advice:
    """Advise on URLs, variables and home folders in place of an absolute path."""
    text = value if isinstance(value, str) else ""
    url = _URL.fullmatch(text)
    if url:
        plain = url[1].lower() == "file" and url[2].startswith("/")
        return Advice(meant=quoted(url[2])) if plain else Advice("write the path of a file on this host")
    if _VARIABLE.search(text) or text.startswith("~"):
        return Advice("write the path itself: variables and ~ are not expanded")
    if text.strip() != text and text.strip().startswith("/"):
        return Advice(meant=quoted(text.strip()))
    return Advice('write the whole path, from "/" on') if text else NONE


def zone(text: str) -> Advice:
    """Advise on URLs, or Courier's `ZONE/ADDRESS,VARIABLE,MESSAGE`, in place of a zone."""
    if text == HIDDEN:
        return Advice(
            "write the zone itself: tcpdconf show prints <hidden> for a zone that has a display_zone"
        )
    url = _URL.fullmatch(text.strip())
    if url:
        host = url[2].split("/")[0].split(":")[0].strip(".")
        return Advice(meant=f'"{host}"') if re.fullmatch(r"[\w-]+(\.[\w-]+)+", host) else NONE
    block = _BLOCK.fullmatch(text.strip())
    if block:
        parts = [f'zone = "{block[1]}"', *_listed(block)]
        return Advice("write each part as a key: " + ", ".join(parts))
    if re.fullmatch(r"[*.]+[\w-]+(\.[\w-]+)+", text):
        return Advice(meant=f'"{text.lstrip("*.")}"')
    return Advice(meant=quoted(text.strip())) if text.strip() != text and text.strip() else NONE


def _listed(block: "re.Match[str]") -> list[str]:
    """Return the keys of a DNS list other than its zone."""
    keys = [f'match = ["{block[2]}"]'] if block[2] else []
    keys.append(f'variable = "{block[3]}"')
    return keys + ([f"message = {quoted(block[4])}"] if block[4] else [])


def dns_list(text: str) -> Advice:
    """Advise on a zone, or Courier's notation of a block list, in place of a table."""
    block = _BLOCK.fullmatch(text.strip())
    if block:
        return Advice(meant="{ " + ", ".join([f'zone = "{block[1]}"', *_listed(block)]) + " }")
    if re.fullmatch(r"[\w-]+(\.[\w-]+)+\.?", text.strip()):
        return Advice(meant=f'{{ zone = "{text.strip()}" }}')
    return NONE


def server(text: str) -> Advice:
    """Advise on URLs, names and unbracketed ports in place of a name server."""
    url = _URL.fullmatch(text.strip())
    bare = url[2].split("/")[0] if url else text.strip()
    found = split(bare)
    if found is not None and found[0] != "*":
        return Advice(meant=f'"{socket_address.shown(found[0], int(found[1]))}"')
    if url and url[1].lower() not in {"udp", "tcp", "dns"}:
        return Advice("write the address of a resolver that speaks plain DNS")
    if _is_address(bare):
        return Advice(meant=f'"{bare}"')
    host = re.fullmatch(
        r"(.+)[#@](\d{1,5})", bare
    )  # unbound and dnsmasq write 127.0.0.1@5353, 127.0.0.1#5353
    if host and _is_address(host[1]):
        return Advice(meant=f'"{socket_address.shown(host[1], int(host[2]))}"')
    if "," in bare or " " in bare:
        return Advice("write each server as an element of its own")
    return Advice("write the address: names are not looked up") if re.match(r"[A-Za-z]", bare) else NONE


def account(text: str) -> Advice:
    """Advise on `USER:GROUP` in place of a user."""
    user, colon, group = text.partition(":")
    if colon and user and group and not set(group) & set(":/"):
        return Advice(f'write user = "{user}" and group = "{group}"')
    return NONE


def placeholder(text: str) -> str | None:
    """Return the first placeholder in a text, as templates and shells write them, or None."""
    found = _VARIABLE.search(text)
    return found[0] if found else None
