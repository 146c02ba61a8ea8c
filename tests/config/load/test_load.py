import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from tcpdconf.config import problems
from tcpdconf.config.load import load, merge
from tcpdconf.config.load.source import SourceFile
from tcpdconf.config.model import tables
from tcpdconf.config.model.service import Daemon, ServiceSettings, Settings

SERVICE = """\
[services.{name}]
program = ["/bin/cat"]
user = "nobody"

[[services.{name}.listeners]]
address = "127.0.0.1"
port = {port}
"""


def write(directory: Path, **files: str | bytes) -> Path:
    for name, content in files.items():
        path = directory / f"{name.replace('_', '-')}.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return directory


def service(name: str = "a", port: int = 5000, rest: str = "") -> str:
    return SERVICE.format(name=name, port=port) + rest


def told(directory: Path, **replace: str) -> list[str]:
    """Every problem of a directory, one a line, without the directory's path."""
    with pytest.raises(problems.ConfigError) as error:
        load.load(directory, {str(directory / name): path for name, path in replace.items()})
    return [str(problem).replace(f"{directory}/", "") for problem in error.value.problems]


def test_services_come_in_the_byte_order_of_their_files(tmp_path: Path) -> None:
    write(tmp_path, b=service("b", 5002), a=service("a", 5001), B=service("c", 5003), é=service("d", 5004))

    loaded = load.load(tmp_path)

    assert list(loaded.config.services) == ["c", "a", "b", "d"]
    assert [Path(file).name for file in loaded.files] == ["B.toml", "a.toml", "b.toml", "é.toml"]
    assert loaded.warnings == ()


@pytest.mark.parametrize("name", [".hidden.toml", "#a.toml#", "#a.toml", "a.toml~", "a.toml.bak", "a.TOML"])
def test_other_files_are_ignored(tmp_path: Path, name: str) -> None:
    write(tmp_path, a=service())
    (tmp_path / name).write_text("no toml")

    assert len(load.load(tmp_path).files) == 1


def test_what_cannot_be_read_is_a_problem_beside_the_others(tmp_path: Path) -> None:
    write(tmp_path, b=service(rest="colour = 1\n"), d=b'a = "h\xc3\xa9"\nb = "\xc3\xa9\xff"\n')
    (tmp_path / "a.toml").mkdir()
    (tmp_path / "c.toml").symlink_to("nowhere")
    os.mkfifo(tmp_path / "e.toml")

    assert told(tmp_path) == [
        "a.toml: error: cannot read: Is a directory",
        "b.toml:8:1: error: services.a.listeners[0].colour: unknown key",
        "c.toml: error: cannot read: No such file or directory",
        "d.toml:2:7: error: is not UTF-8: byte 0xff",
        "e.toml: error: cannot read: Not a regular file",
    ]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("missing", "cannot read: No such file or directory"),
        ("file.txt", "cannot read: Not a directory"),
        ("empty", "has no file whose name ends in .toml"),
        ("off", "has no enabled service"),
    ],
)
def test_a_directory_without_a_service_to_run_is_a_problem(tmp_path: Path, path: str, text: str) -> None:
    (tmp_path / "file.txt").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "off").mkdir()
    write(tmp_path / "off", a="[defaults]\nenabled = false\n" + service())

    assert told(tmp_path / path) == [f"{tmp_path / path}: error: {text}"]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[defaults]\nenabled = false\n" + service(), "set enabled = true for one of them"),
        ("[defaults]\n", "describe one under [services.NAME]"),
    ],
    ids=["disabled", "none"],
)
def test_the_advice_for_no_service_is_a_service(tmp_path: Path, text: str, hint: str) -> None:
    write(tmp_path, a=text)
    with pytest.raises(problems.ConfigError) as error:
        load.load(tmp_path)
    assert [problem.hint for problem in error.value.problems] == [hint]


def test_a_byte_order_mark_and_carriage_returns_are_no_problem(tmp_path: Path) -> None:
    write(tmp_path, a=b"\xef\xbb\xbf" + service().replace("\n", "\r\n").encode())

    assert list(load.load(tmp_path).config.services) == ["a"]


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 5000 + "]" * 5000,
        "a = " + "{a=" * 5000 + "1" + "}" * 5000,
        "a = " + "9" * 5000,
        "[" + ".".join("a" * 5000) + "]\nb = 1\n[defaults." + ".".join("a" * 5000) + "]",
        "[services.a" + ".x" * 3000 + "]\n[defaults" + ".x" * 3000 + "]",
        "a = 0x" + "f" * 5000,
        "[services.a.limits]\nmax_per_ip = 0x" + "f" * 5000,
        "[dns]\ntimeout = 0x" + "f" * 5000,
        "\0",
        "",
    ],
    ids=range(10),
)
def test_monstrous_files_are_problems_too(tmp_path: Path, text: str) -> None:
    assert told(write(tmp_path, a=text))


