"""Language servers of editors, spoken to as an editor does: JSON-RPC over their standard input and output."""

import contextlib
import json
import pathlib
import subprocess
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

_WAITED: Final = 20.0


class Editor:
    """An editor with one workspace, from entering to leaving; `settings` is what it answers when asked."""

    def __init__(
        self,
        command: Sequence[str],
        workspace: pathlib.Path,
        settings: Mapping[str, Any],
        environment: Mapping[str, str],
    ) -> None:
        self._command = command
        self._workspace = workspace
        self._settings = settings
        self._environment = environment
        self._requests = 0
        self._changes = 1
        self.marked: dict[str, list[dict[str, Any]]] = {}  # what the server finds wrong, by a file's URI

    def __enter__(self) -> Self:
        with (self._workspace / "stderr").open("wb") as stderr:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._workspace,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        root = self._workspace.as_uri()
        self.ask(
            "initialize",
            {
                "processId": None,
                "rootUri": root,
                "workspaceFolders": [{"uri": root, "name": "test"}],
                "capabilities": {"workspace": {"configuration": True, "workspaceFolders": True}},
            },
        )
        self.tell("initialized", {})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.ask("shutdown", None)
                self.tell("exit", None)
        finally:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            try:
                self._process.wait(_WAITED)
            finally:
                self._process.kill()
                self._process.wait()
                self._process.stdout.close()

    def open(self, path: pathlib.Path) -> None:
        """Open a file, as a user does."""
        document = {"uri": path.as_uri(), "languageId": "toml", "version": 1, "text": path.read_text()}
        self.tell("textDocument/didOpen", {"textDocument": document})

    def write(self, path: pathlib.Path, text: str) -> None:
        """Write something else into an open file, and save it."""
        path.write_text(text)
        self._changes += 1
        document = {"uri": path.as_uri(), "version": self._changes}
        self.tell("textDocument/didChange", {"textDocument": document, "contentChanges": [{"text": text}]})
        self.tell("textDocument/didSave", {"textDocument": {"uri": path.as_uri()}, "text": text})

    def completions(self, path: pathlib.Path, line: int) -> dict[str, str]:
        """Return the completions at the start of a line (counted from 0): words with the texts about them."""
        where = {"textDocument": {"uri": path.as_uri()}, "position": {"line": line, "character": 0}}
        found = self.ask("textDocument/completion", where) or []
        items = found["items"] if isinstance(found, dict) else found
        return {item["label"]: item.get("documentation", {}).get("value", "") for item in items}

    def ask(self, method: str, params: object) -> Any:  # noqa: ANN401 (JSON)
        """Send a request; its result, after whatever the server asks and says meanwhile."""
        self._requests += 1
        self._write({"id": self._requests, "method": method, "params": params})
        while True:
            message = self._read()
            if "method" not in message and message.get("id") == self._requests:
                assert "error" not in message, message
                return message["result"]
            self._take(message)

    def tell(self, method: str, params: object) -> None:
        """Send a notification."""
        self._write({"method": method, "params": params})

    def _take(self, message: dict[str, Any]) -> None:
        if message["method"] == "textDocument/publishDiagnostics":
            self.marked[message["params"]["uri"]] = message["params"]["diagnostics"]
        if "id" not in message:
            return
        result: object = None
        if message["method"] == "workspace/configuration":
            result = [self._settings for _ in message["params"]["items"]]
        self._write({"id": message["id"], "result": result})

    def _write(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self._process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        length = 0
        while line := self._process.stdout.readline():
            if line == b"\r\n":
                found: dict[str, Any] = json.loads(self._process.stdout.read(length))
                return found
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        raise AssertionError((self._workspace / "stderr").read_text())
