"""The schema in an editor: Taplo's and Tombi's language servers, and the entry for SchemaStore's catalog.

SchemaStore does not have the entry yet. So the catalog here is a file that has this one entry, whose URL is
that of the schema in the tree.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from support import markdown, peers
from support.running import daemons, languageservers

TOP = pathlib.Path(__file__).parents[3]
SCHEMA = TOP / "schemas/tcpdconf.schema.json"
ENTRY: dict[str, Any] = json.loads((TOP / "schemas/schemastore.json").read_text())
SERVER = TOP / "tests/support/taplo_server.cjs"
MODULES = os.environ.get("NODE_PATH", str(TOP / ".ci/venv/taplo/node_modules"))
TEXT = """{}
[services.imap]

[services.imap.limits]

"""
SERVICE, LIMITS = 2, 4  # lines of it, counted from 0, where something may be written

pytestmark = pytest.mark.peer


def bin_(program: str) -> str:
    """A program of this environment, or on PATH."""
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    found = shutil.which(program, path=path)
    peers.need(found or program)
    return str(found)


@pytest.fixture
def catalog(tmp_path: pathlib.Path) -> pathlib.Path:
    """A catalog with our entry alone."""
    path = tmp_path / "catalog.json"
    entry = {**ENTRY, "url": SCHEMA.as_uri()}
    schema = "https://json.schemastore.org/schema-catalog.json"  # by which Taplo knows what it is
    path.write_text(json.dumps({"$schema": schema, "version": 1, "schemas": [entry]}))
    return path


@pytest.fixture(params=[pytest.param("taplo", marks=pytest.mark.slow), "tombi"])  # in WebAssembly
def server(request: pytest.FixtureRequest) -> str:
    """A language server."""
    return str(request.param)


@pytest.fixture
def editor(server: str, tmp_path: pathlib.Path, catalog: pathlib.Path) -> Iterator[languageservers.Editor]:
    """An editor that knows the catalog; its workspace is the test's folder."""
    settings = {"schema": {"enabled": True, "catalogs": [catalog.as_uri()]}, "completion": {"maxKeys": 1}}
    configuration = f'[schema.catalog]\npaths = ["{catalog.as_uri()}"]\n'
    with started(server, tmp_path, settings, configuration) as found:
        yield found