def test_a_candidate_stands_in_for_a_file(tmp_path: Path) -> None:
    conf = tmp_path / "conf.d"
    conf.mkdir()
    write(conf, a=service("a", 5001), c=service("c", 5003, "colour = 1\n"))
    candidate = tmp_path / "candidate.tmp"
    candidate.write_text(service("c", 5001))
    new = tmp_path / "new"
    new.write_text(service("b", 5002))

    loaded = load.load(conf, {str(conf / "c.toml"): str(new)})

    assert list(loaded.config.services) == ["a", "b"]
    assert loaded.files == (str(conf / "a.toml"), str(new))
    assert load.load(conf, {f"{conf}/../conf.d/c.toml": str(new)}).config == loaded.config
    with pytest.raises(problems.ConfigError) as error:
        load.load(conf, {str(conf / "c.toml"): str(new), str(conf / "b.toml"): str(candidate)})
    assert str(error.value) == (
        f"{candidate}:7:8: error: services.c.listeners[0].port: 127.0.0.1:5001 is taken by services.a, "
        f"which listens on 127.0.0.1:5001 at {conf}/a.toml:7:8"
    )


def test_a_candidate_may_come_through_a_pipe(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, service().encode())
    os.close(writing)
    loaded = load.load(tmp_path, {str(tmp_path / "a.toml"): f"/dev/fd/{reading}"})
    os.close(reading)

    assert loaded.files == (f"/dev/fd/{reading}",)


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("../a.toml", "it is not in this directory"),
        ("a.conf", "files of this name are ignored"),
        (".a.toml", "files of this name are ignored"),
    ],
)
def test_only_a_file_that_counts_can_be_replaced(tmp_path: Path, target: str, text: str) -> None:
    with pytest.raises(problems.ConfigError, match=text):
        load.load(write(tmp_path, a=service()), {f"{tmp_path}/{target}": "/dev/null"})


def test_defaults_of_all_files_fill_in_what_a_service_leaves_out(tmp_path: Path) -> None:
    write(
        tmp_path,
        a="""
            [defaults]
            deny_message = "first"
            umask = "027"
            drop = ["A"]
            environment = { X = "a", Y = "a" }
            [defaults.limits]
            max_per_ip = 4
            network = { ipv4 = 16 }
            [[defaults.access]]
            rules = [{ network = "10.0.0.0/8", action = "allow" }]
        """,
        b=service("one", 5001) + service("two", 5002, "[services.two.limits]\nnetwork.ipv6 = 48\n")
        + '[services.two.environment]\nY = "two"\nZ = "two"\n'
        + service("three", 5003, "[services.three]\n").replace("[services.three]\n", "", 1).replace(
            "program", "[services.three]\ndrop = []\nprogram", 1
        ).removesuffix("[services.three]\n"),
        c="""
            [defaults]
            deny_message = "later"
            drop = ["B", "C"]
            [defaults.environment]
            Y = "c"
            [[defaults.access]]
            rules = [{ network = "*", action = "deny" }]
        """,
    )  # fmt: skip

    loaded = load.load(tmp_path)
    one, two, three = (loaded.config.services[name] for name in ("one", "two", "three"))

    assert (one.deny_message, one.umask, one.drop) == ("later", 0o027, ("A", "B", "C"))
    assert one.environment == {"X": "a", "Y": "c"}
    assert two.environment == {"X": "a", "Y": "two", "Z": "two"}
    assert (two.limits.max_per_ip, two.limits.network.ipv4, two.limits.network.ipv6) == (4, 16, 48)
    assert three.drop == ()
    assert [source.rules[0].action for source in one.access if source.rules] == ["allow", "deny"]

    origins = {
        ("services", "one", "deny_message"): "c.toml:3",
        ("services", "one", "drop", 0): "a.toml:5",
        ("services", "one", "drop", 2): "c.toml:4",
        ("services", "one", "environment", "X"): "a.toml:6",
        ("services", "one", "environment", "Y"): "c.toml:6",
        ("services", "one", "access", 1, "rules", 0, "action"): "c.toml:8",
        ("services", "one", "limits", "warn_at"): "default",
        ("services", "two", "environment", "Y"): "b.toml:18",
        ("services", "two", "limits", "network", "ipv6"): "b.toml:16",
        ("services", "two", "limits", "network", "ipv4"): "a.toml:9",
        ("daemon", "log_level"): "default",
    }
    assert {key: loaded.comment(key).replace(f"{tmp_path}/", "") for key in origins} == origins


