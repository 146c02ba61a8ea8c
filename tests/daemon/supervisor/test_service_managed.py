"""A service with workers that a test forks, ends and speaks for."""

import itertools
import pathlib
import traceback
from collections.abc import Iterator, Sequence

import pytest
from support.running import daemons

from tcpdconf.config import changes
from tcpdconf.config.load import load
from tcpdconf.daemon.messages import worker as messages
from tcpdconf.daemon.messages.assignment import Failure
from tcpdconf.daemon.process import loop
from tcpdconf.daemon.supervisor import worker_process
from tcpdconf.daemon.supervisor.service.managed import ManagedService
from tcpdconf.daemon.supervisor.service.setups import Surroundings
from tcpdconf.daemon.supervisor.worker_process import Heard, Observer

FIRST = 1 << 23  # no process has such a pid
TEXT = """
[services.test]
program = ["/bin/true"]
umask = "{umask}"
workers = {workers}
listeners = [{{ address = "127.0.0.1", port = 4999 }}]
"""


class Process:
    """Stands for a `WorkerProcess`: keeps what it is told, and says what the test has it say."""

    pids: Iterator[int]

    def __init__(self, _events: loop.Loop, name: str, _identity: object, heard: Heard) -> None:
        self.pid = next(self.pids)
        self.name = name
        self.serves = self.killed = False
        self.told: list[messages.ToWorker] = []
        self.unread: list[messages.FromWorker] = []
        self._heard = heard

    def tell(self, message: messages.ToWorker, _fds: Sequence[int] = ()) -> None:
        """Keep a message."""
        self.told.append(message)

    def kill(self) -> None:
        """Note that it was killed."""
        self.killed = True

    def say(self, message: messages.FromWorker) -> None:
        """Have the service hear a message."""
        self._heard(self, message)  # type: ignore[arg-type]

    def ended(self) -> None:
        """Have the service hear what nobody has read yet."""
        for message in self.unread:
            self.say(message)


class Reload(Observer[ManagedService]):
    """Commits as soon as the service has prepared."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.path: list[tuple[str, str]] = []

    def prepared(self, each: ManagedService) -> None:
        """Commit."""
        self.path = [(pathlib.Path(one.filename).stem, one.name) for one in traceback.extract_stack()]
        self.said.append("prepared")
        each.commit()

    def failed(self, each: ManagedService, failures: Sequence[Failure]) -> None:
        """Keep the reasons."""
        self.said += [failure.text for failure in failures]
        each.discard()

    def serves(self, _: ManagedService, *, first: bool) -> None:
        """Keep whether it is the first time."""
        self.said.append("serves" if first else "serves again")

    def stopped(self, _: ManagedService) -> None:
        """Keep that its worker has ended."""
        self.said.append("stopped")


class Trial:
    """A service that has been prepared once, and its reload."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self._numbers = itertools.count(1)
        self.reload = Reload()
        self.service = ManagedService("test", Surroundings(loop.Loop(), {}), self.reload)
        self.prepare("022")

    def prepare(self, umask: str, workers: int = 1) -> Process:
        """Have workers prepare, and return the last one."""
        folder = self.folder / str(next(self._numbers))
        folder.mkdir()
        conf = daemons.configure(folder, TEXT.format(umask=umask, workers=workers))
        part = changes.part(load.load(conf).config, "test")
        self.service.prepare(part, [], [], again=True)
        return self.processes()[-1]

    def processes(self) -> list[Process]:
        """Return the workers."""
        return [each for each in self.service.workers if isinstance(each, Process)]


@pytest.fixture
def trial(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trial]:
    monkeypatch.setattr(Process, "pids", itertools.count(FIRST), raising=False)
    monkeypatch.setattr(worker_process, "WorkerProcess", Process)
    made = Trial(tmp_path)
    yield made
    made.service.close()


def test_from_an_answer_to_the_reload_no_other_module_is_passed(trial: Trial) -> None:
    trial.processes()[0].say(messages.Prepared(1))

    path = trial.reload.path
    assert path[path.index(("test_service_managed", "say")) + 1 :] == [
        ("place", "_hear"),
        ("place", "_take"),
        ("place", "_report"),
        ("managed", "prepared"),
        ("test_service_managed", "prepared"),
    ]


def test_a_successor_waits_until_its_predecessor_has_retired(trial: Trial) -> None:
    (first,) = trial.processes()
    first.say(messages.Prepared(1))
    assert first.told == [messages.Prepare(1), messages.Commit(())]
    first.say(messages.Committed(1))
    second = trial.prepare("027")
    second.say(messages.Prepared(1))
    assert (first.told[-1], second.told) == (messages.Retire(()), [messages.Prepare(1)])
    assert trial.service.places[0].process.pid == second.pid

    first.say(messages.Retired())
    assert (second.told[-1], first.told[-1]) == (messages.Commit((first.pid,)), messages.Retire(()))
    second.say(messages.Committed(1))
    assert trial.service.ended(first.pid, 0)
    assert not trial.service.ended(first.pid, 0)
    assert (trial.processes(), second.serves) == ([second], True)
    assert trial.reload.said == ["prepared", "serves", "prepared", "serves"]


