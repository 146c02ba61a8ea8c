import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import links
from support.courier import berkeleyfiles, gdbmfiles

from tcpdconf.config.model import tables
from tcpdconf.policy.access import file as access_file
from tcpdconf.policy.access.file import AccessFileError
from tcpdconf.policy.access.table import AccessTable

PATH = "/etc/courier/access"
COURIER = b"# comment\n10\tallow,V=ten\n10.1\tdeny\n*.25\tallow,V=port\n"
CIDR = b"; a list\n10.0.0.0/8 ; SBL1\n2001:db8::/32\n"
TOML = b"""
# comment
[[rules]]
network = "10.0.0.0/8"
action = "allow"
environment = { V = "ten" }
max_per_ip = 7

[[rules]]
network = "10.1.0.0/16"
local = "192.0.2.1:25"
action = "deny"
"""
BERKELEY = b"\0" * 12 + (0x061561).to_bytes(4, "little") + b"\0" * 496  # its magic number, no more
GDBM = bytes(gdbmfiles.write({b"10": b"allow,V=ten", b"10.1": b"deny", b"*.25": b"allow,V=port"}))


def source(**keys: object) -> tables.AccessSource:
    return tables.AccessSource.model_validate({"file": PATH, **keys})


def placed(text: str) -> str:
    """Put the path before what is said, or before the line and column that it begins with."""
    return f"{PATH}:{text}" if text[:1].isdigit() else f"{PATH}: {text}"


def read(data: bytes, **keys: object) -> AccessTable:
    return access_file.read([(PATH, data)], source(**keys))


@pytest.mark.parametrize(
    ("data", "form"),
    [
        (GDBM, "gdbm"),
        (COURIER, "courier"),
        (b"10\tallow", "courier"),
        (b"*\tdeny\n", "courier"),
        (b"10/8\tdeny\n", "courier"),
        (b":2001:0db8\tdeny\n", "courier"),
        (b"10.0.0.0/8 allow,V=a\tb\n", "courier"),
        (TOML, "toml"),
        (b"rules = []", "toml"),
        (b"rules=[{", "toml"),
        (b"[rule]", "toml"),
        (b'"rules" = []', "toml"),
        (CIDR, "cidr"),
        (b"10.0.0.1", "cidr"),
        (b"\n\r\n  2001:db8::/32\r\n", "cidr"),
        (b"10.0.0.0/8\t# comment\n", "cidr"),
        (b"10.0.0.0/8\t;\tcomment\n", "cidr"),
    ],
)
def test_the_format_is_known_from_the_content(data: bytes, form: str) -> None:
    assert form == access_file.recognise(PATH, data)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "the file is empty"),
        (b"# nothing\n\n", "there are only comments: cannot tell its format, so name it (format)"),
        (b"\n \t\n", "there are only comments: cannot tell its format, so name it (format)"),
        (
            b"10\tallow\0",
            "offset 0x8: neither a database (GDBM, Berkeley DB) nor text: it has a NUL character",
        ),
        (
            b"# one\n10.0.0.0 allow\n",
            "2:1: cannot tell the format: neither a network alone (CIDR list), nor",
        ),
        (b"example.com\n", "1:1: cannot tell the format: neither a network alone (CIDR list), nor"),
        (b"deadbeef\n", "1:1: cannot tell the format: neither a network alone (CIDR list), nor"),
        (
            b"\xff\xfe1\0",
            "offset 0x3: neither a database (GDBM, Berkeley DB) nor text: it has a NUL character",
        ),
    ],
)
def test_what_cannot_be_recognised(data: bytes, text: str) -> None:
    with pytest.raises(AccessFileError) as caught:
        read(data)

    assert str(caught.value).startswith(placed(text))


@pytest.mark.peer
@pytest.mark.parametrize("form", berkeleyfiles.FORMS.values(), ids=berkeleyfiles.FORMS.keys())
@pytest.mark.parametrize("keys", [{}, {"format": "db"}])
def test_a_berkeley_db_database(form: berkeleyfiles.Form, keys: dict[str, object]) -> None:
    records = {b"10": b"allow,V=ten", b"10.1": b"deny", b"*.25": b"allow,V=port", b"12 deny": b"1"}
    found = read(bytes(berkeleyfiles.write(records, form)), **keys)

    assert [links.answer(found, peer) for peer in ("10.0.0.1", "10.1.0.1", "11.0.0.1")] == [
        "ten",
        "deny",
        None,
    ]
    assert found.dead == ['"12 deny"']


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("magic", [0x061561, 0x053162, 0x042253, 0x074582])
@pytest.mark.parametrize("offset", [0, 12])
def test_other_kinds_of_berkeley_db_are_named(order: str, magic: int, offset: int) -> None:
    data = bytearray(4096)
    struct.pack_into(order + "I", data, offset, magic)
    with pytest.raises(AccessFileError, match=r"and only (hash and btree|\d to 9) are read"):
        read(bytes(data))


