"""A worker may report anything of lists, names and penalties: pages show it as it is, and none breaks."""

import dataclasses
import json
from typing import Any, cast, get_args

from hypothesis import given
from hypothesis import strategies as st

from tcpdconf.cli import status as status_page
from tcpdconf.daemon.http import exposition
from tcpdconf.daemon.messages import measures, wire, worker
from tcpdconf.daemon.supervisor import commands
from tcpdconf.policy.dns import health as list_health
from tcpdconf.policy.dns import name_health

COUNTS = st.integers(0, (1 << 64) - 1)
LISTS = st.dictionaries(
    st.text(max_size=5),
    st.builds(
        worker.ListStatus,
        st.sampled_from(get_args(list_health.State)),
        st.text(),
        *[COUNTS] * (len(dataclasses.fields(worker.ListStatus)) - 4),
        st.tuples(*[COUNTS] * (len(measures.LIST_BOUNDS) + 1)),
        st.floats(0, allow_infinity=False),
    ),
    max_size=3,
)
NAMES = st.builds(
    worker.NamesStatus,
    st.sampled_from(get_args(name_health.State)),
    st.text(),
    *[COUNTS] * (len(dataclasses.fields(worker.NamesStatus)) - 2),
)


LENGTHS = st.sampled_from([4, 6]).flatmap(
    lambda version: st.tuples(st.just(version), st.integers(0, 32 if version == 4 else 128))
)
ROWS = LENGTHS.flatmap(
    lambda found: st.builds(
        worker.PenaltyStatus,
        st.just(found[0]),
        st.integers(0, (1 << found[1]) - 1),
        st.just(found[1]),
        st.sampled_from(["refused", "killed", "status 75"]),
        st.floats(0, 604800),
        st.booleans(),
    )
)
PENALTIES = st.none() | st.builds(
    worker.PenaltiesStatus, st.integers(0, 131072), st.lists(ROWS, max_size=3).map(tuple)
)
REFUSED = st.lists(
    st.builds(worker.RefusedAddress, st.just(4), st.integers(0, (1 << 32) - 1), COUNTS)
    | st.builds(worker.RefusedAddress, st.just(6), st.integers(0, (1 << 128) - 1), COUNTS),
    max_size=3,
).map(tuple)


@given(st.builds(worker.Reported, LISTS, NAMES, PENALTIES, REFUSED))
def test_what_is_reported_can_be_shown_whatever_it_says(said: worker.Reported) -> None:
    said = cast("worker.Reported", wire.parsed(wire.written(said), worker.FROM_WORKER))
    found = dataclasses.asdict(said)

    json.dumps(found, allow_nan=False)
    service: dict[str, Any] = {
        "pid": 1, "connections": 0, "max_connections": 1, "accepted": 0, "refused": {}, "listeners": [],
        "dns_lists": {zone: commands.dns_list(one) for zone, one in said.lists.items()},
        "names": found["names"],
        "penalties": commands.penalties(said.penalties, {"penalties": 1}),
    }  # fmt: skip
    config = {"dir": "", "loaded_at": 0.0}
    status = {
        "version": "", "pid": 1, "config": config, "last_reload": None, "services": {"a": service},
        "refused_by_address": commands.most_refused([said, said]),
    }  # fmt: skip
    page = status_page.status(status, 0.0) + exposition.text(status).decode()
    assert all(character.isprintable() or character == "\n" for character in page)