def test_a_successor_that_ends_before_its_answer_is_read_is_restarted(trial: Trial) -> None:
    """Its last word makes the reload commit: by then it is the worker, and has ended."""
    (first,) = trial.processes()
    first.say(messages.Prepared(1))
    first.say(messages.Committed(1))
    second = trial.prepare("027")
    second.unread = [messages.Prepared(1)]
    assert trial.service.ended(second.pid, 9)
    assert trial.processes() == [first]
    assert not trial.service.accepts

    trial.service.places[0].process.start()
    third, elder = trial.processes()
    assert elder is first
    third.say(messages.Prepared(1))
    assert third.told == [messages.Prepare(1)]  # the first one still accepts
    assert trial.service.ended(first.pid, 0)
    assert third.told[-1] == messages.Commit(())
    assert trial.reload.said == ["prepared", "serves", "prepared", "stopped"]


def test_a_worker_that_ends_before_it_is_ready_fails_the_reload(trial: Trial) -> None:
    (first,) = trial.processes()
    assert trial.service.ended(first.pid, 1)
    assert trial.processes() == []
    assert trial.reload.said == ["the worker ended before it was ready; see the log"]


def last(process: Process) -> messages.ToWorker:
    return process.told[-1]


def served(trial: Trial, workers: int) -> list[Process]:
    """Let the first worker serve, and then so many."""
    (first,) = trial.processes()
    first.say(messages.Prepared(1))
    first.say(messages.Committed(1))
    trial.reload.said.clear()
    trial.prepare("022", workers)
    found = trial.processes()
    first.say(messages.Prepared(2))
    for each in found[1:]:
        each.say(messages.Prepared(1))
    return found


def test_more_workers_begin_once_the_first_one_counts_with_them(trial: Trial) -> None:
    first, *others = served(trial, 3)
    assert trial.reload.said == ["prepared"]
    assert last(first) == messages.Commit(())
    assert [last(each) for each in others] == [messages.Prepare(1)] * 2

    first.say(messages.Committed(2))
    assert [last(each) for each in others] == [messages.Commit(())] * 2
    others[1].say(messages.Committed(1))
    assert trial.reload.said == ["prepared"]
    others[0].say(messages.Committed(1))
    assert trial.reload.said == ["prepared", "serves"]
    assert trial.service.accepting == [each.pid for each in (first, *others)]


def test_a_worker_that_cannot_prepare_fails_the_reload_once_and_new_ones_are_dropped(trial: Trial) -> None:
    first, *others = served(trial, 2)
    first.say(messages.Committed(2))
    others[0].say(messages.Committed(1))
    trial.reload.said.clear()
    trial.prepare("022", 4)
    *present, third, fourth = trial.processes()
    for each in (third, fourth):
        each.say(messages.Failed(1, (Failure((), "no file"),)))
    assert trial.reload.said == ["no file"]
    assert [last(each) for each in present] == [messages.Discard()] * 2
    trial.prepare("022", 1)  # while the killed ones have not been waited for
    first.say(messages.Prepared(first.told.count(messages.Discard()) + 3))
    assert (last(first), last(others[0])) == (messages.Commit(()), messages.Leave())
    for each in (third, fourth):
        assert each.killed
        assert trial.service.ended(each.pid, 9)
    assert trial.processes() == present
    assert len(trial.service.places) == 2


def test_the_first_worker_may_end_before_the_others_begin(trial: Trial) -> None:
    first, second = served(trial, 2)
    assert trial.service.ended(first.pid, 9)
    assert last(second) == messages.Commit(())
    second.say(messages.Committed(1))
    assert trial.reload.said == ["prepared"]
    trial.service.places[0].process.start()
    again = trial.processes()[0]
    again.say(messages.Prepared(1))
    again.say(messages.Committed(1))
    assert trial.reload.said == ["prepared", "serves"]


def test_a_new_worker_that_ends_before_it_begins_is_started_again(trial: Trial) -> None:
    first, second = served(trial, 2)
    assert trial.service.ended(second.pid, 9)
    first.say(messages.Committed(2))
    again = trial.processes()[1]
    assert again is not second
    again.say(messages.Prepared(1))
    assert last(again) == messages.Commit(())
    again.say(messages.Committed(1))
    assert trial.reload.said == ["prepared", "serves"]


def test_a_surplus_worker_leaves_and_is_started_again_if_it_was_killed(trial: Trial) -> None:
    first, second = served(trial, 2)
    first.say(messages.Committed(2))
    second.say(messages.Committed(1))
    trial.prepare("022", 1)
    first.say(messages.Prepared(3))
    first.say(messages.Committed(3))
    assert last(second) == messages.Leave()
    assert trial.reload.said[-1] == "serves again"
    assert trial.service.accepting == [first.pid]

    assert trial.service.ended(second.pid, 9)
    trial.service.places[1].process.start()
    again = trial.processes()[1]
    again.say(messages.Prepared(1))
    again.say(messages.Committed(1))
    assert last(again) == messages.Leave()
    assert trial.service.ended(again.pid, 0)  # its last program has ended
    assert trial.processes() == [first]
    assert len(trial.service.places) == 1


def test_a_service_accepts_no_more_once_none_of_its_workers_does(trial: Trial) -> None:
    first, second = served(trial, 2)
    first.say(messages.Committed(2))
    second.say(messages.Committed(1))
    trial.reload.said.clear()
    trial.service.stop(0, 5)
    assert [last(each) for each in (first, second)] == [messages.Stop(0, 5)] * 2
    second.say(messages.Stopped())
    assert trial.reload.said == []
    first.say(messages.Stopped())
    assert trial.reload.said == ["stopped"]
