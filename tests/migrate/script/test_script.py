"""Shell scripts are followed as the shell goes through them; what only running them would tell is unknown."""

import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcpdconf_migrate.script import script
from tcpdconf_migrate.script import words as shell_words
from tcpdconf_migrate.script.variables import Variables
from tcpdconf_migrate.script.words import Word

FILES = {"/rc": "PORT=25\nMAX=9\n", "/again": ". /again\n"}
SHELL = st.text(st.sampled_from("aA=1 \n\t'\"\\$`{}();&|<>#-.:*~couriertcpd"), max_size=60)


def read_file(path: str) -> str:
    try:
        return FILES[path]
    except KeyError:
        raise FileNotFoundError(2, "No such file or directory", path) from None


def found(text: str, **known: str) -> list[script.Line | script.UnreadLine]:
    return script.read(text, read_file, known)


def words(text: str, **known: str) -> list[str]:
    """The arguments of the one command line of a script."""
    (line,) = found(text, **known)
    assert isinstance(line, script.Line), line
    return list(line.words[1:])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("couriertcpd 25 /bin/cat", ["25", "/bin/cat"]),
        ("couriertcpd \\\n  25 \\\n  /bin/cat # end", ["25", "/bin/cat"]),
        ("X='a b'; couriertcpd $X \"$X\" '$X' \\$X", ["a", "b", "a b", "$X", "$X"]),
        ("X=a; couriertcpd x$X-y x${X}y", ["xa-y", "xay"]),
        ('X=; couriertcpd $X "$X" x', ["", "x"]),
        ("X=' a '; couriertcpd 1$X\"2\"", ["1", "a", "2"]),
        ("couriertcpd ${X-a b} ${X:=25} $X", ["a", "b", "25", "25"]),
        ("X=1 Y=$X\ncouriertcpd $Y", ["1"]),
        (". /rc\ncouriertcpd -maxprocs=$MAX $PORT /bin/cat", ["-maxprocs=9", "25", "/bin/cat"]),
        (
            "P=/usr/sbin/couriertcpd\nexec $P 25 x >/dev/null 2>&1 </dev/null &",
            ["/usr/sbin/couriertcpd", "25", "x"],
        ),
        ("sh -c \"couriertcpd 25 'a  b'\"", ["25", "a  b"]),
        ("X=25; eval couriertcpd '$X' x", ["25", "x"]),
        ("case $1 in\nstart) X=1; couriertcpd $X ;;\nesac", ["1"]),
        ("f() {\n X=1\n couriertcpd $X\n}\nf", ["1"]),
        ("if true; then X=1; else X=2; couriertcpd $X; fi", ["2"]),
        ("cat <<END\ncouriertcpd no\nEND\ncouriertcpd yes", ["yes"]),
        ('couriertcpd "-block=a,B,Go away"', ["-block=a,B,Go away"]),
        ("X=1; (X=2); couriertcpd $X", ["1"]),
        ("Y=$(sed -e 's/[()]/=/g' # it's\n); couriertcpd 1", ["1"]),
        ('Y="$(a "$(b ")")" \')\')"; couriertcpd 1', ["1"]),
    ],
)
def test_words_are_those_of_the_shell(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("couriertcpd $X", "X is not set in this script"),
        ("couriertcpd $(port)", "$(port) is known only at run time"),
        ("couriertcpd `port`", "`port` is known only at run time"),
        ("couriertcpd $((1 + 2))", "$((1 + 2)) is known only at run time"),
        ("couriertcpd $1", "$1 is known only at run time"),
        ("couriertcpd ${X%.dat}", "${X%.dat} is known only at run time"),
        ("X=$(port)\nY=-a$X\ncouriertcpd $Y", "$(port) is known only at run time"),
        ("if test -f x; then X=1; fi\ncouriertcpd $X", "X is set in a branch that ends at line 1"),
        (
            "test -f x && X=1\ncouriertcpd $X",
            "X is set at line 1, depending on the command before it",
        ),
        ("for X in 25 26; do couriertcpd $X; done", "X is the variable of a loop"),
        ("read X\ncouriertcpd $X", "X is set by read at line 1"),
        ("X=1\nX+=2\ncouriertcpd $X", "X is appended to with +=, which not every /bin/sh understands"),
        (
            "X=1\n. /missing\ncouriertcpd $X",
            "/missing, which is sourced, cannot be read: No such file or directory",
        ),
        (
            "X=1\n. $Y\ncouriertcpd $X",
            "a file is sourced whose name cannot be told: Y is not set in this script",
        ),
        (". /again", "files and commands are nested too deeply"),
        ("couriertcpd 'x", "the ' is not closed"),
        ("strace couriertcpd 25 x", "strace is not supported in front of couriertcpd"),
    ],
)
def test_what_cannot_be_told_is_said_and_not_guessed(text: str, why: str) -> None:
    (line,) = found(text)
    assert isinstance(line, script.UnreadLine)
    assert line.text == why


@pytest.mark.parametrize(
    "text", ["couriertcpd -pid=/x -stop", "killall couriertcpd", "# couriertcpd 25 x", "echo none", ""]
)
def test_what_starts_nothing_is_nothing(text: str) -> None:
    assert found(text) == []


def test_a_value_that_is_vouched_for_counts() -> None:
    assert words("X=$(port)\ncouriertcpd $X", X="25") == ["25"]


def test_the_state_of_the_shell_belongs_to_the_command() -> None:
    text = "umask 077\ncd /var\nulimit -v 1024\nulimit -S -n 64\nexport A=1 B\nset -a\n. /rc\nset +a\n"
    text += "C=3 couriertcpd 25 x"
    (line,) = found(text)

    assert isinstance(line, script.Line)
    assert line.line == 9
    assert line.settings == {"umask": "077", "directory": "/var", "rlimits": {"as": 1 << 20, "nofile": 64}}
    assert line.environment == {"A": "1", "C": "3"}
    assert line.sourced == ("/rc",)
    assert line.unclear == ("B is not set in this script",)


@settings(max_examples=300)
@given(
    st.lists(st.text(min_size=1).filter(lambda word: "\0" not in word and "\ue000" not in word), max_size=5)
)
def test_quoted_words_come_back(given_words: list[str]) -> None:
    assert words("couriertcpd " + shlex.join(given_words)) == given_words


@settings(max_examples=500)
@given(SHELL)
def test_any_text_is_read_to_its_end(text: str) -> None:
    for line in found(text):
        assert isinstance(line, script.Line | script.UnreadLine)


def test_lines_are_counted_through_everything() -> None:
    tokens = shell_words.tokens("a \\\n b\n'c\nd' e")
    assert [(token.line, Variables({}).fields(token)) for token in tokens
            if isinstance(token, Word)] == [
        (1, ["a"]), (2, ["b"]), (3, ["c\nd"]), (4, ["e"]),
    ]  # fmt: skip
