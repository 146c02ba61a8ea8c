"""A host of its own for Courier: its authdaemond, one user with one message, and its log.

Courier's files, /run and /dev are private copies in a mount namespace, so that nothing of the real host's
Courier is touched. Whatever is started there is in a PID namespace too, and ends with it: also gam_server,
which imapd leaves behind for half a minute.
"""

import pathlib
import re
import socket
import subprocess
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

from support import peers
from support.running import daemons

USER: Final = "alice"
PASSWORD: Final = "secret"  # noqa: S105 (known to this host only)
UID: Final = 54321  # of nobody on the real host
HOME: Final = f"/run/{USER}"
ACCESS: Final = "127.0.0.9\tdeny\n127.0.0.8\tallow,IMAP_CAPABILITY=IMAP4rev1\n"

_NAMESPACES: Final = ["unshare", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child"]

# Its last command waits for the end of the host.
_MAKE: Final = f"""
cd "$0"
umask 022
mkdir -p dev etc run/courier var/lib
install -d -o courier -g courier -m 750 run/courier/authdaemon var/lib/courier
cp --archive /etc/courier /etc/passwd etc
echo "{USER}:x:{UID}:{UID}::{HOME}:/bin/false" >>etc/passwd
echo 'authmodulelist="authuserdb"' >>etc/courier/authdaemonrc
for node in full null random urandom zero; do
  : >dev/$node
  mount --bind /dev/$node dev/$node
done
mount --rbind dev /dev
for path in run etc/passwd etc/courier var/lib/courier; do mount --bind $path /$path; done
echo made
exec cat
"""

_POPULATE: Final = rf"""
umask 077
mkdir {HOME}
maildirmake {HOME}/Maildir
printf 'Subject: first\n\nHello.\n' >{HOME}/Maildir/cur/1.first:2,S
chown -R {UID}:{UID} {HOME}
: >/etc/courier/userdb
userdb {USER} set uid={UID} gid={UID} home={HOME} systempw="$(echo {PASSWORD} | userdbpw -md5)"
makeuserdb
authdaemond start
"""


def need(*commands: str) -> None:
    """Go on only where such a host, and these commands of Courier's, can be had."""
    peers.need_root()
    peers.need("unshare", "nsenter", "setpriv")
    peers.need("authdaemond", "userdb", "userdbpw", "makeuserdb", "maildirmake", *commands)


class Host:
    """One such host, from entering to leaving. `syslog` is what its programs have logged so far."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._commands = folder / "commands.log"
        self.syslog: list[str] = []
        self._copied = 0

    def __enter__(self) -> Self:
        self._log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._holder = subprocess.Popen(
            [*_NAMESPACES, "sh", "-ec", _MAKE, self._folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert self._holder.stdout is not None
            assert self._holder.stdout.readline() == b"made\n"
            self._log.bind(str(self.path("/dev/log")))
            self.path("/dev/log").chmod(0o666)
            self._reader.start()
            self.run("sh", "-ec", _POPULATE)
            daemons.until(self._answers, "authdaemond")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._holder.communicate(timeout=daemons.SECONDS)
        self._log.shutdown(socket.SHUT_RD)
        if self._reader.ident is not None:
            self._reader.join(daemons.SECONDS)
        self._log.close()

    @property
    def inside(self) -> list[str]:
        """Return the words before a command that run it on this host; SIGTERM reaches it."""
        namespaces = f"/proc/{self._holder.pid}/ns"
        return [
            *("nsenter", f"--mount={namespaces}/mnt", f"--pid={namespaces}/pid_for_children"),
            *("setpriv", "--pdeathsig", "TERM"),  # nsenter itself does not pass a signal on
        ]

    def path(self, path: str) -> pathlib.Path:
        """Return the path on the real host of a file of this one."""
        return self._folder / path.lstrip("/")

    def listen(self, scripts: Mapping[str, str]) -> dict[str, int]:
        """Let start scripts listen on free ports, without DNS; return the ports by the names of `scripts`."""
        ports = {name: daemons.free_port() for name in scripts}
        for name, script in scripts.items():
            with self.path(f"/etc/courier/{script}").open("a") as file:
                file.write(f"ADDRESS=127.0.0.1\nPORT={ports[name]}\n")
        with self.path("/etc/courier/esmtpd").open("a") as file:
            file.write('TCPDOPTS="$TCPDOPTS -nodnslookup"\n')
        return ports

    def run(self, *command: str) -> None:
        """Run a command to its end, or until it has gone into the background."""
        with self._commands.open("ab") as log:
            done = subprocess.run(
                [*self.inside, *command],
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                umask=0o022,  # that of a start with the host
                check=False,
            )
        assert done.returncode == 0, self._commands.read_text()

    def copy_syslog(self, path: pathlib.Path) -> None:
        """Append to a file what was logged since the last call, as a syslog daemon writes it."""
        new = self.syslog[self._copied :]
        self._copied += len(new)
        with path.open("a") as file:
            for line in new:
                stamp, message = re.match(r"<\d+>(.{15}) (.*)", line, re.DOTALL).groups()  # type: ignore[union-attr]
                file.write(f"{stamp} mail {message}\n")

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(self.path("/run/courier/authdaemon/socket")))
        except OSError:
            return False
        return True

    def _read(self) -> None:
        while message := self._log.recv(65536):
            self.syslog.append(message.decode(errors="backslashreplace"))
