"""The codes of problems: all that are emitted are in the table, all in the table are emitted, as it shows."""

import ast
import pathlib
from collections.abc import Iterator
from typing import get_args

import pytest
from support.courier import gdbmfiles

from tcpdconf.cli import check as checks
from tcpdconf.config import codes, problems
from tcpdconf.config.load import load
from tcpdconf.daemon import capacity

TOP = pathlib.Path(__file__).parent.parent.parent
GOOD = """[services.smtp]
program = ["/bin/cat"]
listeners = [{ address = "127.0.0.1", port = 4999 }]
"""
CHAIN = '[dns_chains.spam]\nlists = [{ zone = "a.example" }]\n'
SMTP = '[services.smtp]\nprogram = ["/bin/cat"]\n'
LISTENING = 'listeners = [{ address = "127.0.0.1", port = 4999 }]\n'

# files of conf.d by their names, that have a problem with the code
FILES: dict[codes.Code, dict[str, str | bytes]] = {
    "above-host-limit": {"smtp": GOOD + "[services.smtp.limits]\nmax_connections = 50000\n"},
    "conflict": {"smtp": GOOD + "[services.smtp.limits]\nmax_connections = 10\nwarn_at = 20\n"},
    "duplicate-chain": {"10": CHAIN, "20": CHAIN},
    "duplicate-key": {"smtp": '[services.smtp]\nprogram = ["/bin/cat"]\nuser = "nobody"\nuser = "mail"\n'},
    "duplicate-listener": {
        "10": '[services.a]\nprogram = ["/bin/cat"]\nlisteners = [{ port = 4999 }]\n',
        "20": f'[services.b]\nprogram = ["/bin/cat"]\n{LISTENING}',
    },
    "duplicate-rule": {
        "smtp": GOOD + '[[services.smtp.access]]\nrules = [\n  { network = "192.0.2.1", action = "deny" },\n'
        '  { network = "192.0.2.1", action = "allow" },\n]\n'
    },
    "client-speaks-first": {
        "imap": '[services.imap]\nprogram = ["/bin/cat"]\nearly_talker = {}\n'
        "listeners = [\n    { port = 143 },\n    { port = 993 },\n]\n"
    },
    "duplicate-service": {"10": GOOD, "20": GOOD},
    "encoding": {"smtp": (SMTP + 'deny_message = "').encode() + b'\xe4"\n'},
    "ignored-file": {"smtp": GOOD, "imap.conf": ""},
    "ignored-set-user-id": {
        "smtp": '[services.smtp]\nprogram = ["{folder}/helper"]\n' + LISTENING + "no_new_privileges = true\n"
    },
    "limits-nobody": {"smtp": GOOD + "[services.smtp.limits]\nmax_connections = 40\nmax_per_ip = 50\n"},
    "missing-file": {"smtp": GOOD + '[[services.smtp.access]]\nfile = "/nowhere/smtpaccess"\n'},
    "missing-key": {"smtp": "[services.smtp]\n" + LISTENING},
    "missing-program": {"smtp": '[services.smtp]\nprogram = ["/nowhere/courieresmtpd"]\n' + LISTENING},
    "no-files": {},
    "no-limit-per-address": {"smtp": SMTP + "listeners = [{ port = 4999 }]\n"},
    "no-service": {"smtp": GOOD + "enabled = false\n"},
    "odd-records": {"smtp": GOOD + '[[services.smtp.access]]\nfile = "{folder}/smtpaccess.dat"\n'},
    "overrides-keepalive": {"smtp": GOOD + "\nuser_timeout = 120\n"},
    "penalises-nothing": {"smtp": GOOD + "penalties = { min = 30 }\n"},
    "runs-as-root": {"smtp": GOOD},
    "short-timeout": {
        "smtp": SMTP + "[[services.smtp.listeners]]\nport = 4999\n"
        'haproxy = { trusted = ["192.0.2.7"], timeout = 1 }\n'
    },
    "syntax": {"smtp": "[services.smtp]\nuser nobody\n"},
    "too-large": {"smtp": GOOD + "[services.smtp.environment]\n" + 'A = ""\n' * 30_000},
    "too-many-problems": {"smtp": GOOD + '[[services.smtp.environment_files]]\npaht = "/env"\n' * 501},
    "trusts-everybody": {
        "smtp": SMTP + '[[services.smtp.listeners]]\nport = 4999\nhaproxy = { trusted = "any" }\n'
    },
    "unencrypted-engine": {"00-defaults": '\n\n[cluster]\nurl = "redis://192.0.2.10"\n', "smtp": GOOD},
    "unknown-chain": {"smtp": GOOD + 'dns_lists = ["span"]\n' + CHAIN},
    "unknown-group": {"smtp": GOOD + 'group = "no-such-group"\n'},
    "unknown-interface": {"smtp": GOOD + 'tcp = { interface = "eth9" }\n'},
    "unknown-key": {"smtp": GOOD + "[services.smtp.limits]\nmax_per_ips = 4\n"},
    "unknown-port": {"smtp": SMTP + 'listeners = [{ port = "smpt" }]\n'},
    "unknown-preset": {"smtp": GOOD + 'dns_lists = [{ preset = "spamhaus-zn" }]\n'},
    "unknown-user": {"smtp": GOOD + 'user = "no-such-user"\n'},
    "unreadable": {"smtp": "a directory stands there"},
    "wrong-access-file": {"smtp": GOOD + '[[services.smtp.access]]\nfile = "{folder}/smtpaccess"\n'},
    "wrong-environment-file": {"smtp": GOOD + 'environment_files = ["{folder}/env"]\n'},
    "wrong-place": {
        "smtp": GOOD + '[[services.smtp.access]]\nfile = "/dev/null"\nformat = "gdbm"\naction = "deny"\n'
    },
    "wrong-type": {"smtp": GOOD + '[services.smtp.limits]\nmax_per_ip = "4"\n'},
    "wrong-value": {"smtp": GOOD + "[services.smtp.limits]\nmax_per_ip = 0\n"},
}
# those that need a running host, or options of a command; tests of these show them
ELSEWHERE = {
    "banned-address", "cannot-bind", "cannot-use", "damaged-bans", "missing-module", "needs-capability",
    "needs-root", "no-fast-open", "no-list-answers", "not-enabled", "unclaimed-socket", "unknown-service",
    "untrusted-path", "wrong-replacement",
}  # fmt: skip


