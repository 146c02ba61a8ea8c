"""An access database written as TOML answers as before."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import links
from support.courier import berkeleyfiles, gdbmfiles
from support.running import daemons

from tcpdconf.config.load import load
from tcpdconf.config.model import tables
from tcpdconf.policy import connection
from tcpdconf.policy.access import file as access_file
from tcpdconf.policy.access.table import Rule
from tcpdconf_migrate import __main__, accessrules

KEYS = st.one_of(
    st.just(b"*"),
    st.lists(st.integers(0, 3), min_size=1, max_size=4).map(lambda o: ".".join(map(str, o)).encode()),
    st.lists(st.integers(0, 3), min_size=1, max_size=8).map(lambda w: b"".join(b":%04x" % n for n in w)),
)
VALUES = st.sampled_from([b"deny", b"allow", b"allow,RELAYCLIENT", b"allow,A=1,MAXCPERIP=7"])
CLIENTS = st.one_of(
    st.lists(st.integers(0, 3), min_size=4, max_size=4).map(lambda o: ".".join(map(str, o))),
    st.lists(st.integers(0, 3), min_size=8, max_size=8).map(lambda w: ":".join(f"{n:x}" for n in w)),
)


def answers(path: Path, form: str, clients: list[str]) -> list[Rule | None]:
    source = tables.AccessSource.model_validate({"file": str(path), "format": form})
    table = access_file.read([(str(path), path.read_bytes())], source)
    return [table.find(connection.Link(links.end(client), links.end(links.ANY))) for client in clients]


@settings(max_examples=200, deadline=None)
@given(records=st.dictionaries(KEYS, VALUES), clients=st.lists(CLIENTS, min_size=20, max_size=20))
def test_rules_answer_as_their_database(records: dict[bytes, bytes], clients: list[str]) -> None:
    with daemons.public_folder() as folder:
        database, rules = folder / "access.dat", folder / "access.toml"
        database.write_bytes(gdbmfiles.write(records))
        rules.write_text(accessrules.read(str(database)).text)

        assert answers(database, "gdbm", clients) == answers(rules, "toml", clients)


def test_a_database_becomes_as_few_rules_as_it_was_made_of(tmp_path: Path) -> None:
    database = tmp_path / "access.dat"
    pieces = {b"192.168.%d" % octet: b"allow,RELAYCLIENT" for octet in range(4)}
    records = {**pieces, b"192.168.1.7": b"deny", b":2001:0db8": b"allow,MAXCPERIP=20", b"*": b"deny"}
    database.write_bytes(gdbmfiles.write(records))

    assert (
        accessrules.read(str(database)).text
        == f"""\
