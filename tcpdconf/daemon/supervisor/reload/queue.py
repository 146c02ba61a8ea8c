"""The reloads of a daemon, one after the other: who wishes one, what runs, what the last one came to."""

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
from tcpdconf.daemon.supervisor.service import ManagedService, Surroundings

if TYPE_CHECKING:
    from tcpdconf.config.file_signature import Signature

_DEFECT: Final = "a defect of tcpdconf; see the log"

Then = Callable[["Last"], None]


class Last(NamedTuple):
    """What the latest reload has come to, and when (time.time); whether somebody had `asked` for it."""

    outcome: Outcome
    at: float
    asked: bool

    @property
    def ok(self) -> bool:
        """Whether the configuration was taken on."""
        return self.outcome.ok


def answer(outcome: Outcome, at: float) -> dict[str, object]:
    """Return an outcome as the control socket has it (docs/reference/control.md)."""
    return {
        "ok": outcome.ok,
        "at": at,
        "changed": outcome.changed,
        "details": outcome.details,
        "problems": problems.records(outcome.problems),
        "excerpts": problems.excerpts(outcome.problems),
    }


class ReloadQueue:
    """Takes on the configuration whenever somebody wishes; wishes that come meanwhile share the next reload.

    `began` is called before each, `ended` after it; `release` is a reload's.
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
        self.read_at = 0.0  # before the configuration that was tried last was read
        self.read: dict[str, Signature] = {}  # by it, of each file when it was opened
        self.last: Last | None = None
        self.refused: Config | None = None  # the configuration that was tried last, and not taken on
        self.around = around
        self._read = read
        self._activated = activated
        self._make = make
        self._release = release
        self._began = began
        self._ended = ended
        self._reload: Reload | None = None
        self._again = False  # what the next reload is to do
        self._asked = False  # what the present one does
        self._wished = False
        self._due = False  # whether it is about to begin, or its configuration is read
        self._closed = False
        self._next: list[Then] = []  # who waits for it
        self._present: list[Then] = []  # who waits for the one that is on its way

    @property
    def busy(self) -> bool:
        """Whether a reload is on its way."""
        return self._reload is not None

    def begin(self, loaded: Loaded, read_at: float) -> None:
        """Take on the first configuration."""
        self.read_at = read_at
        self._take_on(loaded)

    def wish(self, then: Then | None = None, *, again: bool) -> None:
        """Take on the configuration as it is from now on; `then` is called when that is done.

        `again` is somebody's wish, and not a file's: files that may read others are then read again as well
        (`ManagedService.prepare`).
        """
        self._wished = True
        self._again = self._again or again
        if then is not None:
            self._next.append(then)
        self._schedule()

    def tell(self, what: Callable[[Reload], None]) -> None:
        """Tell the reload that is on its way, if there is one, what has become of a service."""
        if (reload := self._reload) is not None:
            self._attempt(lambda: what(reload))

    def close(self) -> None:
        """Take on no more, and undo what is being prepared."""
        self._closed = True
        if (reload := self._reload) is not None:
            self._attempt(lambda: reload.give_up("the daemon stops"))

    def _schedule(self) -> None:
        """Let what was wished begin, after the first configuration and after what is on its way."""
        if self._wished and not self._due and self._reload is None and self.last is not None:
            self._due = True
            self.around.loop.after(0, self._start)

    def _start(self) -> None:
        if self._closed:
            return
        self._asked, self._again, self._wished = self._again, False, False
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
        except Exception as error:  # noqa: BLE001 (a defect, or no descriptor for a module: what runs goes on)
            self._refuse(error)
        else:
            # a large configuration takes time to read and to compare: in between others have their answers
            self.around.loop.after(0, lambda: self._go_on(loaded))

    def _go_on(self, loaded: Loaded) -> None:
        try:
            self._take_on(loaded)
        except Exception as error:  # noqa: BLE001 (a defect: what runs goes on)
            self._refuse(error)

    def _refuse(self, error: Exception) -> None:
        """End the reload that has met a defect before anything was prepared."""
        log.crash("cannot load the configuration")
        text = f"cannot be loaded: {error}"
        found = problems.Problem(self.state.loaded.directory, 0, 0, "", text, "cannot-use")
        self._finish(Outcome([], [], [found]))

    def _take_on(self, loaded: Loaded) -> None:
        if self._closed:
            return
        self._due = False
        self.refused, self.read = loaded.config, dict(loaded.signatures)
        log.excerpt("warning", problems.render(loaded.warnings))
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
        """Take a step of the reload; a defect in it is the end of that reload, and of nothing else."""
        try:
            step()
        except Exception:
            if self.last is None:  # nothing serves yet that could go on
                raise
            log.crash("cannot take on the configuration")
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
        self.last = last = Last(outcome, time.time(), self._asked)
        present, self._present = self._present, []
        self.around.loop.attempt(lambda: self._ended(last))
        for then in present:
            self.around.loop.attempt(functools.partial(then, last))
        self._schedule()
