"""When the watcher tells of a change: events and looks over time, without a file."""

import pytest

from tcpdconf.daemon.watch import debounce

OLD = {"/a": "1", "/b": "1"}
NEW = {"/a": "2", "/b": "1"}
NEWER = {"/a": "3", "/b": "1"}


def play(*scenes: tuple[float, dict[str, str], bool], stirs: list[float]) -> list[tuple[float, list[str]]]:
    """Stir at these times. A look shows the newest of the scenes: from when on, contents, at rest."""
    machine = debounce.Debounce(0.3)
    machine.cover(OLD)
    told = []
    now, ahead = 0.0, sorted(stirs)
    for _ in range(1000):
        if machine.due is None and not ahead:
            break
        if ahead and (machine.due is None or ahead[0] <= machine.due):
            now = ahead.pop(0)
            machine.stirred(now)
            continue
        assert machine.due is not None
        now = max(now, machine.due)
        scene = [each for each in ((0.0, OLD, True), *scenes) if each[0] <= now][-1]
        changed = machine.seen(now, scene[1], at_rest=scene[2])
        if changed:
            told.append((round(now, 2), changed))
    else:
        pytest.fail("it never ends")
    return told


@pytest.mark.parametrize(
    ("stirs", "scenes", "told"),
    [
        # one write: told when quiet for 0.3 s and read twice, 0.1 s apart
        ([1.0], [(1.0, NEW, True)], [(1.4, ["/a"])]),
        # nothing has changed
        ([1.0], [], []),
        # each event puts it off
        ([1.0, 1.2, 1.4], [(1.0, NEW, True)], [(1.8, ["/a"])]),
        # changed back before anybody looked
        ([1.0, 1.2], [(1.0, NEW, True), (1.2, OLD, True)], []),
        # changed back between the two looks
        ([1.0], [(1.0, NEW, True), (1.35, OLD, True)], []),
        # another content in the second look: a third
        ([1.0], [(1.0, NEW, True), (1.35, NEWER, True)], [(1.5, ["/a"])]),
        # an event between the looks
        ([1.0, 1.35], [(1.0, NEW, True)], [(1.75, ["/a"])]),
        # somebody goes on writing; when he is done both looks are made
        ([1.0], [(1.0, NEW, False), (2.0, NEWER, True)], [(2.1, ["/a"])]),
        # somebody never stops writing
        ([1.0], [(1.0, NEW, False)], [(6.4, ["/a"])]),
        # events never stop: told in the middle, and what was left when they end
        (
            [1 + 0.2 * i for i in range(35)],
            [(1.0, NEW, True), (6.7, NEWER, True)],
            [(6.5, ["/a"]), (8.2, ["/a"])],
        ),
        # two changes, each told once
        ([1.0, 2.0], [(1.0, NEW, True), (2.0, NEWER, True)], [(1.4, ["/a"]), (2.4, ["/a"])]),
        # a file goes, another comes
        ([1.0], [(1.0, {"/a": "1", "/c": "1"}, True)], [(1.4, ["/b", "/c"])]),
    ],
)  # fmt: skip
def test_when_it_is_told(
    stirs: list[float],
    scenes: list[tuple[float, dict[str, str], bool]],
    told: list[tuple[float, list[str]]],
) -> None:
    assert play(*scenes, stirs=stirs) == told


def test_a_file_that_was_changed_while_it_was_read_is_told_again() -> None:
    """Also when it is again what was known before: something else may have been read."""
    machine = debounce.Debounce(0.3)
    machine.cover(OLD)
    machine.cover({"/b": "1"})
    machine.stirred(0)
    machine.seen(0.3, OLD, at_rest=True)

    assert machine.seen(0.4, OLD, at_rest=True) == ["/a"]


def test_what_is_forgotten_is_told_once() -> None:
    machine = debounce.Debounce(0.3)
    machine.cover(OLD)
    machine.forget(["/b", "/unknown"])
    told = []
    for now in (0.0, 1.0):
        machine.stirred(now)
        told += machine.seen(now + 0.3, OLD, at_rest=True)
        told += machine.seen(now + 0.4, OLD, at_rest=True)

    assert told == ["/b"]


def test_what_is_covered_is_not_told() -> None:
    machine = debounce.Debounce(0.3)
    machine.cover(OLD)
    machine.cover(NEW)
    machine.stirred(0)

    assert (machine.seen(0.3, NEW, at_rest=True), machine.due) == ([], None)
