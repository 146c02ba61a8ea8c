"""Runs the drop-in `couriertcpd`: one service from couriertcpd's own command line.

-stop and -restart import nothing slow, and neither does the process that waits for a daemon to start. The
exit status is couriertcpd's: 0, or 1 for any failure.
"""

import gc
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

from tcpdconf.config.couriertcpd import grammar
from tcpdconf.daemon.process import daemonize, pidfile, signals

NAME: Final = "couriertcpd"


def main() -> int:
    """Run the command line of this process and return the exit status."""
    # UTF-8 whatever the locale
    words = [os.fsencode(word).decode("utf-8", "surrogateescape") for word in sys.argv[1:]]
    try:
        given = grammar.read(words)
        if given.action == "run":
            path = given.values.get("pid")
            if path is None:
                return _serve(words, None, lambda _status: None)
            return daemonize.start(lambda report: _serve(words, pidfile.PidFile(path), report))
        return _signal(given.action, given.values["pid"])
    except (grammar.CommandLineError, OSError) as error:
        return _complain(2, str(error))


def _signal(action: grammar.Action, path: str) -> int:
    """Handle -stop or -restart; return 1 if a daemon may run that was not signalled or has not exited.

    If the pid file's directory is missing there is nothing to signal, and the status is 0, as elsewhere.
    """
    try:
        if action == "stop":
            pidfile.PidFile(path).stop()
        else:
            pidfile.PidFile(path).send(signal.SIGHUP)
    except OSError as error:
        status = _complain(2, f"cannot signal by {error.filename or path}: {error.strerror}")
        return 0 if isinstance(error, FileNotFoundError | NotADirectoryError) else status
    return 0


def _serve(words: list[str], pid_file: pidfile.PidFile | None, report: daemonize.Report) -> int:
    """Serve until a signal stops the daemon; errors go to the terminal until the start has succeeded."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    arrived = signals.Signals(signals.SUPERVISOR)  # before anything slow is imported
    terminal = os.dup(2)
    try:
        if pid_file is not None and not pid_file.take():
            return 0  # a daemon is running already, as wanted
    except OSError as error:
        return _complain(terminal, f"cannot open {error.filename}: {error.strerror}")
    # from here on -stop and -restart find this process; their signals are read once everything serves
    try:
        _check_ports(words)
    except grammar.CommandLineError as error:
        return _refused(terminal, pid_file, error)

    gc.disable()  # imports make many objects and no garbage: this saves a fifth of the time
    from tcpdconf.daemon import run as daemon_run  # noqa: PLC0415 (slow)

    def started() -> None:
        if pid_file is not None:
            os.dup2(2, terminal, inheritable=False)  # from now on errors go to the log
        report(0)

    try:
        daemon_run.run_drop_in(words, arrived, started, in_background=pid_file is not None)
    except daemon_run.DropInError as error:
        return _refused(terminal, pid_file, error)
    return 0


def _check_ports(words: Sequence[str]) -> None:
    """Refuse a wrong list of ports, the commonest mistake, before anything slow is imported.

    Raises:
        CommandLineError: the list of ports is wrong.
    """
    from tcpdconf.config.couriertcpd import ports as port_list  # noqa: PLC0415 (-stop and -restart do not need it)

    for _ in port_list.items(grammar.read(words).ports):
        pass


def _refused(terminal: int, pid_file: pidfile.PidFile | None, error: Exception) -> int:
    if pid_file is not None:
        pid_file.remove()
    return _complain(terminal, str(error))


def _complain(fd: int, text: str) -> int:
    for line in text.splitlines():
        os.write(fd, line.encode("utf-8", "surrogateescape") + b"\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
