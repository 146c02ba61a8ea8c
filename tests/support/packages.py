"""The source distribution and the wheel of this tree, and environments with them; no index is asked."""

import pathlib
import shutil
import site
import subprocess
import sys
import venv

TOP = pathlib.Path(__file__).parents[2]
_LEFT_OUT = (".git", ".venv", "venv", "*_cache", "__pycache__", "*.egg-info", ".hypothesis")


def build(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Make both, `wheel` and `sdist`, of a copy of the tree: a build leaves its traces in it."""
    shutil.copytree(TOP, folder / "tree", ignore=shutil.ignore_patterns(*_LEFT_OUT))
    # without isolation: the tools that are here are used
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist")]
    result = subprocess.run(
        command, cwd=folder / "tree", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert result.returncode == 0, result.stdout
    shutil.rmtree(folder / "tree")
    (wheel,) = (folder / "dist").glob("*.whl")
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    return {"wheel": wheel, "sdist": sdist}


def install(package: pathlib.Path, environment: pathlib.Path) -> None:
    """Install one in an environment of its own; what it depends on is seen where it is installed already."""
    venv.create(environment)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text("".join(f"{path}\n" for path in site.getsitepackages()))
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin/python")]
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed"]
    subprocess.run([*pip, "install", *options, str(package)], check=True)
