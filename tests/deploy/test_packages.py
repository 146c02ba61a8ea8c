"""The source distribution and the wheel: what is in them, and that what each installs works."""

import os
import pathlib
import re
import subprocess
import tarfile
import venv
import zipfile

import pytest
from support import packages

from tcpdconf import __version__

TOP = pathlib.Path(__file__).parents[2]
SHIPPED = [
    "share/man/man8/tcpdconf.8",
    "share/man/man5/tcpdconf.toml.5",
    "share/man/man1/tcpdconf-migrate.1",
    "share/bash-completion/completions/tcpdconf",
    "share/zsh/site-functions/_tcpdconf",
    "share/fish/vendor_completions.d/tcpdconf.fish",
    "share/tcpdconf/conf.d/10-hello.toml",
    "share/tcpdconf/schemas/tcpdconf.schema.json",
    "share/tcpdconf/systemd/tcpdconf.service",
    "share/tcpdconf/systemd/tcpdconf.socket",
    "share/tcpdconf/systemd/restart.conf",
    "share/tcpdconf/systemd/net-raw.conf",
    "share/tcpdconf/systemd/nice.conf",
    "share/tcpdconf/logrotate/tcpdconf",
    "share/tcpdconf/fail2ban/action.d/tcpdconf.conf",
    "share/tcpdconf/fail2ban/filter.d/tcpdconf-courier.conf",
    "share/tcpdconf/fail2ban/jail.d/tcpdconf.conf",
    "share/tcpdconf/prometheus/alerts.yml",
    "share/tcpdconf/prometheus/alerts_test.yml",
    "share/tcpdconf/prometheus/prometheus.yml",
    "share/tcpdconf/grafana/tcpdconf.json",
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    return packages.build(tmp_path_factory.mktemp("built"))


def test_the_wheel_has_every_module_and_what_share_has(built: dict[str, pathlib.Path]) -> None:
    names = zipfile.ZipFile(built["wheel"]).namelist()
    modules = [
        *(path.relative_to(TOP) for path in (TOP / "tcpdconf").rglob("*.py")),
        *(path.relative_to(TOP / "migrate") for path in (TOP / "migrate").rglob("*.py")),
    ]
    data = {name.partition(".data/data/")[2] for name in names}

    assert [path for path in modules if str(path) not in names] == []
    assert {"tcpdconf/py.typed", "tcpdconf/config/model/presets.toml", "tcpdconf_migrate/py.typed"} <= set(
        names
    )
    assert [path for path in SHIPPED if path not in data] == []


def test_the_source_distribution_has_what_is_tracked(built: dict[str, pathlib.Path]) -> None:
    with tarfile.open(built["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.run(["git", "ls-files"], cwd=TOP, capture_output=True, text=True, check=True)

    assert [path for path in tracked.stdout.splitlines() if path not in names | {".gitignore"}] == []


def test_the_readme_is_the_description(built: dict[str, pathlib.Path]) -> None:
    archive = zipfile.ZipFile(built["wheel"])
    (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))

    assert (TOP / "README.md").read_text() in archive.read(metadata).decode()


def test_examples_name_this_version() -> None:
    """All names of artefacts that pages and examples have, but those of the release before, to go back to."""
    listed = subprocess.run(
        ["git", "ls-files", "*.md", "deploy"], cwd=TOP, capture_output=True, text=True, check=True
    )
    artefact = re.compile(r"\btcpdconf(?:-couriertcpd)?[-_]v?([0-9]+\.[0-9]+\.[0-9]+)[-_]")
    found = {
        (name, artefact.search(line).group(1))  # type: ignore[union-attr]
        for name in listed.stdout.splitlines()
        for line in (TOP / name).read_text(errors="replace").splitlines()
        if artefact.search(line) and "--allow-downgrades" not in line
    }

    assert {"docs/how-to/ansible.md", "docs/how-to/salt.md", "docs/how-to/upgrade.md"} <= {
        name for name, _ in found
    }
    assert {each for each in found if each[1] != __version__} == set()


def usable(environment: pathlib.Path, folder: pathlib.Path) -> None:
    """Every command works in this environment, and finds nothing wrong with the conf.d that came with it."""
    commands = environment / "bin"
    conf = environment / "share/tcpdconf/conf.d"

    def said(*command: str | pathlib.Path) -> str:
        result = subprocess.run(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            env={"PATH": os.defpath},
        )  # fmt: skip
        assert result.returncode == 0, result.stdout
        return result.stdout

    assert "5 services in 5 files, 1 enabled: no problems" in said(commands / "tcpdconf", "check", conf)
    assert "[services.smtp]" in said(
        commands / "tcpdconf-migrate", "argv", "--", "couriertcpd", "25", "/bin/cat"
    )
    assert (commands / "couriertcpd").exists()
    assert said(commands / "tcpdconf", "schema") == (conf.parent / "schemas/tcpdconf.schema.json").read_text()
    assert [path for path in SHIPPED if not (environment / path).exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_it_works_installed_beside_its_dependencies(
    built: dict[str, pathlib.Path], kind: str, tmp_path: pathlib.Path
) -> None:
    packages.install(built[kind], tmp_path / "venv")

    usable(tmp_path / "venv", tmp_path)


@pytest.mark.network
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_pip_installs_all_that_it_needs(
    built: dict[str, pathlib.Path], kind: str, tmp_path: pathlib.Path
) -> None:
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    subprocess.run([environment / "bin/pip", "install", "--quiet", built[kind]], check=True)

    usable(environment, tmp_path)


@pytest.mark.network
@pytest.mark.timeout(600)
def test_the_locked_versions_can_be_installed_and_are_enough(
    built: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    lock = str(TOP / "deploy/requirements.lock")
    for options in (["--require-hashes", "--requirement", lock], ["--no-deps", str(built["wheel"])]):
        subprocess.run([environment / "bin/pip", "install", "--quiet", *options], check=True)
    subprocess.run([environment / "bin/pip", "check"], check=True)

    usable(environment, tmp_path)
