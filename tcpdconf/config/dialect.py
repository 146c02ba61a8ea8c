"""Where the drop-in couriertcpd has to differ from a service written in TOML.

One value travels with the service to whoever needs it. What the configuration can express is expressed there
instead (messages with their line ends, limits, any answer of a DNS list, no tests of lists).
"""

from typing import Final, NamedTuple


class Dialect(NamedTuple):
    """The differences; without arguments there is none, which is what TOML means."""

    # the daemon's environment reaches programs as it is, with variables of an older connection
    whole_environment: bool = False
    sets_proto: bool = True
    # in the daemon's folder programs start whether or not their user may enter it
    enters_directory: bool = True
    # signals that the daemon was started with ignored or blocked stay so in programs
    keeps_signals: bool = False
    # PROXY lines are read as couriertcpd reads them (see `v1.lenient_read`)
    lenient_proxy: bool = False
    # -access names a database of Courier's, GDBM or Berkeley DB as couriertcpd was built, and never text
    reads_databases_only: bool = False
    # whether deny_message is also sent where a rule for the local end refuses
    tells_local_denial: bool = True
    # with stderr = "socket" the client reads why its program cannot be run
    tells_exec_error: bool = False
    # what a logger writes itself is thrown away, and SIGHUP does not end it
    detaches_logger: bool = False
    # the daemon's own log goes to the service's logger as well
    shares_logger: bool = False


TOML: Final = Dialect()
COURIERTCPD: Final = Dialect(
    whole_environment=True,
    sets_proto=False,
    enters_directory=False,
    keeps_signals=True,
    lenient_proxy=True,
    reads_databases_only=True,
    tells_local_denial=False,
    tells_exec_error=True,
    detaches_logger=True,
    shares_logger=True,
)