def started(
    server: str, folder: pathlib.Path, settings: dict[str, Any], configuration: str
) -> languageservers.Editor:
    """An editor with a server: Taplo with these settings, or Tombi with this configuration."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder)}
    if server == "taplo":
        if not pathlib.Path(MODULES, "@taplo/lsp").exists():
            peers.without("@taplo/lsp: npm install --prefix .ci/venv/taplo @taplo/lsp@0.8.0")
        command = [bin_("node"), str(SERVER)]
        environment["NODE_PATH"] = MODULES
    else:
        command = [bin_("tombi"), "lsp", "--offline", "--no-cache"]
        (folder / "tombi.toml").write_text(configuration)
    return languageservers.Editor(command, folder, settings, environment)


def written(folder: pathlib.Path, name: str, first: str = "") -> pathlib.Path:
    """A file that somebody has begun to write."""
    path = folder / name
    path.parent.mkdir(parents=True)
    path.write_text(TEXT.format(first))
    return path


def test_keys_are_offered_in_a_file_that_names_the_schema(
    editor: languageservers.Editor, tmp_path: pathlib.Path
) -> None:
    path = written(tmp_path, "elsewhere/imap.toml", f"#:schema {SCHEMA.as_uri()}")
    opened(editor, path)
    offers(editor, path)


def test_keys_are_offered_in_conf_d_by_the_entry_of_the_catalog(
    editor: languageservers.Editor, tmp_path: pathlib.Path
) -> None:
    path = written(tmp_path, "etc/tcpdconf/conf.d/imap.toml")
    opened(editor, path)
    offers(editor, path)


def test_keys_are_offered_with_the_settings_of_the_how_to(server: str, tmp_path: pathlib.Path) -> None:
    page = TOP / "docs/how-to/editor.md"
    installed = "/opt/tcpdconf/share/tcpdconf/schemas/tcpdconf.schema.json"
    (associations,) = (block.text for block in markdown.blocks(page, "json"))
    (configuration,) = (block.text for block in markdown.blocks(page, "text"))
    assert installed in associations
    assert installed in configuration
    shown = json.loads("{" + associations.replace(installed, str(SCHEMA)) + "}")
    settings = {"schema": {"enabled": True, "associations": shown["evenBetterToml.schema.associations"]}}
    path = written(tmp_path, "etc/tcpdconf/conf.d/imap.toml")
    with started(server, tmp_path, settings, configuration.replace(installed, str(SCHEMA))) as editor:
        opened(editor, path)
        offers(editor, path)


def test_no_keys_are_offered_elsewhere(editor: languageservers.Editor, tmp_path: pathlib.Path) -> None:
    opened(editor, written(tmp_path, "etc/tcpdconf/conf.d/imap.toml"))
    path = written(tmp_path, "etc/other/conf.d/imap.toml")
    editor.open(path)
    assert "max_per_ip" not in editor.completions(path, LIMITS)


def opened(editor: languageservers.Editor, path: pathlib.Path) -> None:
    """Open a file, and wait until keys are offered: the servers read catalogs beside, and do not tell."""
    editor.open(path)
    daemons.until(lambda: editor.completions(path, SERVICE), "the schema")


def offers(editor: languageservers.Editor, path: pathlib.Path) -> None:
    """Look at what is offered in a service, and in its limits."""
    service = editor.completions(path, SERVICE)
    limits = editor.completions(path, LIMITS)

    assert {"program", "user", "listeners", "max_duration"} <= service.keys()
    assert "Program to start for each connection" in service["program"]
    assert {"max_connections", "max_per_ip", "warn_at"} <= limits.keys()
    assert "program" not in limits
    assert "Maximum number of connections at once from one address." in limits["max_per_ip"]


def test_a_mistake_is_marked(editor: languageservers.Editor, tmp_path: pathlib.Path) -> None:
    path = written(tmp_path, "etc/tcpdconf/conf.d/imap.toml")
    opened(editor, path)
    wrong = '[services.imap]\nprogram = ["/bin/cat"]\nlisteners = [{ port = 143 }]\nusre = "nobody"\n'

    def marked() -> list[dict[str, Any]]:
        editor.write(path, wrong)  # Tombi, which reads its configuration beside, may miss the first time
        editor.ask("textDocument/foldingRange", {"textDocument": {"uri": path.as_uri()}})
        return editor.marked.get(path.as_uri(), [])

    daemons.until(marked, "a mark")
    assert {each["range"]["start"]["line"] for each in marked()} <= {0, 3}
    assert "usre" in json.dumps(marked())


def test_the_entry_is_what_schemastore_wants() -> None:
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft7Validator.check_schema(schema)

    assert schema["$id"] == "https://json.schemastore.org/tcpdconf.json"
    assert ENTRY["url"] == "https://www.schemastore.org/tcpdconf.json"
    assert set(ENTRY) == {"name", "description", "fileMatch", "url"}
    assert len(ENTRY["description"]) <= 120
    assert "schema" not in ENTRY["description"].lower()  # its own checks refuse that word


def test_taplo_would_not_format_the_shipped_files_differently() -> None:
    shipped = [
        *(TOP / "conf.d").glob("*.toml"),
        *(TOP / "deploy/kubernetes/conf.d").glob("*.toml"),
        *(TOP / "packaging/image").glob("*.toml"),
    ]
    command = [bin_("taplo"), "format", "--no-auto-config", "--check", "--diff", *map(str, shipped)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert len(shipped) > 7
    assert done.returncode == 0, done.stdout