# From {database}
rules = [
  {{ network = "192.168.0.0/22", action = "allow", environment = {{ RELAYCLIENT = "" }} }},
  {{ network = "192.168.1.7", action = "deny" }},
  {{ network = "2001:db8::/32", action = "allow", environment = {{ MAXCPERIP = "20" }} }},
  {{ network = "*", action = "deny" }},
]
"""
    )


@pytest.mark.peer
@pytest.mark.parametrize("form", berkeleyfiles.FORMS.values(), ids=berkeleyfiles.FORMS.keys())
def test_a_berkeley_db_database_becomes_the_same_rules(tmp_path: Path, form: berkeleyfiles.Form) -> None:
    records = {b"192.168.%d" % octet: b"allow,RELAYCLIENT" for octet in range(4)} | {b"*": b"deny"}
    database = tmp_path / "access.dat"
    database.write_bytes(gdbmfiles.write(records))
    expected = accessrules.read(str(database))
    database.write_bytes(berkeleyfiles.write(records, form))

    assert expected == accessrules.read(str(database))


@pytest.mark.parametrize(
    "write", [gdbmfiles.write, pytest.param(berkeleyfiles.write, marks=pytest.mark.peer)], ids=["gdbm", "db"]
)
@pytest.mark.parametrize("exact", [[], ["--exact"]], ids=["safe", "exact"])
def test_either_database_can_be_named(
    write: Callable[[dict[bytes, bytes]], bytes],
    exact: list[str],
    tmp_path: Path,
) -> None:
    """Which of the two Courier writes was chosen when it was built, and the command line does not tell."""
    database = tmp_path / "access.dat"
    database.write_bytes(write({b"192.0.2": b"deny"}))
    words = ["couriertcpd", "-nodnslookup", f"-access={database}", "127.0.0.1.4999", "/bin/cat"]
    assert __main__.main(["argv", *exact, "-o", str(tmp_path / "conf.d"), "--", *words]) == 0

    command = [sys.executable, "-m", "tcpdconf", "check", str(tmp_path / "conf.d")]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=daemons.SECONDS, check=False)

    assert checked.returncode == 0, checked.stdout


def test_text_is_read_unless_it_is_newer_than_its_database(tmp_path: Path) -> None:
    database, texts = tmp_path / "smtpaccess.dat", tmp_path / "smtpaccess"
    texts.mkdir()
    (texts / "default").write_text("10.0.0.0/9 allow\n# no more\n")
    database.write_bytes(gdbmfiles.write({b"10": b"allow"}))
    os.utime(texts / "default", (1, 1))
    current = accessrules.read(str(database)).text
    os.utime(texts / "default", (2**31, 2**31))

    assert '"10.0.0.0/9"' in current
    assert '"10.0.0.0/8"' in accessrules.read(str(database)).text


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ({b"10": b"allow,A=\xff"}, "a variable is not UTF-8, as TOML is"),
        ({b"10": b"allow,A=1\n2"}, 'the variable "A" has a line end'),
        (None, "is no GDBM or Berkeley DB database"),
    ],
)
def test_what_toml_cannot_say_is_refused(
    tmp_path: Path, records: dict[bytes, bytes] | None, said: str
) -> None:
    database = tmp_path / "access.dat"
    database.write_bytes(b"nothing" if records is None else gdbmfiles.write(records))
    with pytest.raises(accessrules.RulesError, match=said):
        accessrules.read(str(database))


def test_what_nobody_looks_up_is_left_out(tmp_path: Path) -> None:
    database = tmp_path / "access.dat"
    database.write_bytes(gdbmfiles.write({b"10 allow": b"1", b"*.25": b"deny", b"11": b"allow,A-B=1,C=2"}))
    rules = accessrules.read(str(database))

    assert sorted(rules.left_out) == [
        '"*.25" is looked up for no client',
        '"10 allow" is looked up for no client',
        "'A-B' is not the name of a variable",
    ]
    assert 'environment = { C = "2" }' in rules.text


def test_services_share_the_rules_of_one_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    courier, conf = tmp_path / "etc", tmp_path / "conf.d"
    courier.mkdir()
    (courier / "esmtpd").write_text(
        f"PORT=25\nMAXDAEMONS=9\nMAXPERC=9\nMAXPERIP=9\nACCESSFILE={courier}/smtpaccess\n"
    )
    (courier / "esmtpd-msa").write_text("PORT=587\n")
    (courier / "smtpaccess.dat").write_bytes(gdbmfiles.write({b"127": b"allow,RELAYCLIENT"}))
    for file in ("esmtpd", "esmtpd-msa"):
        with (courier / file).open("a") as opened:
            opened.write("MAILUSER=daemon\nMAILGROUP=daemon\nPIDFILE=/run/x\n")

    assert __main__.main(["courier", "-o", str(conf), "--access", "toml", str(courier)]) == 0
    assert f"written: {conf}/access/smtpaccess.toml" in capsys.readouterr().err

    services = load.load(conf).config.services
    files = {source.file for service in services.values() for source in service.access}
    assert services.keys() == {"smtp", "submission"}
    assert files == {f"{conf}/access/smtpaccess.toml"}
    (rule,) = answers(conf / "access/smtpaccess.toml", "toml", ["127.0.0.1"])
    assert rule == Rule("allow", (("RELAYCLIENT", ""),))


def test_rules_need_a_directory(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        __main__.main(["running", "--access", "toml"])
    assert ended.value.code == 2
    assert "--access toml needs -o" in capsys.readouterr().err