def test_a_stderr_of_its_own_kind_takes_nothing_from_the_defaults(tmp_path: Path) -> None:
    defaults = '[defaults]\nstderr = { logger = ["/usr/bin/logger"] }\n'
    own = "[services.{0}.stderr]\n{1}\n"
    write(
        tmp_path,
        a=defaults
        + service("file", 5001, own.format("file", 'file = "/var/log/file"'))
        + service("name", 5002, own.format("name", 'name = "mine"')),
    )

    loaded = load.load(tmp_path)
    file, name = (loaded.config.services[key].stderr for key in ("file", "name"))

    assert getattr(file, "file", None) == "/var/log/file"
    assert (getattr(name, "logger", None), getattr(name, "name", None)) == (("/usr/bin/logger",), "mine")
    assert loaded.origin(("services", "name", "stderr", "logger")) == (str(tmp_path / "a.toml"), 2)
    assert loaded.origin(("services", "file", "stderr", "logger")) is None


def test_a_wrong_default_is_one_problem_for_all_services(tmp_path: Path) -> None:
    write(
        tmp_path,
        a="[defaults]\ndeny_message = 5\nprgram = []\n[defaults.limits]\nwarn_at = 50\n",
        b=service("a", 5001) + service("b", 5002),
    )

    assert told(tmp_path) == [
        "a.toml:2:16: error: defaults.deny_message: must be a string, not a whole number (5)",
        "a.toml:3:1: error: defaults.prgram: unknown key",
        "a.toml:5:11: error: services.a.limits.warn_at: must be at most max_connections (40), not 50",
    ]


def test_what_the_defaults_complete_is_no_problem_as_written(tmp_path: Path) -> None:
    write(
        tmp_path,
        a="[defaults.limits]\nwarn_at = 50\n",
        b=service(rest="[services.a.limits]\nmax_connections = 60\n"),
    )

    assert load.load(tmp_path).config.services["a"].limits.warn_at == 50


@pytest.mark.parametrize("lost", ["[defaults]\ncommon =", b"[defaults]\n\xff"], ids=["syntax", "encoding"])
def test_what_an_unreadable_file_may_hold_is_not_missed(tmp_path: Path, lost: str | bytes) -> None:
    bare = "[services.a]\n[services.b]\ndns_lists = ['common']\n"
    chain = b"#[dns_chains.common]\n"
    write(tmp_path, a=bare, b=chain + (lost if isinstance(lost, bytes) else lost.encode()))

    (problem,) = told(tmp_path)

    assert problem.startswith("b.toml:3:")


def test_a_misspelt_key_is_not_missed_as_well(tmp_path: Path) -> None:
    write(tmp_path, a='[services.a]\nprogramm = ["/bin/cat"]\n[[services.a.listener]]\nport = 25\n')

    assert told(tmp_path) == [
        "a.toml:2:1: error: services.a.programm: unknown key",
        "a.toml:3:14: error: services.a.listener: unknown key",
    ]


def test_problems_of_the_host_are_found_beside_wrong_values(tmp_path: Path) -> None:
    write(tmp_path, a=service(rest="[services.a.limits]\nmax_per_ip = 0\n").replace("nobody", "nobdoy"))

    assert told(tmp_path) == [
        'a.toml:3:8: error: services.a.user: unknown user "nobdoy"',
        "a.toml:9:14: error: services.a.limits.max_per_ip: must be at least 1, not 0",
    ]


def test_a_problem_is_placed_in_the_effective_configuration(tmp_path: Path) -> None:
    write(tmp_path, a="[defaults.limits]\nmax_per_ip = 4\n", b=service())
    loaded = load.load(tmp_path)

    def place(*key: str | int) -> tuple[str, int, int]:
        problem = loaded.problem(key, "is wrong", "wrong-value")
        return Path(problem.file).name, problem.line, problem.column

    assert place("services", "a", "limits", "max_per_ip") == ("a.toml", 2, 14)
    assert place("services", "a", "limits", "rate") == ("a.toml", 1, 1)
    assert place("services", "a", "listeners", 0, "port") == ("b.toml", 7, 8)
    assert place("services", "a", "listeners", 0, "haproxy", "timeout") == ("b.toml", 5, 1)
    assert place("services", "a", "listeners", 7) == ("b.toml", 5, 1)
    assert place("services", "a", "umask") == ("b.toml", 1, 1)
    assert place("services", "b") == ("b.toml", 1, 2)
    assert place("dns", "timeout") == (tmp_path.name, 0, 0)
    assert place("daemon") == (tmp_path.name, 0, 0)


