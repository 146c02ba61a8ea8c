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
    with pytest.raises(envfile.EnvironmentFileError) as error:
        envfile.parse(text)

    assert (error.value.line, str(error.value)) == (line, message)


@given(st.text(alphabet="A1= \t\r\n'\"\\#;$x\0", max_size=20))
def test_any_text_is_variables_or_an_error(text: str) -> None:
    try:
        found = envfile.parse(text)
    except envfile.EnvironmentFileError as error:
        assert 1 <= error.line <= text.count("\n") + 1  # noqa: PT017 (either outcome is right)
        return
    assert all("\0" not in value for value in found.values())


@given(st.dictionaries(st.sampled_from("ABC"), st.text(alphabet="a \\\"'$`\n#=", max_size=8)))
def test_what_is_written_in_double_quotes_is_read_back(variables: dict[str, str]) -> None:
    escapes = str.maketrans({c: f"\\{c}" for c in '"\\$`'})
    text = "".join(f'{name}="{value.translate(escapes)}"\n' for name, value in variables.items())

    assert envfile.parse(text) == variables
