"""Debian's systemd as PID 1 of namespaces of its own, with the shipped units and nothing of the host's.

It has its own processes, network (the loopback), mounts, cgroup and host name. /run, /tmp, /var/tmp and
/var/lib are empty there; everything else is the host's. It boots in a second, and none of it outlives the
test.
"""

import contextlib
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from types import TracebackType
from typing import Final, Self

from support import networks, peers
from support.running import daemons

_TOP: Final = pathlib.Path(__file__).parents[3]
_SHIPPED: Final = _TOP / "deploy/systemd"
COMMAND: Final = pathlib.Path(sys.executable).with_name("tcpdconf")
_SYSTEMD: Final = "/lib/systemd/systemd"
_NAMESPACES: Final = ["--pid", "--mount", "--cgroup", "--uts", "--ipc", "--net"]
# all of what daemons are started from: the tree, and the virtual environment
_TREES: Final = [str(_TOP), sys.prefix]

# Units that others name. The host's, which would mount, clean and configure the host, are not looked at.
_UNITS: Final = {
    **dict.fromkeys(
        ["sysinit.target", "basic.target", "sockets.target", "shutdown.target"],
        "[Unit]\nDefaultDependencies=no\n",
    ),
    "box.target": """[Unit]
DefaultDependencies=no
Wants=systemd-journald.service
After=systemd-journald.service
""",
    "systemd-journald.service": """[Unit]
DefaultDependencies=no
[Service]
Type=notify
ExecStart=/lib/systemd/systemd-journald
""",
}

# The shipped unit cannot know the place of the tests' tcpdconf. PrivateTmp= hides it if it is below /tmp.
_DROP_IN: Final = f"""[Service]
ExecStart=
ExecStart={COMMAND} run /run/box/conf.d
ExecReload=
ExecReload={COMMAND} reload
BindReadOnlyPaths={" ".join(_TREES)}
WatchdogSec=4
"""

# Arguments: the folder that becomes /run/box, and the trees that are kept where they are.
_BOOT: Final = f"""set -e
mount --make-rprivate /
while umount -R /sys/fs/cgroup 2>/dev/null; do :; done
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/box /run/systemd/journald.conf.d /run/systemd/system.conf.d
mount --bind "$1" /run/box
ln -s /run/box/units /run/systemd/system
printf '%s\\n' '[Journal]' Storage=volatile >/run/systemd/journald.conf.d/box.conf
printf '%s\\n' '[Manager]' DefaultLimitCORE=0 >/run/systemd/system.conf.d/box.conf
shift
for tree; do mkdir -p "/run/kept$tree"; mount --rbind "$tree" "/run/kept$tree"; done
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=1777 tmpfs /var/tmp
mount -t tmpfs -o mode=755 tmpfs /var/lib
for tree; do mkdir -p "$tree"; mount --rbind "/run/kept$tree" "$tree"; done
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=box NOTIFY_SOCKET=/run/box/notify \\
  SYSTEMD_UNIT_PATH=/run/systemd/system \\
  {_SYSTEMD} --system --unit=box.target --log-target=null --show-status=no
"""