@pytest.mark.parametrize("code", FILES)
def test_the_example_of_a_code_is_what_such_a_problem_says(
    code: codes.Code, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.geteuid", lambda: 0)  # of whom a service without user would be
    tmp_path.chmod(0o755)
    pathlib.Path("conf.d").mkdir()
    pathlib.Path("env").write_text("A=1\nB\n")
    pathlib.Path("helper").touch()
    pathlib.Path("helper").chmod(0o4755)
    pathlib.Path("smtpaccess").write_text("192.0.2.7\tDENY\n")
    pathlib.Path("smtpaccess.dat").write_bytes(gdbmfiles.write({b"127.0.0.7 ": b"deny"}))
    for name, text in FILES[code].items():
        path = pathlib.Path("conf.d", name if "." in name else f"{name}.toml")
        if code == "unreadable":
            path.mkdir()
        else:
            path.write_bytes(
                text if isinstance(text, bytes) else text.replace("{folder}", str(tmp_path)).encode()
            )

    found = [problem for problem in _problems() if problem.code == code]

    assert codes.CODES[code].example in [str(each).replace(str(tmp_path), "/etc/default") for each in found]


def _problems() -> list[problems.Problem]:
    try:
        loaded = load.load("conf.d", further=checks.files)
    except problems.ConfigError as error:
        return list(error.problems)
    limits = capacity.HostLimits((), (capacity.Limit(32768, "kernel.pid_max"),))
    return [*loaded.warnings, *checks.rules(loaded), *capacity.warnings(loaded, limits)]


def test_the_table_has_every_code_once_and_in_order() -> None:
    assert list(codes.CODES) == sorted(get_args(codes.Code))
    assert {*FILES, *ELSEWHERE} == {*codes.CODES}


def strings(path: pathlib.Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_every_code_of_the_table_is_emitted_somewhere() -> None:
    """That no other is emitted anywhere is what mypy sees: a problem's code is of the type `Code`."""
    modules = [path for path in (TOP / "tcpdconf").rglob("*.py") if path.name != "codes.py"]
    written = {text for path in modules for text in strings(path)}
    assert set(codes.CODES) - written == set()
