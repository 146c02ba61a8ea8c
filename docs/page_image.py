"""Draws docs/how-to/page.png, the daemon's page as Chromium shows it: python docs/page_image.py.

The status is made up, and the page made of it as the daemon makes it. To see it in another way,
name a file and options of Chromium: /tmp/narrow.png --window-size=320,1500. Needs Pillow.
"""

import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any, Final

from tcpdconf.daemon.http import page
from tcpdconf.daemon.http.history import INTERVAL, SAMPLES, History

_IMAGE: Final = pathlib.Path(__file__).parent / "how-to/page.png"
NOW: Final = time.mktime((2026, 11, 23, 9, 41, 7, 0, 0, -1))
_BOUNDS: Final = [0.01, 0.1, 1.0]
# connections, slots, accepted and refused by reason
_SERVICES: Final = {
    "smtp": ("0.0.0.0:25 [::]:25", 31, 40, 182_440, {"access": 412, "per_ip": 1_893, "dropped": 52_771}),
    "submission": ("0.0.0.0:587 [::]:587", 6, 40, 9_310, {"per_ip": 8, "penalty": 344}),
    "submissions": ("0.0.0.0:465 [::]:465", 9, 40, 14_205, {"penalty": 1_021, "banned": 96}),
    "imap": ("0.0.0.0:143 [::]:143", 44, 400, 20_118, {"per_ip": 12}),
    "imaps": ("0.0.0.0:993 [::]:993", 371, 400, 96_377, {"per_ip": 231, "rate": 17}),
    "pop3s": ("0.0.0.0:995 [::]:995", 2, 40, 5_240, {}),
}
_REASONS: Final = (
    *("banned", "access", "per_ip", "per_network", "rate", "dropped", "proxy", "penalty", "spawn"),
)


def status() -> dict[str, Any]:
    """Return an answer to `status` as the daemon of a mail host gives it."""
    return {
        "pid": 812,
        "version": "1.0",
        "stopping": False,
        "started_at": NOW - 12 * 86400 - 4 * 3600,
        "config": {"dir": "/etc/tcpdconf/conf.d", "loaded_at": NOW - 1140},
        "last_reload": {
            "ok": True,
            "at": NOW - 1140,
            "changed": ["imaps", "smtp"],
            "details": [
                "imaps: limits.max_connections 300 -> 400",
                "imaps: limits.warn_at 280 -> 360",
                "smtp: dns_lists[1].match[1] removed",
            ],
            "problems": [],
        },
        "services": {name: _service(name, *figures) for name, figures in _SERVICES.items()},
        "connections_by_address": [
            {"address": address, "connections": count}
            for address, count in (("192.0.2.40", 12), ("2001:db8:7::25", 9), ("198.51.100.17", 7))
        ],
        "refused_by_address": [
            {"address": address, "refused": count}
            for address, count in (("203.0.113.77", 1_204), ("203.0.113.9", 311), ("2001:db8:bad::1", 58))
        ],
        "cluster": {
            "engine": "rediss://192.0.2.10:6379/0",
            "on_failure": "local",
            "state": "up",
            "why": "",
            "since": NOW - 12 * 86400,
            "hosts": [
                {"name": name, "own": name == "mx1", "alive": True, "lease_age": age, "connections": count}
                for name, age, count in (("mx1", 1.2, 463), ("mx2", 3.7, 458))
            ],
        },
        "bans": 3,
        "banned": [
            _ban("203.0.113.77", 3_420, "sshd and smtp, 14 failures", "uid 0 (fail2ban-server)"),
            _ban("198.51.100.0/24", None, "scans every night", "uid 0 (tcpdconf)"),
            _ban("2001:db8:bad::/48", 82_000, "open relay tests", "uid 0 (tcpdconf)", "smtp"),
        ],
    }


def history(of: Mapping[str, Any]) -> History:
    """Return a quarter of an hour that ends with the connections of a status."""
    made = History()
    for step in range(SAMPLES):
        left = (SAMPLES - 1 - step) / (SAMPLES - 1)
        made.add(
            step * INTERVAL,
            {
                name: max(
                    0, round(each["connections"] * (1 - left * (0.5 + 0.3 * math.sin(step * 0.9 + at))))
                )
                for at, (name, each) in enumerate(of["services"].items())
            },
        )
    return made


def _service(  # noqa: PLR0917 (figures in the order of their table)
    name: str, listeners: str, used: int, of: int, accepted: int, refused: Mapping[str, int]
) -> dict[str, Any]:
    lists = {
        "zen.dnsbl.example": _list("up", "", asked=201_930, listed=52_771, timeout=41, mean=0.012),
        "list.dnswl.example": _list(
            "suspended", "lists its test point 127.0.0.1", asked=88_120, listed=0, timeout=0, mean=0.02
        ),
    }
    return {
        "accepts": True,
        "stays_up": True,
        "waiting": 3 if name == "imaps" else 0,
        "connections": used,
        "max_connections": of,
        "accepted": accepted,
        "refused": {reason: refused.get(reason, 0) for reason in _REASONS},
        "listeners": listeners.split(),
        "dns_lists": lists if name == "smtp" else {},
    }


def _list(state: str, why: str, *, asked: int, listed: int, timeout: int, mean: float) -> dict[str, Any]:
    times = {"bounds": _BOUNDS, "counts": [asked, 0, 0, 0], "sum": asked * mean}
    return {"state": state, "why": why, "asked": asked, "listed": listed, "timeout": timeout, "times": times}


def _ban(
    network: str, seconds: float | None, reason: str, by: str, service: str | None = None
) -> dict[str, Any]:
    until = None if seconds is None else NOW + seconds
    return {
        "network": network,
        "service": service,
        "until": until,
        "since": NOW - 180,
        "by": by,
        "reason": reason,
    }


def draw(image: pathlib.Path, *options: str) -> None:
    """Draw the page; the options are Chromium's."""
    from PIL import Image  # noqa: PLC0415 (tests have the status drawn without it)

    found = status()
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / "page.html"
        source.write_text(page.html(found, history(found), "mail.example.org", NOW))
        subprocess.run(
            [
                *(
                    "chromium",
                    "--headless",
                    "--disable-lcd-text",
                    "--hide-scrollbars",
                    "--window-size=1000,1190",
                ),
                *(["--no-sandbox"] if os.geteuid() == 0 else []),
                *(f"--user-data-dir={folder}/profile", f"--screenshot={image.absolute()}"),
                *(*options, source.as_uri()),
            ],
            check=True,
        )
    with Image.open(image) as drawn:
        drawn.quantize().save(image, optimize=True)  # 256 colours suffice, and need a third of the bytes


if __name__ == "__main__":
    draw(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else _IMAGE, *sys.argv[2:])