@pytest.mark.parametrize(
    ("data", "form", "right"),
    [
        (BERKELEY, "gdbm", 'this is a Berkeley DB database, and format says "gdbm": write format = "db"'),
        (
            BERKELEY,
            "courier",
            'this is a Berkeley DB database, and format says "courier": write format = "db"',
        ),
        (GDBM, "db", 'this is a GDBM database, and format says "db": write format = "gdbm", or leave it out'),
        (COURIER, "db", "no Berkeley DB file"),
        (COURIER, "gdbm", "no GDBM database"),
    ],
)
def test_a_format_that_is_not_that_of_the_file_is_named_with_the_right_one(
    data: bytes, form: str, right: str
) -> None:
    with pytest.raises(AccessFileError) as caught:
        read(data, format=form)

    assert right in str(caught.value)


@pytest.mark.parametrize("form", ["gdbm", "db", "courier", "toml", "cidr"])
def test_an_empty_file_is_an_error_in_every_format(form: str) -> None:
    with pytest.raises(AccessFileError, match="the file is empty"):
        read(b"", format=form, **({"action": "deny"} if form == "cidr" else {}))


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (bytes(gdbmfiles.write({})), {}),
        (b"# only comments\n", {"format": "courier"}),
        (b"# only comments\n", {"format": "toml"}),
        (b"rules = []", {}),
        (b"; only comments\n", {"format": "cidr", "action": "deny"}),
    ],
)
def test_a_table_without_rules_is_possible_where_it_is_meant(data: bytes, keys: dict[str, object]) -> None:
    found = read(data, **keys)

    assert (len(found.peers), len(found.locals)) == (0, 0)


@pytest.mark.parametrize("data", [COURIER, GDBM], ids=["text", "database"])
def test_courier_records(data: bytes) -> None:
    found = read(data)

    assert [links.answer(found, peer) for peer in ("10.0.0.1", "10.1.0.1", "11.0.0.1")] == [
        "ten",
        "deny",
        None,
    ]
    assert links.local_answer(found, "10.0.0.1") is None
    assert links.local_answer(read(data, local=True), "10.0.0.1") == "ten"
    assert links.local_answer(read(data, local=True), "11.0.0.1", 25) == "port"


def test_a_toml_file() -> None:
    found = read(TOML.replace(b"\n", b"\r\n"))

    assert links.answer(found, "10.0.0.1") == "ten"
    assert links.answer(found, "10.1.0.1", "192.0.2.1", 25) == "deny"
    assert links.answer(found, "10.1.0.1", "192.0.2.1", 26) == "ten"


@pytest.mark.parametrize("action", ["allow", "deny"])
def test_a_cidr_list_means_what_its_source_says(action: str) -> None:
    found = read(CIDR, action=action)

    assert [links.answer(found, peer) for peer in ("10.0.0.1", "2001:db8::1", "11.0.0.1")] == [
        action,
        action,
        None,
    ]


@pytest.mark.parametrize(
    ("data", "keys", "text"),
    [
        (CIDR, {}, 'this is a CIDR list, which needs action = "allow" or "deny"'),
        (COURIER, {"action": "deny"}, "action goes with a CIDR list only, and this is Courier's text"),
        (GDBM, {"action": "deny"}, "action goes with a CIDR list only, and this is a GDBM database"),
        (TOML, {"action": "deny"}, "action goes with a CIDR list only, and this is TOML"),
        (TOML, {"local": True}, "local goes with Courier's text and databases only, and this is TOML"),
        (
            CIDR,
            {"action": "deny", "local": True},
            "local goes with Courier's text and databases only, and this is a CIDR list",
        ),
    ],
)
def test_keys_of_a_source_that_do_not_go_with_its_file(
    data: bytes, keys: dict[str, object], text: str
) -> None:
    with pytest.raises(AccessFileError) as caught:
        read(data, **keys)

    assert f"{PATH}: {text}" == str(caught.value)


@pytest.mark.parametrize("form", ["gdbm", "db", "courier", "toml", "cidr"])
@pytest.mark.parametrize(
    "data", [GDBM, BERKELEY, COURIER, TOML, CIDR], ids=["gdbm", "db", "courier", "toml", "cidr"]
)
def test_no_reader_takes_what_the_others_write(form: str, data: bytes) -> None:
    keys = {"format": form, **({"action": "deny"} if form == "cidr" else {})}
    if data == {"gdbm": GDBM, "db": None, "courier": COURIER, "toml": TOML, "cidr": CIDR}[form]:
        read(data, **keys)
        return
    with pytest.raises(AccessFileError):
        read(data, **keys)


def test_damage_is_named_by_its_offset() -> None:
    data = bytearray(GDBM)
    data[-1:] = b""
    with pytest.raises(AccessFileError) as caught:
        read(bytes(data))

    assert (caught.value.path, caught.value.where[:9]) == (PATH, "offset 0x")
    assert str(caught.value).endswith("does not lie within the file")


def test_keys_of_a_database_that_match_nobody_are_told() -> None:
    """Makedat stores them, couriertcpd never looks for them: the service must start all the same."""
    found = read(bytes(gdbmfiles.write({b"10 deny": b"1", b":2001:0DB8": b"deny", b"10": b"deny"})))

    assert sorted(found.dead) == ['"10 deny"', '":2001:0DB8"']
    assert [links.answer(found, peer) for peer in ("10.0.0.1", "2001:db8::1")] == ["deny", None]


