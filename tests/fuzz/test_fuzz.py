"""No bytes make a reader of foreign bytes fail otherwise than it says, or work for long.

`TCPDCONF_FUZZ=100000 pytest tests/fuzz` tries so many inputs for each reader instead of some hundred.
"""

import json
import os
import pathlib
import time
import tomllib
import tracemalloc
import types
from collections.abc import Iterable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import parsers
from support.running import controls

from tcpdconf.config.load.loaded import Loaded
from tcpdconf.config.model.service import Config
from tcpdconf.daemon.guard.bans import Bans
from tcpdconf.daemon.supervisor import commands, listeners
from tcpdconf.daemon.supervisor.reload.queue import Last
from tcpdconf.daemon.supervisor.reload.transaction import Outcome, State

EXAMPLES = int(os.environ.get("TCPDCONF_FUZZ", "300"))
SLOWEST = 2.0  # seconds for an input, which is small, on a busy machine
LARGEST = 50 << 20  # bytes that reading may hold at once
FUZZED = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck)
)  # time is looked at by what is called


def corpus(name: str) -> list[bytes]:
    """The inputs that a reader begins from."""
    cases = tomllib.loads((pathlib.Path(__file__).parent / "corpus.toml").read_text())["case"]
    return [
        case["text"].encode() if "text" in case else bytes.fromhex(case["hex"]) + bytes(case.get("zeros", 0))
        for case in cases
        if case["parser"] == name
    ]


def inputs(name: str) -> st.SearchStrategy[bytes]:
    """Any bytes, and those of the corpus with pieces put in, left out, doubled."""
    piece = st.tuples(st.integers(0, 1 << 12), st.integers(0, 40), st.binary(max_size=6), st.integers(0, 5))

    def edited(data: bytes, edits: Iterable[tuple[int, int, bytes, int]]) -> bytes:
        for at, count, put, times in edits:
            at %= len(data) + 1  # noqa: PLW2901 (a place in what there is)
            data = data[:at] + put + data[at : at + count] * times + data[at + count :]
        return data

    return st.binary(max_size=400) | st.builds(
        edited, st.sampled_from(corpus(name)), st.lists(piece, max_size=4)
    )


def read(parser: parsers.Parser, data: bytes) -> bool:
    """Return whether it is accepted; what is raised must be what the parser says."""
    began = time.process_time()
    try:
        parser.read(data)
    except parser.refuses:
        accepted = False
    else:
        accepted = True
    assert time.process_time() - began < SLOWEST
    return accepted


@pytest.mark.parametrize("name", parsers.PARSERS)
def test_the_corpus_is_accepted(name: str) -> None:
    assert corpus(name)
    for data in corpus(name):
        assert read(parsers.PARSERS[name], data), data


@pytest.mark.timeout(0 if EXAMPLES > 1000 else 120)
@pytest.mark.parametrize("name", parsers.PARSERS)
def test_any_bytes_are_accepted_or_refused(name: str) -> None:
    @FUZZED
    @given(inputs(name))
    def fuzz(data: bytes) -> None:
        read(parsers.PARSERS[name], data)

    fuzz()


# Inputs that cost much more than their size, each with what had to be mended, or what keeps it harmless.
COSTLY = {
    "a key of many parts": ("access-toml", b".".join([b"a"] * 20_000) + b" = 1"),  # took half a minute
    "the same in quotes": ("access-toml", b" . ".join([b'"a"', b"'b'"] * 10_000) + b" = 1"),
    "quotes in an open string": ("access-toml", b'a = """' + b"'''" * 50_000),  # each was tried
    "brackets": ("access-toml", b"a = " + b"[" * 50_000),
    "a number": ("access-toml", b"a = " + b"9" * 50_000),
    "a word": ("access-toml", b"a" * 500_000),
    "a range": ("access-cidr", b"::-" + b"f" * 4 + b":ffff" * 7),
    "ranges": ("access-cidr", b"::1-ffff::fffe\n" * 2000),
    "commas": ("access-courier", b"10\tallow" + b"," * 200_000),
    "quotes": ("access-courier", b"10\tallow," + b"'\"" * 100_000),
    "digits": ("access-courier", b"1" * 200_000 + b"\tallow"),
    "a quoted value": ("environment", b'A="' + b'\\"' * 100_000),
    "a value": ("environment", b"A=" + b"\\ " * 100_000),
    "pointers": ("dns", b"\x85\x80\0\x40\0\0\0\0" + b"\xc0\x0c\0\5\0\1\0\0\0\x3c\0\2\xc0\x0c" * 4000),
    "a pointer to itself": ("dns", b"\x85\x80\0\1\0\0\0\0" + b"\xc0\x26"),
    "brackets from a worker": ("worker", b'{"kind": "reported", "names": null, "lists": ' + b"[" * 60_000),
    "digits from a worker": (
        "worker",
        b'{"kind": "reported", "names": null, "lists": ' + b"9" * 60_000 + b"}",
    ),
    "failures": (
        "worker",
        b'{"kind": "failed", "number": 1, "failures": ['
        + b'{"key":["a"],"text":"b","place":null},' * 1600
        + b"{}]}",
    ),
}


@pytest.mark.parametrize("case", COSTLY)
def test_what_costs_much_is_bounded(case: str) -> None:
    name, data = COSTLY[case]
    read(parsers.PARSERS[name], data)
    tracemalloc.start()  # which makes everything slower
    try:
        read(parsers.PARSERS[name], data[:20_000])
        assert tracemalloc.get_traced_memory()[1] < LARGEST
    finally:
        tracemalloc.stop()


REQUESTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def test_any_request_has_one_answer(tmp_path: pathlib.Path) -> None:
    """The daemon's own commands, without services: what is no request ends the connection at most."""
    state = State(Loaded("", Config(), ()), {}, {})
    last = Last(Outcome([], [], []), 0.0, asked=True)
    stops: list[float | None] = []
    served: dict[str, object] = {}
    with controls.Server(tmp_path / "run", served) as server:  # type: ignore[arg-type] # filled in below
        running = types.SimpleNamespace(
            state=state,
            loaded_at=0.0,
            last=last,
            results={},
            request=lambda then, again: then(last) if again else None,
        )
        activated = listeners.Activated({})
        bans = Bans({"STATE_DIRECTORY": str(tmp_path)}, lambda: None)
        served |= commands.Commands(server.loop, running, activated, stops.append, bans).all()  # type: ignore[arg-type]

        @FUZZED
        @given(
            st.fixed_dictionaries(
                {"command": st.sampled_from(sorted(served)) | REQUESTS}, optional={"drain": REQUESTS}
            ).map(lambda request: json.dumps(request).encode())
            | inputs("control")
        )
        def fuzz(request: bytes) -> None:
            with server.connect() as end, end.makefile("rb") as answers:
                end.sendall(request.replace(b"\n", b" ") + b"\n")
                answer = json.loads(answers.readline())
            assert isinstance(answer, dict)
            assert answer.get("error") != "a defect of tcpdconf: see the log"

        fuzz()
    assert all(seconds is None or 0 <= seconds <= 604800 for seconds in stops)
