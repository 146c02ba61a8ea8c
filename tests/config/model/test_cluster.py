"""[cluster]: where an engine is, and what is said of it."""

import pathlib

import pytest

from tcpdconf.config import problems
from tcpdconf.config.load import load
from tcpdconf.config.model import values

SERVICE = """[services.smtp]
program = ["/bin/cat"]
user = "nobody"
listeners = [{ address = "127.0.0.1", port = 4999 }]
[services.smtp.limits]
scope = "cluster"
"""


def found(tmp_path: pathlib.Path, cluster: str) -> list[str]:
    """The problems of a configuration, with their hints."""
    (tmp_path / "a.toml").write_text(cluster + SERVICE)
    try:
        told = load.load(tmp_path).warnings
    except problems.ConfigError as error:
        told = error.problems
    return [f"{each.key}: {each.text}" for each in told]


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("redis://192.0.2.10", "redis://192.0.2.10:6379/0"),
        ("rediss://192.0.2.10:7000/3", "rediss://192.0.2.10:7000/3"),
        ("redis://[2001:db8::1]", "redis://[2001:db8::1]:6379/0"),
        ("rediss://Engine.example:6380/", "rediss://engine.example:6380/0"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("unix:///run/redis.sock?db=2", "unix:///run/redis.sock?db=2"),
    ],
)
def test_a_url_is_written_as_it_is_meant(text: str, same: str) -> None:
    url = values.engine_url(text)
    assert str(url) == same
    assert values.engine_url(same) == url


@pytest.mark.parametrize(
    "text",
    [
        "", "192.0.2.10", "redis:192.0.2.10", "redis://", "redis://192.0.2.10:0", "redis://192.0.2.10:65536",
        "redis://192.0.2.999", "redis://[::1", "redis://[::g]", "redis://a/b", "redis://a?db=1", "unix://run",
        "unix:///", "unix:///run/", "http://a", "redis://a_b-", "redis://" + "a" * 300,
        "unix:///" + "a" * 200, "redis://a/99999", 7, None, True, ["redis://a"],
    ],
)  # fmt: skip
def test_a_wrong_url(text: object) -> None:
    with pytest.raises(ValueError, match="must "):
        values.engine_url(text)


def test_a_password_belongs_into_a_file(tmp_path: pathlib.Path) -> None:
    (said,) = found(tmp_path, '[cluster]\nurl = "redis://a:b@127.0.0.1"\n')
    assert said == "cluster.url: must have no user and password"


def test_without_the_module(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    (said,) = found(tmp_path, '[cluster]\nurl = "redis://127.0.0.1"\n')
    assert said == "cluster: needs the Python module hiredis, which is not installed"


def test_files_and_user_are_looked_for(tmp_path: pathlib.Path) -> None:
    text = '[cluster]\nurl = "rediss://127.0.0.1"\nuser = "no-such-user"\npassword_file = "/nowhere/secret"\n'
    said = found(tmp_path, text)
    assert said == [
        'cluster.user: unknown user "no-such-user"',
        "cluster.password_file: cannot read /nowhere/secret: No such file or directory",
    ]


def test_an_engine_that_others_can_listen_to(tmp_path: pathlib.Path) -> None:
    for url in ("rediss://192.0.2.1", "redis://127.0.0.1", "redis://localhost", "unix:///run/redis.sock"):
        assert found(tmp_path, f'[cluster]\nurl = "{url}"\n') == []
    (said,) = found(tmp_path, '[cluster]\nurl = "redis://192.0.2.1"\n')
    assert "others on the network can read the password" in said


def test_a_limit_above_the_slots_of_one_host(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.toml").write_text(
        '[cluster]\nurl = "redis://127.0.0.1"\n' + SERVICE + "max_per_ip = 200\n"
    )
    assert load.load(tmp_path).warnings == ()  # two hosts have more slots than one


def test_scope_needs_an_engine(tmp_path: pathlib.Path) -> None:
    (said,) = found(tmp_path, "")
    assert said == 'services.smtp.limits.scope: is "cluster", but there is no [cluster]'