def test_a_record_that_cannot_become_a_variable_is_named() -> None:
    with pytest.raises(AccessFileError) as caught:
        read(bytes(gdbmfiles.write({b"10": b"allow,A=1\nB=2"})))

    assert f'{PATH}: record "10": the variable "A" has a line end or a NUL in it' == str(caught.value)


def test_a_line_is_named() -> None:
    for data, keys in ((COURIER + b"11 deny\n", {}), (CIDR + b"\n11\n", {"action": "deny"})):
        with pytest.raises(AccessFileError) as caught:
            read(data, **keys)

        assert str(caught.value).startswith(f"{PATH}:5:1: ")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (
            b'\n[[rules]]\nnetwork = "10.0.0.0/33"\naction = "deny"\n',
            "3:11: rules[0].network: must be an address",
        ),
        (b'[[rules]]\naction = "deny"\n', "1:1: rules[0]: must name a network, a local end, or both"),
        (b'[[rules]]\nnetwork = "*"\n', "1:1: rules[0].action: is missing"),
        (
            b'[[rules]]\nnetwork = "*"\naction = "Deny"\n',
            '3:10: rules[0].action: must be "allow" or "deny", not',
        ),
        (
            b'[[rules]]\nnetwrok = "*"\naction = "deny"\n',
            "2:1: rules[0].netwrok: unknown key (did you mean network",
        ),
        (b'[[rule]]\nnetwork = "*"\naction = "deny"\n', "1:3: rule: unknown key (did you mean rules?)"),
        (
            b'[[rules]]\nnetwork = "*"\naction = "deny"\nmax_per_ip = 0\n',
            "4:14: rules[0].max_per_ip: must be at",
        ),
        (
            b'[[rules]]\nnetwork = "*"\naction = "deny"\nenvironment = { A = 1 }\n',
            "4:21: rules[0].environment.A: must be a string",
        ),
        (
            b'[[rules]]\nnetwork = "*"\naction = "deny"\n[[rules]]\nnetwork = "*"\naction = "allow"\n',
            "4:1: rules[1]: a rule for the same network and local end stands above",
        ),
        (b"[[rules]]\nnetwork = 10.0.0.0/8\n", "2:15: "),
        (b"[[rules]]\n# \xff\n", "2:1: not UTF-8"),
        (b"rules = " + b"[" * 5000, ""),
        (b"rules = " + b"9" * 5000, ""),
    ],
)
def test_what_is_wrong_in_toml(data: bytes, text: str) -> None:
    with pytest.raises(AccessFileError) as caught:
        read(data)

    assert str(caught.value).startswith(placed(text))
    assert "pydantic" not in str(caught.value)


def test_a_directory_is_one_table() -> None:
    found = access_file.read(
        [(f"{PATH}/a", COURIER), (f"{PATH}/b", b"# nothing\n"), (f"{PATH}/c", b"11\tdeny")], source()
    )

    assert [links.answer(found, peer) for peer in ("10.0.0.1", "11.0.0.1")] == ["ten", "deny"]


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ([], f"{PATH}: there is no access file in this directory"),
        ([("a", COURIER), ("b", b"")], "b: the file is empty"),
        (
            [("a", COURIER), ("b", b"\n10\tdeny\n")],
            "b:2:1: another rule for the same network, with a different",
        ),
        (
            [("a", COURIER), ("b", GDBM)],
            "b: of several files each must be Courier's text, and this is a GDBM database",
        ),
        ([("a", TOML), ("b", TOML)], "a: of several files each must be Courier's text, and this is TOML"),
        ([("a", COURIER), ("b", b"10 deny\n")], "b:1:1: "),
    ],
)
def test_a_directory_that_cannot_be_one_table(files: list[tuple[str, bytes]], text: str) -> None:
    with pytest.raises(AccessFileError) as caught:
        access_file.read(files, source())

    assert str(caught.value).startswith(text)


FORMATS: list[dict[str, object]] = [
    {}, {"local": True}, {"action": "deny"}, {"format": "gdbm"}, {"format": "courier"}, {"format": "toml"},
    {"format": "cidr", "action": "allow"},
]  # fmt: skip
CONTENTS = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=300).map(str.encode),
    st.tuples(
        st.sampled_from([COURIER, CIDR, TOML, GDBM, b""]), st.integers(0, 2000), st.binary(max_size=20)
    ).map(lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + len(parts[2]) :]),
)


@given(st.lists(CONTENTS, max_size=2), st.sampled_from(FORMATS))
def test_any_bytes_are_a_table_or_an_error(contents: list[bytes], keys: dict[str, object]) -> None:
    files = [(f"{PATH}/{number}", data) for number, data in enumerate(contents)]
    try:
        access_file.read(files, source(**keys))
    except AccessFileError as error:
        assert error.path in {PATH, *dict(files)}  # noqa: PT017 (no error is as good)
        assert str(error).startswith(f"{error.path}:")  # noqa: PT017
