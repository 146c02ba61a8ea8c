"""Tests the build inputs: downloaded, compared with their hashes, then built without a network."""

import pathlib
import shutil
import subprocess
import venv
import zipfile

import pytest
from support import packages, peers

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def wheels(wheelhouse: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("wheels")
    done = built(wheelhouse, folder)
    assert done.returncode == 0, done.stdout
    return folder


def built(wheelhouse: pathlib.Path, folder: pathlib.Path) -> subprocess.CompletedProcess[str]:
    """Build in a network namespace of its own, in which not even the loopback is up."""
    peers.need_root()
    peers.need("unshare", "cc")
    return subprocess.run(
        ["unshare", "--net", packages.TOP / "packaging/build-wheels", wheelhouse, folder],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=600,
    )  # fmt: skip


def test_an_environment_is_made_from_them_alone(wheels: pathlib.Path, tmp_path: pathlib.Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    commands = tmp_path / "venv/bin"
    options = ["--quiet", "--no-index", "--no-deps"]
    subprocess.run([commands / "pip", "install", *options, *wheels.glob("*.whl")], check=True)
    subprocess.run([commands / "pip", "check"], check=True)

    said = subprocess.check_output([str(commands / "tcpdconf"), "--version"], text=True)
    assert "starts programs: native" in said


def test_the_native_extension_is_in_the_wheel(wheels: pathlib.Path) -> None:
    (wheel,) = wheels.glob("tcpdconf-*.whl")

    assert "tcpdconf/daemon/process/_spawn.abi3.so" in zipfile.ZipFile(wheel).namelist()
    assert "-cp311-abi3-linux_" in wheel.name


def test_a_file_with_another_hash_is_refused(
    wheelhouse: pathlib.Path, wheels: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    other = shutil.copytree(wheelhouse, tmp_path / "wheelhouse")
    (file,) = other.glob("tomli_w-*.whl")
    (same,) = wheels.glob("tomli_w-*.whl")
    assert same.read_bytes() == file.read_bytes()
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("more.py", "")

    done = built(other, tmp_path / "wheels")

    assert done.returncode != 0
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in done.stdout


def test_a_wheel_without_the_extension_is_refused(
    wheelhouse: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "/bin/false")

    done = built(wheelhouse, tmp_path)

    assert done.returncode == 1
    assert "has no native extension: is there a C compiler?" in done.stdout
