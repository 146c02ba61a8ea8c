"""Debian 12 as its mirror has it today: in a folder, as a root to run commands in, and as a booted system.

The first needs the network; a booted one has a network of its own, the loopback.
"""

import pathlib
import subprocess
from typing import Final

from support import peers
from support.running import systemdbox

RELEASE: Final = "bookworm"
# They would look for a console, remount the host's file system, or ask the mirror.
_MASKED: Final = ["getty.target", "systemd-remount-fs.service", "apt-daily.timer", "apt-daily-upgrade.timer"]
_SECONDS: Final = 300  # the mirror may be slow

_LOGIN: Final = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"]

# Arguments: the root, and a command. Packages start nothing: it would be in the host's network.
_CHROOT: Final = """set -e
mount -t proc proc "$0/proc"
mount --rbind /dev "$0/dev"
printf '#!/bin/sh\\nexit 101\\n' >"$0/usr/sbin/policy-rc.d"
chmod 755 "$0/usr/sbin/policy-rc.d"
status=0
chroot "$0" "$@" || status=$?
rm "$0/usr/sbin/policy-rc.d"
exit $status
"""

# Arguments: the folder that becomes /run/box, and the root. The kernel's settings are the host's: read-only.
_BOOT: Final = """set -e
mount --make-rprivate /
while umount -R /sys/fs/cgroup 2>/dev/null; do :; done
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --bind "$2" "$2"
cd "$2"
mount --rbind /proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/shm
for node in full null random tty urandom zero; do : >dev/$node; mount --bind /dev/$node dev/$node; done
ln -s /proc/self/fd dev/fd
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=755 tmpfs run
mkdir run/box
mount --bind "$1" run/box
mkdir -p run/systemd/journald.conf.d run/systemd/system.conf.d
printf '%s\\n' '[Journal]' Storage=volatile >run/systemd/journald.conf.d/box.conf
printf '%s\\n' '[Manager]' DefaultLimitCORE=0 >run/systemd/system.conf.d/box.conf
pivot_root . mnt
umount -l /mnt
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=box NOTIFY_SOCKET=/run/box/notify \\
  /lib/systemd/systemd --system --unit=multi-user.target --log-target=null --show-status=no
"""


def bootstrap(folder: pathlib.Path, *packages: str) -> None:
    """Make a minimal Debian with systemd and these packages."""
    peers.need_root()
    peers.need("mmdebstrap")
    include = ",".join(["systemd", "systemd-sysv", *packages])
    # in mounts of its own: none of /dev or /proc is left over if it is interrupted
    command = [
        "unshare",
        "--mount",
        "mmdebstrap",
        "--quiet",
        "--variant=minbase",
        f"--include={include}",
        RELEASE,
        str(folder),
    ]
    subprocess.run(command, check=True, timeout=_SECONDS, stdin=subprocess.DEVNULL)
    for unit in _MASKED:
        (folder / "etc/systemd/system" / unit).symlink_to("/dev/null")


def chrooted(root: pathlib.Path, *command: str) -> str:
    """Run a command in a root that is not booted, with the host's network; return what it says."""
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    done = subprocess.run(
        [*namespaces, "sh", "-c", _CHROOT, root, "env", "-i", *_LOGIN, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=_SECONDS,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


class Host(systemdbox.Box):
    """A Debian root, booted; `folder` is /run/box in it."""

    _boot = _BOOT

    def __init__(self, root: pathlib.Path) -> None:
        super().__init__()
        self.root = root

    def _trees(self) -> list[str]:
        return [str(self.root)]

    def _write_units(self) -> None:
        """Add none: it has its own."""

    def run(self, *command: str | pathlib.Path, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command in there, as root logs in: nothing of the test's environment is told."""
        return super().run("env", "-i", *_LOGIN, *command, seconds=seconds)

    def apt(self, *words: str) -> str:
        """Run apt-get, which must succeed; return what it says."""
        done = self.run("apt-get", "--yes", *words)
        assert done.returncode == 0, done.stdout + self.journal("--lines=20")
        return done.stdout
