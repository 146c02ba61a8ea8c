"""The time of day may jump: it is shown, and compared with that of files, and nothing else depends on it."""

import ast
import pathlib

import tcpdconf

PACKAGE = pathlib.Path(tcpdconf.__file__).parent
# Where the time of day is read: for `at`, `since` and `loaded_at`, for what is shown to people, as the moment
# at which files were read, which the watcher compares with their own times, and for bans and passes, which
# outlive the host's uptime.
TIME_OF_DAY = {
    "cli/guard.py", "cli/talk.py", "daemon/cluster/client.py", "daemon/guard/bans.py",
    "daemon/guard/passes.py",
    "daemon/http/answers.py", "daemon/process/logs/lines.py",
    "daemon/supervisor/guard.py", "daemon/worker/connections.py",
    "config/file_signature.py", "daemon/supervisor/commands.py", "daemon/supervisor/main.py",
    "daemon/supervisor/reload/preview.py", "daemon/supervisor/reload/queue.py", "daemon/watch/client.py",
}  # fmt: skip
NAMES = {"time", "time_ns", "localtime", "gmtime", "ctime", "asctime", "CLOCK_REALTIME", "CLOCK_TAI"}


def readers(tree: ast.AST) -> bool:
    """Return whether a module calls for the time of day."""
    return any(
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "time"
        and node.attr in NAMES - {"localtime"}  # which is given what to show
        for node in ast.walk(tree)
    ) or any(
        isinstance(node, ast.ImportFrom | ast.Import) and any(name.name == "datetime" for name in node.names)
        for node in ast.walk(tree)
    )


def test_who_reads_the_time_of_day() -> None:
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if readers(ast.parse(path.read_bytes()))
    }

    assert found == TIME_OF_DAY
