"""Defines how the drop-in couriertcpd differs from a service written in TOML.

One value travels with the service. Differences that the configuration can express are expressed there instead
(messages with their line ends, limits, any answer of a DNS list, no tests of lists).
"""

from typing import Final, NamedTuple


class Dialect(NamedTuple):
    """Holds the differences; the default values are those of TOML."""

    # programs get the daemon's whole environment, including variables of an earlier connection
    whole_environment: bool = False
    sets_proto: bool = True
    # the worker enters the service's directory, so the service's user must be allowed to
    enters_directory: bool = True
    # signals that were ignored or blocked when the daemon started stay so in programs
    keeps_signals: bool = False
    # PROXY lines are read as couriertcpd reads them (see `v1.lenient_read`)
    lenient_proxy: bool = False
    # -access names one of Courier's databases, GDBM or Berkeley DB, and never text
    reads_databases_only: bool = False
    # deny_message is also sent when a rule for the local end refuses
    tells_local_denial: bool = True
    # with stderr = "socket" the client is told why its program cannot be run
    tells_exec_error: bool = False
    # a logger's own output is discarded, and SIGHUP does not end it
    detaches_logger: bool = False
    # the daemon's own log goes to the service's logger as well
    shares_logger: bool = False
    # its lines begin with no time, and have no fields in the journal
    plain_log: bool = False


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
    plain_log=True,
)