class Box:
    """A booted systemd from entering to leaving; meanwhile this thread is in its network.

    `folder` is /run/box in it, with conf.d, which the service serves, and units.
    """

    _boot = _BOOT

    def __init__(self) -> None:
        peers.need_root()
        peers.need(_SYSTEMD, "systemctl", "journalctl", "unshare", "nsenter")

    def __enter__(self) -> Self:
        unshare = ["unshare", "--fork", "--kill-child", "--mount-proc", *_NAMESPACES]
        tried = subprocess.run([*unshare, "true"], capture_output=True, text=True, check=False)
        if tried.returncode != 0:
            peers.without(f"namespaces ({tried.stderr.strip()})")
        self._cgroup = _new_cgroup()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="tcpdconf-box-"))
        self.folder.chmod(0o755)
        self.conf = self.folder / "conf.d"
        self.conf.mkdir()
        self._write_units()
        boot = [*unshare, "sh", "-c", self._boot, "boot", str(self.folder), *self._trees()]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.settimeout(daemons.SECONDS)
            manager.bind(str(self.folder / "notify"))
            with (self.folder / "console").open("wb") as console:
                self._process = subprocess.Popen(
                    ["sh", "-c", 'echo $$ >"$0" && exec "$@"', self._cgroup / "cgroup.procs", *boot],
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=subprocess.STDOUT,
                )
            try:
                while b"READY=1" not in manager.recv(4096).split(b"\n"):
                    pass
            except TimeoutError as error:
                said = (self.folder / "console").read_text()
                self._end()
                raise AssertionError(f"systemd does not boot: {said}") from error
        (self._init,) = daemons.children(self._process.pid)
        self._inside = contextlib.ExitStack()
        self._inside.enter_context(networks.of(self._init))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inside.close()
        self._end()

    def _trees(self) -> list[str]:
        """The further arguments of `_boot`."""
        return _TREES

    def _write_units(self) -> None:
        units = self.folder / "units"
        shutil.copytree(_SHIPPED, units)
        for name, text in _UNITS.items():
            (units / name).write_text(text)
        (units / "tcpdconf.service.d").mkdir()
        (units / "tcpdconf.service.d/box.conf").write_text(_DROP_IN)

    def _end(self) -> None:
        """Kill systemd, and all of its processes with it."""
        self._process.kill()
        self._process.wait()
        daemons.until(lambda: not _members(self._cgroup), "the end of all processes")
        daemons.until(lambda: _removed(self._cgroup), "the end of all cgroups")
        shutil.rmtree(self.folder)

    def run(
        self, *command: str | pathlib.Path, seconds: float = 3 * daemons.SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in there, as root; both of its streams are its `stdout`."""
        return subprocess.run(
            ["nsenter", f"--target={self._init}", *_NAMESPACES, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            text=True,
            check=False,
        )

    def do(self, *command: str) -> str:
        """Return the output of systemctl, which must succeed."""
        done = self.run("systemctl", *command)
        assert done.returncode == 0, done.stdout + self.journal()
        return done.stdout

    def shown(self, name: str, unit: str = "tcpdconf.service") -> str:
        """A property of a unit (systemctl show)."""
        return self.do("show", "--value", f"--property={name}", unit).strip()

    def journal(self, *options: str) -> str:
        """Return the service's part of the journal."""
        assert self.run("journalctl", "--sync").returncode == 0
        return self.run("journalctl", "--unit=tcpdconf", "--output=cat", "--no-pager", *options).stdout

    def drop_in(self, text: str = "") -> None:
        """Add to the settings of the service, or take back what was added."""
        (self.folder / "units/tcpdconf.service.d/later.conf").write_text(text)
        self.do("daemon-reload")

    def processes(self) -> list[int]:
        """The processes of the service, by their pids outside."""
        return _members(self._cgroup / "system.slice/tcpdconf.service")


def _new_cgroup() -> pathlib.Path:
    """A cgroup below this process's own: two systemds in one would end each other's services."""
    mounts = pathlib.Path("/proc/self/mountinfo").read_text()
    found = re.search(r"^\S+ \S+ \S+ / (\S+) .* - cgroup2 ", mounts, re.MULTILINE)
    own = re.search(r"^0::/(.*)$", pathlib.Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    if found is None or own is None:
        peers.without("a mounted cgroup2")
    try:
        return pathlib.Path(tempfile.mkdtemp(prefix="tcpdconf-box-", dir=pathlib.Path(found[1], own[1])))
    except OSError as error:
        peers.without(f"a cgroup2 that can be written ({error})")


def _removed(cgroup: pathlib.Path) -> bool:
    """Remove a cgroup with those below it; False while the kernel still has an ended process in one."""
    try:
        for path in sorted(cgroup.rglob("*/"), reverse=True):
            path.rmdir()
        cgroup.rmdir()
    except OSError:
        return False
    return True


def _members(cgroup: pathlib.Path) -> list[int]:
    """The processes in a cgroup and below."""
    found = (path.read_text().split() for path in cgroup.rglob("cgroup.procs"))
    return [int(pid) for pids in found for pid in pids]
