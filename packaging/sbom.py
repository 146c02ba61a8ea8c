"""Completes an SBOM (software bill of materials) that cyclonedx-py has written.

    python packaging/sbom.py VERSION <environment.json >tcpdconf.cdx.json
    python packaging/sbom.py VERSION STATUS.D <tcpdconf.cdx.json >image.cdx.json

The first form adds the version and the package URL of tcpdconf itself: pyproject.toml has none, because the
version is dynamic. The second makes the SBOM of the image: the same, with Debian's packages as the files in
the directory STATUS.D describe them, each a control file of dpkg.
"""

import email
import json
import pathlib
import sys
from typing import Any, Final
from urllib import parse

_OPERANDS: Final = (2, 3)  # lengths of sys.argv that are valid


def main(arguments: list[str]) -> int:
    """Read an SBOM from standard input, and write the completed SBOM to standard output."""
    if len(arguments) not in _OPERANDS:
        sys.stderr.write(__doc__ or "")
        return 2
    sbom = json.load(sys.stdin)
    own = sbom["metadata"]["component"]
    own |= {"version": arguments[1], "purl": f"pkg:pypi/tcpdconf@{arguments[1]}"}
    if len(arguments) == _OPERANDS[-1]:
        packages = [_package(path) for path in sorted(pathlib.Path(arguments[2]).iterdir())]
        names = {"name": own["name"], "version": own["version"]}
        sbom["metadata"]["component"] = {"type": "container", "bom-ref": "image", **names}
        sbom["components"] += [own, *packages]
        parts = [own["bom-ref"], *(package["bom-ref"] for package in packages)]
        sbom["dependencies"] += [{"ref": "image", "dependsOn": sorted(parts)}]
    sys.stdout.write(json.dumps(sbom, indent=2, sort_keys=True) + "\n")
    return 0


def _package(path: pathlib.Path) -> dict[str, Any]:
    """Return the component that a control file of dpkg describes."""
    control = email.message_from_string(path.read_text(encoding="utf-8"))
    name, version = control["Package"], control["Version"]
    source = control.get("Source", name).split()[0]  # advisories of Debian name the source
    where = {"arch": control["Architecture"], "distro": "debian-12", "upstream": source}
    return {
        "type": "library",
        "bom-ref": f"debian:{name}",
        "name": name,
        "version": version,
        "purl": f"pkg:deb/debian/{name}@{parse.quote(version, safe='')}?{parse.urlencode(where)}",
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv))
