"""Collects the descriptors that go to a worker with its assignment, each with its role."""

import errno
import os
from typing import Final

from tcpdconf.config import file_signature, host
from tcpdconf.config.file_signature import Signature
from tcpdconf.config.model import tables
from tcpdconf.config.model.service import Service, ServiceSettings
from tcpdconf.daemon.messages.assignment import Failure, Kind, Role
from tcpdconf.daemon.process import descriptors, paths
from tcpdconf.policy.dns import chain as dns_chain
from tcpdconf.policy.dns.chain import Chains

_READ: Final = ("access", "environment", "zone")


class WorkerDescriptors:
    """Collects descriptors that are lent, which `close` leaves open, or given, which it closes.

    Call `close` once the worker has its own copies.
    """

    def __init__(self) -> None:
        self.roles: list[Role] = []
        self.fds: list[int] = []
        self.failures: list[Failure] = []
        self.irregular: list[Failure] = []  # of paths that are not regular files
        self.untrusted: list[Failure] = []  # of paths that other users may have changed
        self._given: list[int] = []

    def lend(self, kind: Kind, fd: int, place: int = 0) -> None:
        """Add a descriptor that the supervisor keeps."""
        self.roles.append(Role(kind, place))
        self.fds.append(fd)

    def open(self, service: ServiceSettings, who: host.Identity, chains: Chains) -> None:
        """Open and add the files that the service reads; `failures` lists those that cannot be opened."""
        for index, source in enumerate(service.access):
            try:
                for path, fd in descriptors.access(source, who):
                    self._give("access", index, path, fd)
            except OSError as error:
                self._fail(("access", index, "file"), error)
        for index, file in enumerate(service.environment_files):
            try:
                self._give("environment", index, file.path, descriptors.regular(file.path, who))
            except OSError as error:
                self._fail(("environment_files", index), error)
        for path in dns_chain.zone_files(service, chains):
            try:
                self._give("zone", 0, path, descriptors.regular(path, who))
            except OSError as error:
                self._fail(("dns_lists",), error)

    def judge_log(self, service: ServiceSettings, who: host.Identity) -> None:
        """Add a failure if `open_log` could not open the log file, without opening it."""
        if isinstance(service.stderr, tables.StderrFile):
            try:
                descriptors.judge_log(service.stderr.file, who)
            except OSError as error:
                self._fail(("stderr", "file"), error)

    def open_log(self, service: Service, who: host.Identity) -> None:
        """Open and add the file to which the service's programs write, if there is one."""
        if isinstance(service.stderr, tables.StderrFile):
            path = service.stderr.file
            try:
                self._give("stderr", 0, path, descriptors.log(path, who))
            except OSError as error:
                self._fail(("stderr", "file"), error)

    def read(self) -> dict[str, Signature]:
        """Return the files that the worker reads, each with its signature when opened."""
        return descriptors.readings((role.path, role.signature) for role in self.roles if role.kind in _READ)

    def close(self) -> None:
        """Close the descriptors that were given."""
        while self._given:
            os.close(self._given.pop())

    def _give(self, kind: Kind, place: int, path: str, fd: int) -> None:
        found = file_signature.signature(os.fstat(fd))
        # a log file grows: only device and inode tell whether it is another file
        self.roles.append(Role(kind, place, path, found[:2] if kind == "stderr" else found))
        self.fds.append(fd)
        self._given.append(fd)

    def _fail(self, key: tuple[str | int, ...], error: OSError) -> None:
        text = f"cannot open {error.filename}: {error.strerror}"
        self.failures.append(Failure(key, text))
        if error.errno == errno.EINVAL:
            self.irregular.append(self.failures[-1])
        elif isinstance(error, paths.UntrustedError):
            self.untrusted.append(self.failures[-1])
