"""What a worker says of lists and names: it is shown as it was said, and breaks no page."""

import dataclasses
import json
from typing import Any, get_args

from hypothesis import given
from hypothesis import strategies as st

from tcpdconf.cli import metrics
from tcpdconf.cli import status as status_page
from tcpdconf.daemon.messages import wire, worker
from tcpdconf.policy.dns import health as list_health
from tcpdconf.policy.dns import name_health

COUNTS = st.integers(0, (1 << 64) - 1)
LISTS = st.dictionaries(
    st.text(max_size=5),
    st.builds(
        worker.ListStatus,
        st.sampled_from(get_args(list_health.State)),
        st.text(),
        *[COUNTS] * (len(dataclasses.fields(worker.ListStatus)) - 2),
    ),
    max_size=3,
)
NAMES = st.builds(
    worker.NamesStatus,
    st.sampled_from(get_args(name_health.State)),
    st.text(),
    *[COUNTS] * (len(dataclasses.fields(worker.NamesStatus)) - 2),
)


@given(st.builds(worker.Reported, LISTS, NAMES))
def test_lists_and_names_can_be_shown_whatever_is_said_of_them(said: worker.Reported) -> None:
    found = dataclasses.asdict(wire.parsed(wire.written(said), worker.FROM_WORKER))

    json.dumps(found, allow_nan=False)
    service: dict[str, Any] = {
        "pid": 1, "connections": 0, "max_connections": 1, "accepted": 0, "refused": {}, "listeners": [],
        "dns_lists": found["lists"], "names": found["names"],
    }  # fmt: skip
    config = {"dir": "", "loaded_at": 0.0}
    status = {"version": "", "pid": 1, "config": config, "last_reload": None, "services": {"a": service}}
    page = status_page.status(status, 0.0) + metrics.exposition(status)
    assert all(character.isprintable() or character == "\n" for character in page)
