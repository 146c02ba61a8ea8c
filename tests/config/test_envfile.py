import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpdconf.config import envfile


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("A=1\nB=2", {"A": "1", "B": "2"}),
        ("# A=1\n; B=2\n\n \t \r\nC=3\r\n", {"C": "3"}),
        ("A=", {"A": ""}),
        ("  A =  b c  \t\n", {"A": "b c"}),
        ("A=1\nA=2\n", {"A": "2"}),
        ("A=b#c # d", {"A": "b#c # d"}),
        ("A=b'c\"d", {"A": "b'c\"d"}),
        ("A='b \\ $c #'", {"A": "b \\ $c #"}),
        ("A='b\nc' \nD=e", {"A": "b\nc", "D": "e"}),
        ('A="b\\"c\\\\d\\$e\\`f\\gh"', {"A": 'b"c\\d$e`f\\gh'}),
        ('A="b\\\nc\nd"\nE=f', {"A": "bc\nd", "E": "f"}),
        ("A=b\\\n  c\nD=e", {"A": "b  c", "D": "e"}),
        ("A=b\\ \\c\\\\\n", {"A": "b c\\"}),
        ("A=b\\ \t \nC=d", {"A": "b ", "C": "d"}),
        ("A=b\\", {"A": "b\\"}),
        ("A=$HOME", {"A": "$HOME"}),
        ("A=b=c", {"A": "b=c"}),
        ("_x9=é", {"_x9": "é"}),
        ("A=b\\\n\\ \nC=d", {"A": "b ", "C": "d"}),
        ("A=b\\\\ \nC=d", {"A": "b\\", "C": "d"}),
        ("A=\\", {"A": "\\"}),
        ("A='b'\n\n  # c\n\t\nD='e' \t", {"A": "b", "D": "e"}),
        ("A=b\n ; c", {"A": "b"}),
        ('A="\\x\\"\\\\"', {"A": '\\x"\\'}),
    ],
)
def test_values_are_read_as_systemd_reads_them(text: str, expected: dict[str, str]) -> None:
    assert envfile.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("A", 1, "must be NAME=VALUE or a comment"),
        ("A=1\n\nexport B=2", 3, "must be NAME=VALUE or a comment"),
        ("=1", 1, "must be NAME=VALUE or a comment"),
        ("1A=1", 1, "must be NAME=VALUE or a comment"),
        ("A-B=1", 1, "must be NAME=VALUE or a comment"),
        ("\nA='b\nc", 2, "the value's ' is not closed"),
        ('A="b\\"', 1, "the value's \" is not closed"),
        ("A='b' c", 1, "nothing may follow the closing quote"),
        ("A='b\nc'd\n", 1, "nothing may follow the closing quote"),
        ("A=1\nB=\0", 2, "must not contain a NUL character"),
    ],
)
def test_what_is_no_assignment_is_an_error_with_its_line(text: str, line: int, message: str) -> None:
    with pytest.raises(envfile.EnvironmentSyntaxError) as error:
        envfile.parse(text)

    assert (error.value.line, str(error.value)) == (line, message)


def test_bytes_are_utf8_or_an_error_with_its_line() -> None:
    assert envfile.read("A=é\n".encode()) == {"A": "é"}
    with pytest.raises(envfile.EnvironmentSyntaxError, match="is not UTF-8: byte 0xe9") as error:
        envfile.read(b"A=1\nB=2\nC=\xe9\n")
    assert error.value.line == 3


MEGABYTE = 1 << 20
WORST = {
    "one value": "A=" + "x" * MEGABYTE,
    "escapes": "A=" + "\\x" * (MEGABYTE // 2),
    "escapes in quotes": 'A="' + "\\n" * (MEGABYTE // 2) + '"',
    "joined lines": "A=" + "\\\n" * (MEGABYTE // 2),
    "lines in quotes": "A='" + "\n" * MEGABYTE + "'",
    "lines": "A=1\n" * (MEGABYTE // 4),
    "names": "".join(f"A{number}=\n" for number in range(MEGABYTE // 9)),
    "blanks": "A=" + " " * MEGABYTE + "x",
    "escaped blanks": "A=" + "\\ " * (MEGABYTE // 2),
    "empty lines": "\n" * MEGABYTE + "A=",
    "comments": "#\n" * (MEGABYTE // 2) + "A=",
}


@pytest.mark.parametrize("text", WORST.values(), ids=WORST.keys())
def test_a_megabyte_is_read_in_no_time(text: str) -> None:
    """A tenth of a second is usual; with time that grows as the square it was minutes."""
    begin = time.process_time()
    assert envfile.parse(text)

    assert time.process_time() - begin < 10


@pytest.mark.parametrize(
    "text", ["A='" + "\n" * MEGABYTE, "\n" * MEGABYTE + "A", "#\n" * (MEGABYTE // 2) + "A"]
)
def test_an_error_is_found_in_no_time(text: str) -> None:
    begin = time.process_time()
    with pytest.raises(envfile.EnvironmentSyntaxError):
        envfile.parse(text)

    assert time.process_time() - begin < 10


@given(st.text(alphabet="A1= \t\r\n'\"\\#;$x\0", max_size=20))
def test_any_text_is_variables_or_an_error(text: str) -> None:
    try:
        found = envfile.parse(text)
    except envfile.EnvironmentSyntaxError as error:
        assert 1 <= error.line <= text.count("\n") + 1  # noqa: PT017 (either outcome is right)
        return
    assert all("\0" not in value for value in found.values())


@given(st.dictionaries(st.sampled_from("ABC"), st.text(alphabet="a \\\"'$`\n#=", max_size=8)))
def test_what_is_written_in_double_quotes_is_read_back(variables: dict[str, str]) -> None:
    escapes = str.maketrans({c: f"\\{c}" for c in '"\\$`'})
    text = "".join(f'{name}="{value.translate(escapes)}"\n' for name, value in variables.items())

    assert envfile.parse(text) == variables
