"""Defines fixtures for the tests of several tools."""

import os
import pathlib
import subprocess
from collections.abc import Iterator

import pytest
from support import debs, packages, peers
from support.running import containers, daemons, debian

from tcpdconf import __version__


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """This project as a wheel."""
    return packages.build(tmp_path_factory.mktemp("built"))["wheel"]


@pytest.fixture(scope="session")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """All files that packages are built from; other tests may not change them."""
    folder = tmp_path_factory.mktemp("wheelhouse")
    subprocess.run([packages.TOP / "packaging/wheelhouse", folder], check=True, timeout=240)
    return folder


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder with wheel, sdist, image, SBOMs and their hashes; other tests may not change it.

    TCPDCONF_DIST is one in which packaging/build-dist and build-image have built before.
    """
    peers.need_root()
    peers.need("mmdebstrap", "buildah", "umoci")
    if "TCPDCONF_DIST" in os.environ:
        return pathlib.Path(os.environ["TCPDCONF_DIST"])
    folder = tmp_path_factory.mktemp("dist")
    for script in ("build-dist", "build-image"):
        subprocess.run([packages.TOP / "packaging" / script, folder], check=True)
    return folder


@pytest.fixture(scope="session")
def bundle(dist: pathlib.Path) -> Iterator[pathlib.Path]:
    """The image as a runtime unpacks it, in a folder that every user gets into."""
    (archive,) = dist.glob("tcpdconf-*-image-*.tar")
    with daemons.public_folder() as folder:
        yield containers.unpack(archive, f"tcpdconf:{__version__}", folder)


@pytest.fixture(scope="session")
def built_debs(wheelhouse: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """The Debian packages by name, with their source beside them; TCPDCONF_DEBS may have them already."""
    if "TCPDCONF_DEBS" in os.environ:
        return debs.built(pathlib.Path(os.environ["TCPDCONF_DEBS"]))
    return debs.build(wheelhouse, tmp_path_factory.mktemp("debs"))


@pytest.fixture(scope="session")
def fresh_debian(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A minimal Debian with systemd; tests copy it."""
    folder = tmp_path_factory.mktemp("debian") / "fresh"
    debian.bootstrap(folder)
    return folder
