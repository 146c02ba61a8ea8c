"""The data file of DNS lists by name, and what a preset becomes in a configuration."""

import datetime as dt
import pathlib
import urllib.parse
from typing import Any

import pytest

from tcpdconf.cli import main
from tcpdconf.config import problems, render
from tcpdconf.config.load import load
from tcpdconf.config.model import answerfilter, presets
from tcpdconf.config.model.dns import DnsList

KEY_FILE = "/etc/tcpdconf/dqs.key"
NAMES = [
    "spamhaus-zen", "spamhaus-zen-dqs", "spamhaus-authbl", "dnswl",
    "uceprotect-1", "barracuda", "spamcop", "psbl",
]  # fmt: skip


def written(name: str, **keys: Any) -> dict[str, Any]:  # noqa: ANN401 (TOML gives any type)
    """The least that a list with a preset needs, and further keys."""
    key = {"key_file": KEY_FILE} if presets.needs_key(name) else {}
    return {"preset": name, **key, **keys}


def config(folder: pathlib.Path, lists: str) -> pathlib.Path:
    text = f"""[services.smtp]
program = ["/bin/cat"]
user = "nobody"
listeners = [{{ address = "127.0.0.1", port = 4999 }}]
dns_lists = [{lists}]
"""
    (folder / "a.toml").write_text(text)
    return folder


def test_the_presets_are_those_of_the_reference() -> None:
    assert list(presets.known()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_complete_and_valid(name: str) -> None:
    preset = presets.known()[name]
    made = DnsList.model_validate(written(name))

    assert preset.keys() - {"needs_key", "codes"} == {"about", "terms", "sources", "checked", "settings"}
    assert preset["settings"].keys() <= {"zone", "action", "match", "message", "probe"}
    assert (made.zone, made.message is None) == (preset["settings"]["zone"], made.action == "allow")
    assert preset["about"]
    assert preset["terms"].endswith(".")
    assert preset["terms"].count(". ") == 0
    assert preset["sources"]
    assert all(urllib.parse.urlsplit(url).scheme in {"http", "https"} for url in preset["sources"])
    assert isinstance(preset["checked"], dt.date)


@pytest.mark.parametrize("name", NAMES)
def test_the_answers_that_count_are_the_documented_ones(name: str) -> None:
    preset = presets.known()[name]

    def addresses(written: list[str]) -> set[tuple[int, ...]]:
        filters = [answerfilter.read(text) for text in written]
        return {
            (a, b, c, d)
            for each in filters
            for a in each[0]
            for b in each[1]
            for c in each[2]
            for d in each[3]
        }

    assert addresses(preset["settings"].get("match", [])) == addresses(list(preset.get("codes", {})))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_shown_of_a_preset_loads_again(name: str, tmp_path: pathlib.Path) -> None:
    lists = ", ".join(f"{key} = {render.literal(value)}" for key, value in written(name).items())
    first = load.load(config(tmp_path, f"{{ {lists} }}")).config
    (tmp_path / "a.toml").write_text(render.toml(render.data(first)))

    assert load.load(tmp_path).config == first


@pytest.mark.parametrize(
    ("keys", "becomes"),
    [
        ({"message": "mine"}, {"message": "mine", "zone": "psbl.surriel.com"}),
        ({"zone": "mirror.example"}, {"zone": "mirror.example"}),
        ({"zone_file": "/z", "display_zone": "ours"}, {"zone": None, "zone_file": "/z"}),
        ({"action": "allow"}, {"action": "allow", "message": None}),
        ({"match": []}, {"match": ()}),
        ({"zone": "d.example", "key_file": "/k"}, {"zone": "d.example", "key_file": "/k"}),
    ],
)
def test_keys_of_the_list_override_the_preset(keys: dict[str, Any], becomes: dict[str, Any]) -> None:
    made = DnsList.model_validate(written("psbl", **keys)).model_dump()

    assert {key: made[key] for key in becomes} == becomes


@pytest.mark.parametrize(
    ("lists", "said", "code", "hint"),
    [
        (
            '{ preset = "spamhaus-zn" }',
            'dns_lists[0].preset: there is no preset "spamhaus-zn"', "unknown-preset",
            'did you mean "spamhaus-zen"?',
        ),
        (
            '{ preset = "qqq" }',
            'dns_lists[0].preset: there is no preset "qqq"', "unknown-preset",
            "known presets: " + ", ".join(NAMES),
        ),
        (
            "{ preset = 3 }",
            "dns_lists[0].preset: must be the name of a preset, not a whole number (3)", "wrong-type", None,
        ),
        (
            '{ preset = "spamhaus-authbl" }',
            "dns_lists[0].key_file: must be set for the preset spamhaus-authbl", "missing-key",
            'for example: key_file = "/etc/tcpdconf/dqs.key"',
        ),
        (
            '{ preset = "spamhaus-zen", key_file = "/k" }',
            "dns_lists[0].key_file: does not go with the preset spamhaus-zen, whose zone has no key",
            "wrong-place", 'write preset = "spamhaus-zen-dqs"',
        ),
        (
            '{ zone_file = "/z", display_zone = "z", key_file = "/k" }',
            "dns_lists[0].key_file: goes with zone, not with zone_file", "conflict", None,
        ),
    ],
)  # fmt: skip
def test_a_wrong_preset_is_a_problem_at_its_place(
    tmp_path: pathlib.Path, lists: str, said: str, code: str, hint: str | None
) -> None:
    with pytest.raises(problems.ConfigError) as caught:
        load.load(config(tmp_path, lists))
    (found,) = caught.value.problems

    assert f"{found.key}: {found.text}" == f"services.smtp.{said}"
    assert (found.line, found.code, found.hint) == (5, code, hint)


def test_show_names_the_preset_beside_its_values(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = config(tmp_path, f'{{ preset = "spamhaus-authbl", key_file = "{KEY_FILE}", message = "no" }}')
    assert main.main(["show", "--origin", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()

    assert 'zone = "authbl.dq.spamhaus.net"  # preset spamhaus-authbl' in lines
    assert 'match = ["127.0.0.20"]  # preset spamhaus-authbl' in lines
    assert f'message = "no"  # {folder}/a.toml:5' in lines
    assert "txt = false  # default" in lines
