"""A systemctl that notes what it is told, for programs that configure a host which has no systemd running."""

import os
import pathlib

# a unit is what was last said of it
_SYSTEMCTL = """#!/bin/sh
echo "$*" >>{said}
last() {{ grep -E "^($1) " {said} | tail -1 | cut -d' ' -f1; }}
active=inactive
if [ "$(last 'start|stop')" = start ]; then active=active; fi
case " $* " in
  *" --version "*) echo "systemd {version} ({version}.1)" ;;
  *" show "*) printf 'LoadState=loaded\nActiveState=%s\n' $active ;;
  *" is-active "*) [ $active = active ] || exit 3 ;;
  *" is-enabled "*) [ "$(last 'enable|disable')" = enable ] && echo enabled ;;
esac
"""
_MOUNT = 'mount --bind "$0/units" /etc/systemd/system && mount --bind "$0/run" /run && exec "$@"'


class System:
    """Holds the parts of a command: the words `before` it, and `path`. Its units are in `units`.

    It says that it is systemd 252, the oldest that tcpdconf is for, until it is given another version.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.units = folder / "units"
        self._said = folder / "said"
        self._systemctl = folder / "bin/systemctl"
        for path in (self.units, folder / "bin", folder / "run/systemd/system"):
            path.mkdir(parents=True)
        self.become(252)
        self._systemctl.chmod(0o755)
        self.path = f"{folder}/bin:{os.environ['PATH']}"
        self.before = ["unshare", "--mount", "sh", "-c", _MOUNT, str(folder)]

    def become(self, version: int) -> None:
        """Be another version of systemd."""
        self._systemctl.write_text(_SYSTEMCTL.format(said=self._said, version=version))

    def told(self, unit: str) -> list[str]:
        """Return the requested actions on a unit: `start`, `enable`, ..."""
        lines = [line.removesuffix(".service").split() for line in self._said.read_text().splitlines()]
        asked = {"show", "is-active", "is-enabled"}
        return [words[0] for words in lines if len(words) == 2 and words[1] == unit and words[0] not in asked]
