"""Queues reload requests, runs one reload at a time, keeps the last result."""

import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from tcpdconf.config import problems
from tcpdconf.config.load import load
from tcpdconf.config.load.loaded import Loaded
from tcpdconf.config.model.service import Config
from tcpdconf.daemon.process import log
from tcpdconf.daemon.supervisor import listeners
from tcpdconf.daemon.supervisor.reload.transaction import Outcome, Release, Reload, State
from tcpdconf.daemon.supervisor.service.managed import ManagedService
from tcpdconf.daemon.supervisor.service.setups import Surroundings

if TYPE_CHECKING:
    from tcpdconf.config.file_signature import Signature

_DEFECT: Final = "a defect of tcpdconf: see the log"

Then = Callable[["Last"], None]


class Last(NamedTuple):
    """Holds the outcome of the latest reload and its time (time.time).

    `asked` is True if a command or SIGHUP requested it.
    """

    outcome: Outcome
    at: float
    asked: bool

    @property
    def ok(self) -> bool:
        """True if the configuration was applied."""
        return self.outcome.ok


def answer(outcome: Outcome, at: float) -> dict[str, object]:
    """Return an outcome as an answer of the control socket (docs/reference/control.md)."""
    return {
        "ok": outcome.ok,
        "at": at,
        "changed": outcome.changed,
        "details": outcome.details,
        "problems": problems.records(outcome.problems),
        "excerpts": problems.excerpts(outcome.problems),
    }


class ReloadQueue:
    """Reloads the configuration on request; requests during a reload share the next one.

    `began` is called before each reload, and `ended` after it. `release` is passed to each `Reload`.
    """

    def __init__(
        self,
        around: Surroundings,
        read: Callable[[], Loaded],
        activated: listeners.Activated,
        make: Callable[[str], ManagedService],
        *,
        release: Release,
        began: Callable[[], None],
        ended: Callable[[Last], None],
    ) -> None:
        self.state = State(Loaded("", Config(), ()), {}, activated.open())
        self.loaded_at = 0.0
        self.read_at = 0.0  # a time before the latest configuration was read
        self.read: dict[str, Signature] = {}  # signatures of its files when they were opened
        self.last: Last | None = None
        self.results = {"succeeded": 0, "rejected": 0}  # numbers of reloads, including the start
        self.refused: Config | None = None  # the latest configuration, unless it was applied
        self.around = around
        self._read = read
        self._activated = activated
        self._make = make
        self._release = release
        self._began = began
        self._ended = ended
        self._reload: Reload | None = None
        self._again = False  # the next reload reads shell files again
        self._asked = False  # True if the current reload was requested, so that it reads shell files again
        self._requested = False
        self._due = False  # a reload is scheduled, or its configuration is being read
        self._closed = False
        self._next: list[Then] = []  # callers that wait for the next reload
        self._present: list[Then] = []  # callers that wait for the current reload

    @property
    def busy(self) -> bool:
        """True while a reload runs."""
        return self._reload is not None

    def begin(self, loaded: Loaded, read_at: float) -> None:
        """Apply the first configuration."""
        self.read_at = read_at
        self._take_on(loaded)

    def request(self, then: Then | None = None, *, again: bool) -> None:
        """Request a reload; call `then` with its result.

        The reload reads the configuration after this call. `again` is True for a request by command or
        signal, and False for a changed file. With True the reload reads shell files again
        (`ManagedService.prepare`).
        """
        self._requested = True
        self._again = self._again or again
        if then is not None:
            self._next.append(then)
        self._schedule()

    def tell(self, what: Callable[[Reload], None]) -> None:
        """Call `what` with the current reload, if there is one, to pass on an event of a service."""
        if (reload := self._reload) is not None:
            self._attempt(lambda: what(reload))

    def close(self) -> None:
        """Start no more reloads, and undo the current reload unless it is committed."""
        self._closed = True
        if (reload := self._reload) is not None:
            self._attempt(lambda: reload.give_up("the daemon is stopping"))

    def _schedule(self) -> None:
        """Start the requested reload, unless the first configuration or another reload is being applied."""
        if self._requested and not self._due and self._reload is None and self.last is not None:
            self._due = True
            self.around.loop.after(0, self._start)

    def _start(self) -> None:
        if self._closed:
            return
        self._asked, self._again, self._requested = self._again, False, False
        self._present, self._next = self._next, []
        self.around.loop.attempt(self._began)
        self.read_at, self.read = time.time(), {}
        try:
            loaded = self._read()
        except problems.ConfigError as error:
            self.refused = None
            if isinstance(error, load.LoadError):
                self.refused, self.read = error.config, dict(error.signatures)
            self._finish(Outcome([], [], list(error.problems)))
        except Exception as error:  # noqa: BLE001 (a defect, or no descriptor for a module: services go on)
            self._refuse(error)
        else:
            # reading and comparing a large configuration takes time: let other callbacks run in between
            self.around.loop.after(0, lambda: self._go_on(loaded))

    def _go_on(self, loaded: Loaded) -> None:
        try:
            self._take_on(loaded)
        except Exception as error:  # noqa: BLE001 (a defect: services go on)
            self._refuse(error)

    def _refuse(self, error: Exception) -> None:
        """End a reload that has met a defect before it prepared anything."""
        log.crash("cannot load the configuration")
        text = f"cannot be loaded: {error}"
        found = problems.Problem(self.state.loaded.directory, 0, 0, "", text, "cannot-use")
        self._finish(Outcome([], [], [found]))

    def _take_on(self, loaded: Loaded) -> None:
        if self._closed:
            return
        self._due = False
        self.refused, self.read = loaded.config, dict(loaded.signatures)
        log.problems(loaded.warnings)
        self._reload = reload = Reload(
            self.state,
            loaded,
            around=self.around,
            activated=self._activated,
            again=self._asked,
            make=self._make,
            release=self._release,
            counts=self._count,
            done=self._finish,
            attempt=self._attempt,
        )
        self._attempt(reload.begin)

    def _attempt(self, step: Callable[[], None]) -> None:
        """Run a step of the reload; a defect in it ends only that reload."""
        try:
            step()
        except Exception:
            if self.last is None:  # no service runs yet, so the daemon may fail
                raise
            log.crash("cannot apply the configuration")
            if self._reload is not None:
                self._reload.abandon(_DEFECT)

    def _count(self, state: State) -> None:
        self.state = state

    def _finish(self, outcome: Outcome) -> None:
        self._reload, self._due = None, False
        self.read |= outcome.read
        if outcome.ok:
            self.loaded_at, self.refused = time.time(), None
            outcome = outcome._replace(problems=[*outcome.problems, *self.state.loaded.warnings])
        self.results["succeeded" if outcome.ok else "rejected"] += 1
        self.last = last = Last(outcome, time.time(), self._asked)
        present, self._present = self._present, []
        self.around.loop.attempt(lambda: self._ended(last))
        for then in present:
            self.around.loop.attempt(functools.partial(then, last))
        self._schedule()
