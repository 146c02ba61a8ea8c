"""Tests that every command line of couriertcpd's grammar becomes a service that can be written and read."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tcpdconf.config import render
from tcpdconf.config.couriertcpd import parse
from tcpdconf.config.load import load

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
numbers = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", " ", "+", "00"]),
    st.integers(1, 2**31 - 1) | st.integers(1, 50),
    st.sampled_from(["", "x", ".9", " "]),
)
switches = st.builds(
    "-{}{}".format,
    st.sampled_from(["nodnslookup", "noidentlookup", "proxy", "forcebind", "accesslocal"]),
    st.sampled_from(["", "=", "=no"]),
)
counts = st.builds("-{}={}".format, st.sampled_from(["maxprocs", "maxperip", "maxperc", "listen"]), numbers)
warns = st.builds("-warn={}".format, st.integers(-5, 60) | texts)
accounts = st.sampled_from(["-user=nobody", "-user=65534", "-user=", "-user", "-group=nogroup", "-group=7"])
files = st.sampled_from(
    ["-access=/dev/null", "-access=dev/null", "-stderr=/dev/null", "-stderr=syslog", "-stderr=socket",
     "-stderrlogger=/bin/cat", "-stderrlogger=cat", "-stderrlogger=", "-pid=/run/p", "-lock=x"]
)  # fmt: skip
said = st.builds("-{}={}".format, st.sampled_from(["denymsg", "stderrloggername", "drop"]), texts)
drops = st.sampled_from(["-drop", "-drop=", "-drop=A", "-drop=,B", "-drop=A,B,A", "-drop=A-"])
addresses = st.sampled_from(
    ["0", "0.0.0.0", "::", "127.1", "0177.0.0.1", "2130706433", "192.0.2.1", "::1", "2001:DB8::1",
     "::ffff:192.0.2.7"]
)  # fmt: skip
zones = st.sampled_from(
    ["bl.test", "bl.test.", "a" * 64 + ".test", "", "a b", "x_y.test", "z." * 90 + "test", "key.dq.example"]
)
parts = st.sampled_from(["", "VAR", "BLOCK", "a-b"])
answers = st.sampled_from(
    ["", "/127.0.0.2", "/127.2", "/0.0.0.0", "/x", "/", "/127.0.0.1", "/192.0.2.1", "/127.255.255.254"]
)
lists = st.builds(
    "-{}={}{}{}{}{}".format,
    st.sampled_from(["block", "allow"]),
    zones,
    st.sampled_from(["", "=", "=shown.example", "=\u00e9\t"]),
    st.builds(",{}".format, parts) | st.just(""),
    answers,
    st.builds(",{}".format, st.sampled_from(["", "*", "Go away, see http://x.test/@"]) | texts) | st.just(""),
)
ports = st.sampled_from(["25", " 26", "imaps", "27x", "28"])
items = st.builds("{}.{}".format, addresses, ports) | ports
proxied = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "5", "abc", "-3", "999999"]),
    st.builds("/port={}".format, items | st.sampled_from(["", "0", "abc"])) | st.just(""),
    st.sampled_from(["", "/foo=bar", "/port=9"]),
)
haproxies = st.builds("-haproxy={}".format, st.lists(proxied, max_size=3).map(",".join)) | st.just("-haproxy")
options = st.one_of(
    switches, counts, warns, accounts, files, said, drops, lists, haproxies,
    st.builds("-address={}".format, addresses),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    st.lists(options, max_size=10),
    st.sampled_from([[], ["-"]]),
    st.lists(items, min_size=1, max_size=4, unique_by=lambda item: item.rpartition(".")[2]),
    st.lists(texts, max_size=3),
    st.booleans(),
)
def test_a_command_line_is_the_same_service_before_and_after_it_is_toml(
    options: list[str], end: list[str], listed: list[str], arguments: list[str], exact: bool
) -> None:
    words = [*options, *end, ",".join(listed), "/bin/cat", *arguments]
    found = parse.parse(words, exact=exact)
    assert found.service is not None
    text = render.service("test", found.service, found.notes)

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "a.toml").write_text(text, encoding="utf-8")
        assert load.load(folder).config.services == {"test": found.service}
