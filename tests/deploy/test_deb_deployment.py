"""Ansible and Salt install the Debian package, in a fresh Debian under its own systemd.

Each tool runs in there, with Debian's Python and the packages of its virtual environment here.
"""

import json
import pathlib
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from support import debs, packages, peers
from support.running import daemons, debian

pytestmark = [pytest.mark.peer, pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(900)]

PORT = 4030
SERVICES = {
    "deployed": {
        "user": "nobody",
        "program": ["/bin/echo", "deployed"],
        "listeners": [{"address": "127.0.0.1", "port": PORT}],
    }
}
PLAY = """
- name: Serve
  hosts: localhost
  connection: local
  gather_facts: false
  roles: [tcpdconf]
"""


def bring(root: pathlib.Path, command: str) -> str:
    """Give the root what a tool's environment has (links cost nothing); return its place there."""
    peers.need(command)
    environment = pathlib.Path(str(shutil.which(command))).resolve().parents[1]
    (found,) = environment.glob("lib/python3*/site-packages")
    place = f"/opt/{command}"
    subprocess.run(["cp", "-al", found, f"{root}{place}"], check=True)
    return place


@pytest.fixture(scope="module")
def host(
    built_debs: dict[str, pathlib.Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[debian.Host]:
    root = tmp_path_factory.mktemp("deployed") / "root"
    debian.bootstrap(root, "python3", "python3-apt")
    for tool in ("ansible-playbook", "salt-call"):
        bring(root, tool)
    shutil.copytree(packages.TOP / "deploy", root / "srv/deploy")
    shutil.copy(built_debs[debs.DAEMON], root / "srv/tcpdconf.deb")
    with debian.Host(root) as booted:
        yield booted


def play(host: debian.Host, *options: str, **variables: object) -> str:
    """Run the role; what it prints."""
    given = {"tcpdconf_deb": "/srv/tcpdconf.deb", "tcpdconf_services": SERVICES, **variables}
    (host.root / "srv/site.yml").write_text(PLAY)
    (host.root / "srv/variables.json").write_text(json.dumps(given))
    environment = ["PYTHONPATH=/opt/ansible-playbook", "ANSIBLE_ROLES_PATH=/srv/deploy/ansible/roles"]
    command = [
        "python3",
        "-m",
        "ansible",
        "playbook",
        "/srv/site.yml",
        "-e",
        "@/srv/variables.json",
        *options,
    ]
    return host.run("env", *environment, "ANSIBLE_NOCOLOR=1", *command).stdout


def salt(host: debian.Host, state: str, *options: str) -> str:
    """Apply a state; what it prints."""
    minion = {
        "id": "test",
        "file_client": "local",
        "file_roots": {"base": ["/srv/deploy/salt", "/srv"]},
        "pillar_roots": {"base": ["/srv/pillar"]},
        "enable_fqdns_grains": False,
    }
    pillar = {"tcpdconf": {"package": {"deb": "salt://tcpdconf.deb"}, "config": {"services": SERVICES}}}
    (host.root / "srv/pillar").mkdir(exist_ok=True)
    (host.root / "srv/pillar/top.sls").write_text('{"base": {"*": ["page"]}}')
    (host.root / "srv/pillar/page.sls").write_text(json.dumps(pillar))
    (host.root / "srv/minion").write_text(json.dumps(minion))
    run = "from salt.scripts import salt_call; salt_call()"
    call = ["python3", "-c", run, "--local", "--config-dir=/srv", "--state-output=full", *options]
    return host.run(
        "env", "PYTHONPATH=/opt/salt-call", *call, "state.apply", state, "sync_mods=serializers"
    ).stdout


def installed(host: debian.Host) -> bool:
    """The package is there, and the daemon that serves is its own."""
    shown = host.run("dpkg-query", "--show", "--showformat=${db:Status-Status}", "tcpdconf").stdout
    unit = host.run("systemctl", "show", "--value", "--property=FragmentPath", "tcpdconf").stdout.strip()
    return shown == "installed" and unit == "/lib/systemd/system/tcpdconf.service"


def test_ansible_installs_it_and_changes_nothing_the_second_time(host: debian.Host) -> None:
    seen = play(host, "--check")
    assert "failed=0" in seen, seen
    assert not installed(host)

    done = play(host)
    assert "failed=0" in done, done
    assert installed(host)
    assert daemons.talk(PORT) == b"deployed\n"

    again = play(host)
    assert "changed=0" in again, again
    assert "failed=0" in again

    elsewhere = play(host, tcpdconf_venv="/opt/other")
    assert "tcpdconf_deb goes with neither tcpdconf_wheel nor tcpdconf_version" in " ".join(elsewhere.split())

    host.apt("purge", "tcpdconf")
    host.run("rm", "-r", "/etc/systemd/system/tcpdconf.service.d", "/etc/tcpdconf")
    assert host.run("systemctl", "daemon-reload").returncode == 0


def test_salt_installs_it_and_changes_nothing_the_second_time(host: debian.Host) -> None:
    done = salt(host, "tcpdconf")
    assert re.search(r"Failed: +0\b", done), done
    assert installed(host)
    assert daemons.talk(PORT) == b"deployed\n"

    again = salt(host, "tcpdconf")
    assert re.search(r"Failed: +0\b", again), again
    assert "(changed=" not in again

    clean = salt(host, "tcpdconf.clean")
    assert re.search(r"Failed: +0\b", clean), clean
    assert not installed(host)
