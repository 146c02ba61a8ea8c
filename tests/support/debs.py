"""The Debian packages of this tree, built without a network, and the same packages with a later version."""

import pathlib
import subprocess
from typing import Final

from support import packages, peers

DAEMON: Final = "tcpdconf"
DROP_IN: Final = "tcpdconf-couriertcpd"


def build(wheelhouse: pathlib.Path, folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Build them where not even the loopback is up; return both by name."""
    peers.need_root()
    peers.need("unshare", "dpkg-buildpackage", "dh_virtualenv")
    command = ["packaging/build-deb", "--wheelhouse", str(wheelhouse), str(folder)]
    done = subprocess.run(
        ["unshare", "--net", *command],
        cwd=packages.TOP,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout
    return built(folder)


def built(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Return both packages in a folder by name."""
    return {name: next(folder.glob(f"{name}_*.deb")) for name in (DAEMON, DROP_IN)}


def field(package: pathlib.Path, name: str) -> str:
    """A field of a package's control file."""
    return subprocess.check_output(["dpkg-deb", "--field", package, name], text=True).strip()


def later(package: pathlib.Path, folder: pathlib.Path, version: str) -> pathlib.Path:
    """Return the package of the daemon in another version, in which a shipped file has changed."""
    tree = folder / "tree"
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(control.read_text().replace(field(package, "Version"), f"{version}-1"))
    (init,) = tree.glob("opt/tcpdconf/lib/python3*/site-packages/tcpdconf/__init__.py")
    text, said, _ = init.read_text().partition("__version__ = ")
    init.write_text(f'{text}{said}"{version}"\n')
    hello = tree / "etc/tcpdconf/conf.d/10-hello.toml"
    hello.write_text(f"# Changed by {version}.\n{hello.read_text()}")
    made = folder / f"tcpdconf_{version}-1.deb"
    command = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(made)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return made
