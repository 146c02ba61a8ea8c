"""What the supervisor holds for one service: its sockets, its worker, its logger, its ledger."""

import contextlib
import fcntl
import os
import signal
import socket
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

from tcpdconf.config import host, model, tables
from tcpdconf.daemon import assignment, channel, child, handover, ledger, log, loop, privileges, worker
from tcpdconf.policy import environ

_PIPE: Final = 1 << 20  # bytes that may wait for a logger, where the host allows so many (pipe(7))
_AT_ONCE: Final = 16  # messages of a worker that are read before others get their turn


class Surroundings(NamedTuple):
    """What all services share; `environment` is the one that the daemon was started with."""

    loop: loop.Loop
    config: model.Config
    environment: dict[str, str]


class Pipe(NamedTuple):
    """A logger's pipe: its ends, and the reading one once more for the worker, not blocking."""

    read: int
    write: int
    peek: int


class Service:
    """One service from the supervisor's side. Sockets, ledger and the logger's pipe outlive every worker.

    `heard` is called with what a worker says. With the task `try` a worker only says whether it could serve.
    """

    def __init__(
        self,
        name: str,
        sockets: list[tuple[int, socket.socket]],
        around: Surroundings,
        *,
        heard: Callable[["Service", dict[str, Any]], None],
        task: Literal["assign", "try"] = "assign",
    ) -> None:
        self.name = name
        self._task = task
        self.answered = 0  # number of the last ping that the worker has answered
        self._settings = around.config.services[name]
        self._sockets = sockets
        self._around = around
        self._heard = heard
        self._identity = host.identity(self._settings)
        self._ledger = ledger.create()
        self._post: channel.Channel | None = None
        self.worker = child.Child(around.loop, f"worker of {name}", self._start_worker)
        self.logger: child.Child | None = None
        self._pipe: Pipe | None = None
        if isinstance(self._settings.stderr, tables.StderrLogger):
            self._pipe = _pipe()
            self.logger = child.Child(around.loop, f"logger of {name}", self._start_logger)

    def start(self) -> None:
        """Start the logger and the worker."""
        if self.logger is not None:
            self.logger.start()
        self.worker.start()

    def tell(self, kind: str, **content: object) -> None:
        """Send the worker a message; without a worker nobody needs it."""
        if self._post is not None:
            self._send(kind, (), **content)

    def stop(self, seconds: float) -> None:
        """Accept no more, and let the worker end its programs within this time."""
        self.worker.finish()
        for _, each in self._sockets:
            each.close()
        self._sockets = []
        self.tell("stop", seconds=seconds)

    def kill(self) -> None:
        """End the worker at once; its programs live on."""
        if self.worker.pid is not None:
            os.kill(self.worker.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let go of the rest. The logger ends when the last program has."""
        if self.logger is not None:
            self.logger.finish()
        channel.close_all(self._pipe or ())
        self._pipe = None

    def _start_worker(self) -> int:
        given = handover.Handover()
        try:
            given.lend("ledger", self._ledger)
            for place, each in self._sockets:
                given.lend("listener", each.fileno(), place)
            if self._pipe is not None:
                given.lend("stderr", self._pipe.write)
                given.lend("overflow", self._pipe.peek)
            given.open(self._settings, self._around.config.dns_chains)
            if self._task == "assign":
                given.open_log(self._settings)
            if given.failures:
                self._heard(self, {"kind": "failed", "failures": given.failures})
                raise child.CannotStartError("what it needs cannot be opened")
            return self._fork_worker(given)
        finally:
            given.close()

    def _fork_worker(self, given: handover.Handover) -> int:
        ours, theirs = channel.Channel.pair()
        try:
            pid = child.fork(lambda: self._work(theirs), {theirs.fileno()})
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._drop_post()
        self._post = ours
        self._around.loop.watch(ours, self._listen)
        config = self._around.config.model_copy(update={"services": {self.name: self._settings}})
        task = assignment.Assignment(self.name, config, self._around.environment, tuple(given.roles))
        memory = assignment.write(task)
        self._send(self._task, [memory, *given.fds])
        os.close(memory)
        return pid

    def _work(self, post: channel.Channel) -> int:
        os.setpgid(0, 0)  # the programs stay in this group, so that all of them can be signalled
        privileges.become(self._identity)
        return worker.main(post)

    def _start_logger(self) -> int:
        assert self._pipe is not None  # noqa: S101 (made with the logger)
        return child.fork(self._log, {self._pipe.read})

    def _log(self) -> int:
        stderr = self._settings.stderr
        assert isinstance(stderr, tables.StderrLogger)  # noqa: S101 (only then there is a logger)
        assert self._pipe is not None  # noqa: S101
        os.setsid()  # what is sent to programs or typed at a terminal is not meant for the logger
        os.dup2(self._pipe.read, 0)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        privileges.become(self._identity)
        os.chdir("/")
        environment = environ.block(environ.base(self._settings, self._around.environment, {}))
        name = stderr.name or os.path.basename(self._settings.program[0])
        try:
            os.execve(stderr.logger[0], [*stderr.logger, name], environment)  # noqa: S606 (as configured)
        except OSError as error:
            log.error(
                f"cannot run {stderr.logger[0]}: {error.strerror}", service=self.name, errno=error.errno
            )
        return 127

    def _send(self, kind: str, fds: list[int] | tuple[()], **content: object) -> None:
        assert self._post is not None  # noqa: S101
        try:
            self._post.send(kind, fds, **content)
        except channel.ChannelError as error:
            self._give_up(error)

    def _listen(self) -> None:
        try:
            for _ in range(_AT_ONCE):
                received = self._post.receive() if self._post is not None else None
                if received is None:
                    return
                message, fds = received
                channel.close_all(fds)
                if message["kind"] == "pong" and isinstance(message.get("number"), int):
                    self.answered = message["number"]
                else:
                    self._heard(self, message)
        except channel.ChannelError as error:
            self._give_up(error)

    def _give_up(self, error: channel.ChannelError) -> None:
        """The worker has ended, or it is not to be trusted; either way it must not go on."""
        log.debug(f"channel to {self.worker.name}: {error}")
        self._drop_post()
        with contextlib.suppress(ProcessLookupError):
            self.kill()

    def _drop_post(self) -> None:
        if self._post is not None:
            self._around.loop.forget(self._post)
            self._post.close()
            self._post = None


def _pipe() -> Pipe:
    read, write = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(OSError):
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, _PIPE)
    # O_NONBLOCK belongs to an open file, not to a descriptor: the logger's own end must go on blocking.
    return Pipe(read, write, os.open(f"/proc/self/fd/{read}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
