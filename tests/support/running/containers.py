"""Containers of an unpacked OCI image, run without a daemon: by util-linux's unshare, or by bubblewrap.

The image's config.json names the program, its user and its variables. The root is read-only, and
the network is a loopback of its own.
"""

import contextlib
import json
import os
import pathlib
import platform
import re
import signal
import struct
import subprocess
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, Self

from support import networks, peers
from support.running import daemons

USER: Final = 65534
RUNTIMES: Final = ("unshare", "bwrap")

# Arguments: the root, the number of mounts, for each of them where it is and where it is wanted, and the
# variables and command that PID 1 gets.
_BOOT: Final = """set -e
root=$1 mounts=$2
shift 2
ip link set lo up
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
  : >"$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
while [ "$mounts" -gt 0 ]; do
  mount --bind "$1" "$root$2"
  mounts=$((mounts - 1))
  shift 2
done
mount -o remount,bind,ro "$root"
exec env -i "$@"
"""


class Container:
    """A container from entering to leaving; meanwhile this thread is in its network.

    `folder` has its standard error in `log`. `mounts` has, by the paths in the container, folders of this
    host; the two folders that the image writes to are made if they are not among them. `arguments` follow
    the entry point, instead of the image's own. One that does not serve ends by itself.
    """

    def __init__(
        self,
        bundle: pathlib.Path,
        runtime: str,
        folder: pathlib.Path,
        *,
        mounts: Mapping[str, pathlib.Path] | None = None,
        arguments: Sequence[str] | None = None,
        ipv6: bool = True,
        serves: bool = True,
    ) -> None:
        peers.need_root()
        peers.need("ip", runtime, "nsenter")
        process = json.loads((bundle / "config.json").read_text())["process"]
        assert process["user"] == {"uid": USER, "gid": USER}
        entry, own = process["args"][:1], process["args"][1:]
        self.command = [*entry, *(own if arguments is None else arguments)]
        self.environment = dict(item.split("=", 1) for item in process["env"])
        self.root = bundle / "rootfs"
        self.folder = folder
        self.mounts = dict(mounts or {})
        for path, mode in (("/run/tcpdconf", 0o755), ("/var/lib/tcpdconf", 0o750)):
            if path not in self.mounts:
                self.mounts[path] = volume(folder / path.replace("/", "-"), mode, runtime)
        self._runtime = runtime
        self._ipv6 = ipv6
        self._serves = serves

    def __enter__(self) -> Self:
        filters = [] if self._ipv6 else [_without_ipv6()]
        command = self._unshare() if self._runtime == "unshare" else self._bwrap(filters)
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                command,
                env={"PATH": f"{os.defpath}:/usr/sbin:/sbin"},
                pass_fds=filters,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        for fd in filters:
            os.close(fd)
        self._inside = contextlib.ExitStack()
        try:
            daemons.until(self._is_up, "the container")
            assert (self.process.poll() is None) == self._serves, self.log
            if self._serves:
                (self.init,) = daemons.children(self.process.pid)
                self._inside.enter_context(networks.of(self.init))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inside.close()
        if self.process.poll() is None:
            self.process.kill()  # both runtimes take the container along
        self.process.wait()

    def _is_up(self) -> bool:
        served = re.search(r'running services=|"event": ?"running"', self.log)
        return served is not None or self.process.poll() is not None

    def _unshare(self) -> list[str]:
        mounts = [word for path, source in self.mounts.items() for word in (str(source), path)]
        namespaces = ["--pid", "--mount", "--net", "--ipc", "--uts", "--fork", "--kill-child"]
        boot = ["sh", "-c", _BOOT, "boot", str(self.root), str(len(self.mounts)), *mounts]
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        inside = ["/usr/bin/unshare", f"--root={self.root}", "--wd=/", f"--setgid={USER}", f"--setuid={USER}"]
        return ["unshare", *namespaces, *boot, *variables, *inside, *self.command]

    def _bwrap(self, filters: Sequence[int]) -> list[str]:
        mounts = [word for path, source in self.mounts.items() for word in ("--bind", str(source), path)]
        variables = [word for item in self.environment.items() for word in ("--setenv", *item)]
        return [
            *(
                "bwrap",
                "--as-pid-1",
                "--die-with-parent",
                "--unshare-all",
                "--uid",
                str(USER),
                "--gid",
                str(USER),
            ),
            *("--cap-drop", "ALL", "--clearenv", *variables),
            *(word for fd in filters for word in ("--seccomp", str(fd))),
            *("--ro-bind", str(self.root), "/", "--proc", "/proc", "--dev", "/dev", *mounts, "--chdir", "/"),
            *self.command,
        ]

    @property
    def log(self) -> str:
        """Return its output so far."""
        return (self.folder / "log").read_text()

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the image beside, as `podman exec` does; for unshare."""
        assert self._runtime == "unshare"
        namespaces = ["--pid", "--mount", "--net", "--ipc", "--uts", "--root", "--wd"]
        user = [f"--setuid={USER}", f"--setgid={USER}"]
        return subprocess.run(
            ["nsenter", f"--target={self.init}", *namespaces, *user, *command],
            env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=daemons.SECONDS, text=True, check=False,
        )  # fmt: skip

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it as runtimes do; its exit status."""
        os.kill(self.init, number)
        return self.process.wait(daemons.SECONDS)


def unpack(archive: pathlib.Path, name: str, folder: pathlib.Path) -> pathlib.Path:
    """Unpack an image, of this name and tag, as a runtime does; return its bundle for every user to enter."""
    (folder / "layout").mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", folder / "layout"], check=True)
    bundle = folder / "bundle"
    subprocess.run(["umoci", "unpack", "--image", f"{folder}/layout:{name}", str(bundle)], check=True)
    bundle.chmod(0o755)
    return bundle


def volume(folder: pathlib.Path, mode: int, runtime: str = "unshare") -> pathlib.Path:
    """A folder that belongs to the image's user, who is root outside with bubblewrap."""
    folder.mkdir(parents=True, exist_ok=True)
    if runtime == "unshare":
        os.chown(folder, USER, USER)
    folder.chmod(mode)
    return folder


def _without_ipv6() -> int:
    """A descriptor of a filter (seccomp(2)) by which socket(2) refuses AF_INET6 as kernels without it do."""
    number = {"x86_64": 41, "aarch64": 198}[platform.machine()]
    load, equal, end = 0x20, 0x15, 0x06  # BPF_LD+BPF_W+BPF_ABS, BPF_JMP+BPF_JEQ+BPF_K, BPF_RET+BPF_K
    allow, refuse = 0x7FFF0000, 0x00050000 | 97  # SECCOMP_RET_ALLOW; SECCOMP_RET_ERRNO with EAFNOSUPPORT
    program = [
        (load, 0, 0, 0), (equal, 0, 3, number),
        (load, 0, 0, 16), (equal, 0, 1, 10),  # its first argument; AF_INET6
        (end, 0, 0, refuse), (end, 0, 0, allow),
    ]  # fmt: skip
    fd = os.memfd_create("filter", 0)
    os.write(fd, b"".join(struct.pack("=HBBI", *step) for step in program))
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
