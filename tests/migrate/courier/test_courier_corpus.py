"""Courier configurations that somebody really has become services, or the error that Courier ends with."""

import json
import shlex
from pathlib import Path
from typing import Any, Final

import pytest
from support import peers

from tcpdconf.config.load import hostcheck, load
from tcpdconf_migrate import __main__
from tcpdconf_migrate.courier import courier
from tcpdconf_migrate.courier import scripts as courier_scripts

pytestmark = pytest.mark.peer

DEBIAN: Final = ("03-debian-1.0.16-pop3d", "04-debian-1.0.16-pop3d-ssl", "05-debian-1.0.16-esmtpd",
                 "06-debian-1.0.16-esmtpd-msa", "07-debian-1.0.16-esmtpd-ssl", "13-schoofs-imapd",
                 "20-cromega-imapd-ssl")  # fmt: skip
# what only the host of the configuration has: its users, its files
OF_THE_HOST: Final = {"unknown-user", "unknown-group", "missing-file"}
SERVICES: Final = {script.service for script in courier_scripts.SCRIPTS}
# whole files in which variables are missing: couriertcpd gets no port, or that of another service
REFUSED: Final = {"46-mailbag-esmtpd-mta": {"smtp"}, "47-mailbag-esmtpd-base-mta-ssl": {"smtp"}}
COLLIDING: Final = {"45-mailbag-esmtpd-msa": {"duplicate-listener"}}


def configurations() -> dict[str, dict[str, Any]]:
    """All configurations by name; each is one file of Courier."""
    folder = peers.beside("corpus/configs")
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def text(said: dict[str, Any]) -> str:
    """The file: each variable as it was written, where that is known."""
    raw, variables = said.get("raw", {}), said["variables"]
    names = [*variables, *said.get("assigned_in_text_but_unset_after_sourcing", [])]
    values = {name: raw.get(name, shlex.quote(variables.get(name, ""))) for name in names}
    lines = [f"{name}={value}" for name, value in values.items()]
    return "".join(f"{line}\n" for line in lines)


def install(folder: Path, changed: str | None = None) -> None:
    """Debian's seven files, one of them replaced or, by a partial configuration, changed."""
    known = configurations()
    for name in (*DEBIAN, *([changed] if changed else [])):
        said = known[name]
        file = folder / said["service"]
        before = "" if said["complete_file"] or not file.exists() else file.read_text()
        file.write_text(before + text(said))


def test_every_configuration_becomes_services_that_load(tmp_path: Path) -> None:
    for name in configurations():
        folder, conf = tmp_path / name, tmp_path / f"{name}.d"
        folder.mkdir()
        install(folder, name)

        assert __main__.main(["courier", "-o", str(conf), str(folder)]) == 0, name
        loaded = load.load(conf, to_serve=False)
        problems = {problem.code for problem in hostcheck.check(loaded) if problem.severity == "error"}

        assert loaded.config.services.keys() == SERVICES - REFUSED.get(name, set()), name
        assert problems <= OF_THE_HOST | COLLIDING.get(name, set()), name


def test_command_lines_are_those_of_debians_own_scripts(tmp_path: Path) -> None:
    """Which were run with these files, and with programs in place of couriertcpd that tell what they get."""
    install(tmp_path)
    (tmp_path / "smtpaccess.dat").touch()
    (tmp_path / "imapaccess.dat").touch()
    known = {entry["id"]: entry for entry in peers.shared("corpus/argv.json")}
    found, _ = courier.read(str(tmp_path))
    scripts = {Path(command.origin).name: command for command in found}
    for script in ("esmtpd", "esmtpd-msa", "esmtpd-ssl", "pop3d", "imapd-ssl"):
        expected = known[f"deb-{script}"]
        words = [word.replace(str(tmp_path), "/etc/courier") for word in scripts[script].words]
        around, process = scripts[script].settings, expected["process"]

        assert words == expected["argv"], script
        assert around.get("directory", "/") == process["cwd"]
        assert int(around.get("umask", "022"), 8) == int(process["umask"], 8)
        limits = {key: str(size // 1024) for key, size in around.get("rlimits", {}).items()}
        assert limits.get("as") == process.get("ulimit_v_kb")
        assert limits.get("data") == process.get("ulimit_d_kb")
        more = {name: text for name, text in process["env_not_from_rc_files"].items() if text}
        assert around["environment"].items() >= {
            (name, text) for name, text in more.items() if not name.endswith("prefix")
        }