# every key that the models know, and a few that they do not
KEYS = sorted(
    {
        key
        for table in (
            Settings, ServiceSettings, Daemon,
            *(value for value in vars(tables).values() if hasattr(value, "model_fields")),
        )
        for key in table.model_fields
    }
    | {"as", "x", "", "<word>", "[key]", "a b", "é\n", "limit", "BLOCK"}
)  # fmt: skip
VALUES = [
    0, 1, -1, 25, 10**30, 1.5, float("inf"), float("nan"), True, False, "", "x", "25", "smtp", "allow", "any",
    "127.0.0.1", "::/0", "*", "/etc/passwd", "30/min", "022", "a\0b", "\x1b[31m", "é" * 99, "<list>",
    "socket",
]  # fmt: skip
scalars = st.sampled_from(VALUES) | st.dates() | st.datetimes() | st.times()
nested = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)
listener = st.fixed_dictionaries({"port": nested}, optional={"address": nested, "haproxy": nested})
likely_service = st.fixed_dictionaries(
    {
        "program": st.just(["/bin/cat"]) | nested,
        "listeners": st.lists(listener | nested, max_size=3) | nested,
    },
    optional={key: nested for key in ServiceSettings.model_fields if key not in {"program", "listeners"}},
)
files = st.fixed_dictionaries(
    {},
    optional={
        "services": st.dictionaries(st.sampled_from(["a", "b", *KEYS]), likely_service | nested, max_size=3),
        "defaults": likely_service | nested,
        "dns": nested,
        "dns_chains": nested,
        "daemon": nested,
        "x": nested,
    },
)


def everything_told(directory: str) -> tuple[problems.Problem, ...]:
    try:
        return load.load(directory).warnings
    except problems.ConfigError as error:
        return error.problems


@settings(max_examples=150, deadline=None)
@given(st.lists(files, min_size=1, max_size=3))
def test_any_toml_is_a_configuration_or_problems_in_our_words(contents: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        for number, content in enumerate(contents):
            Path(directory, f"{number}.toml").write_text(tomli_w.dumps(content), encoding="utf-8")
        found = everything_told(directory)

    text = problems.render(found) + problems.render(found, "github")
    assert [word for word in ("Input should", "pydantic", "is not valid") if word in text] == []


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                *service().splitlines(), "[services.a.limits]", "[[services.b.listeners]]", "max_per_ip = 4",
                "]", "[", '"', '"""', "=", "a = {", "a.b = 1", "a = 1", "[a]", "[[a]]", "\0", "é = 'x", "'''",
                "# x", "x = [1,", "x = 1979-05-27", "\\", "[a.b]", "a.b.c = true", '"a" = """x', "\u2028",
                "\t",
            ]
        ),
        max_size=8,
    )
)  # fmt: skip
def test_any_text_is_a_configuration_or_problems(lines: list[str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "a.toml").write_text("\n".join(lines), encoding="utf-8")
        found = everything_told(directory)

    assert found
    assert problems.render(found).count("\n") >= len(found)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["stderr", "limits", "drop", "x"]),
            st.recursive(
                st.integers(0, 9),
                lambda inner: (
                    st.lists(inner, max_size=2)
                    | st.dictionaries(st.sampled_from(["file", "logger", "name", "y"]), inner, max_size=2)
                ),
                max_leaves=5,
            ),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_merging_and_locating_agree(contents: list[dict[str, Any]]) -> None:
    """Each leaf of an effective service is what stands at the place where it is said to be written."""
    own, *defaults = contents
    found = [SourceFile(f"{n}.toml", "", {"defaults": table}) for n, table in enumerate(defaults)]
    found.append(SourceFile("own.toml", "", {"services": {"s": own}}))
    written = merge.Merged(found)
    ((_, effective),) = written.services()

    def leaves(value: Any, key: tuple[str | int, ...]) -> None:  # noqa: ANN401 (TOML)
        if isinstance(value, dict | list):
            for part, item in value.items() if isinstance(value, dict) else enumerate(value):
                leaves(item, (*key, part))
            return
        place = written.locate(("services", "s", *key))
        assert place is not None
        layer, exact = place
        here: Any = layer.source.data
        for part in layer.key:
            here = here[part]
        assert (exact, layer.value, here) == (True, value, value)

    leaves(effective, ())
