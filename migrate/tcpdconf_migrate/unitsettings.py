"""Translates the settings of [Service] in a systemd unit into keys of a service.

Source: systemd.exec(5), systemd.service(5). Settings that are carried over are listed here, and so are those
that make no difference to programs; every other one becomes a note. A unit whose user, root directory or
network cannot be carried over is not read.
"""

import os
import pwd
import re
import shlex
from collections.abc import Sequence
from typing import Final, NamedTuple

from tcpdconf.config import envfile
from tcpdconf_migrate import commandline
from tcpdconf_migrate.script import script
from tcpdconf_migrate.wrappers import kinds as wrapper_kinds

_SIZES: Final = {
    "LimitAS": "as", "LimitDATA": "data", "LimitSTACK": "stack", "LimitMEMLOCK": "memlock",
    "LimitCORE": "core", "LimitFSIZE": "fsize",
}  # fmt: skip
_LIMITS: Final = _SIZES | {"LimitNOFILE": "nofile", "LimitNPROC": "nproc", "LimitCPU": "cpu"}
_IDENTITY: Final = {"User": "user", "Group": "group"}
_CARRIED: Final = frozenset({
    *_LIMITS, *_IDENTITY, "WorkingDirectory", "UMask", "Environment", "EnvironmentFile", "UnsetEnvironment",
    "StandardError", "StandardOutput", "ExecStart", "SupplementaryGroups", "NoNewPrivileges",
    "OOMScoreAdjust",
})  # fmt: skip
# how the manager starts, watches, logs and stops the service; programs have the client as input and output
_HARMLESS: Final = re.compile(
    r"Type|PIDFile|BusName|Exit\w+|GuessMainPID|RemainAfterExit|Restart\w*|Timeout\w+|RuntimeMax\w+|Watchdog\w+"
    r"|Start\w+|Success\w+|Kill\w+|SendSIG\w+|FinalKillSignal|ReloadSignal|NotifyAccess|NonBlocking|OOMPolicy"
    r"|Exec(Stop|StopPost|Reload)|FileDescriptor\w+|Sockets|Syslog\w+|Log\w+|StandardInput\w*|TTY\w+"
)
# restrictions: without them the service may do more
_RESTRICTING: Final = re.compile(
    r"Capability\w*|AmbientCapabilities|SecureBits|Private\w+|Protect\w+|Restrict\w+|SystemCall\w+"
    r"|\w+Paths|TemporaryFileSystem|Device\w+|LockPersonality|Memory\w+|TasksMax|CPU\w+|IO\w+|IP\w+|Socket\w+"
    r"|SELinuxContext|AppArmorProfile|SmackProcessLabel|KeyringMode|PAMName|Mount\w+|IPCNamespacePath|Slice"
)
# a service has no such key, and without it other programs would run, or serve clients of another network
_REFUSED: Final = {
    "RootDirectory": "changes the root directory", "RootImage": "changes the root directory",
    "NetworkNamespacePath": "listens in a network namespace", "DynamicUser": "makes systemd invent a user",
}  # fmt: skip
_EMPTY_IS_A_VALUE: Final = frozenset({"CapabilityBoundingSet"})  # no capability at all
_MOST_SCORE: Final = 1000
_OWN_UNIT: Final = "belongs into the unit of tcpdconf, for all services"
_NO: Final = frozenset({"", "no", "false", "off", "0", "n", "f"})


class Setting(NamedTuple):
    """Holds a setting and the place where it is written."""

    path: str
    line: int
    name: str
    value: str

    @property
    def origin(self) -> str:
        """Return the place as messages show it."""
        return f"{self.path}:{self.line}"

    @property
    def shown(self) -> str:
        """Return the setting as notes show it; one in a drop-in with the file's name."""
        file = f"{os.path.basename(self.path)} " if os.path.dirname(self.path).endswith(".service.d") else ""
        return f"{file}line {self.line}, {self.name}={self.value}"


class ServiceSection:
    """Translates the settings of [Service], which apply to every command in it.

    Attributes:
        settings: keys of a service.
        variables: the variables that ExecStart= may name.
        notes: remarks about settings that are changed or not carried over.
    """

    def __init__(self, written: Sequence[Setting], read_file: script.ReadFile) -> None:
        self.settings: commandline.Settings = {}
        self.variables: dict[str, str] = {}
        self.notes: list[commandline.Note] = []
        self._read_file = read_file
        self._values: dict[str, list[Setting]] = {}
        for setting in written:
            values = self._values.setdefault(setting.name, [])
            if setting.value or setting.name in _EMPTY_IS_A_VALUE:
                values.append(setting)
            else:
                values.clear()
        self._set_identity()
        self._set_process()
        self._set_environment()
        for name in _LIMITS:
            self._set_limit(name)
        self._set_standard_error()
        for name in self._values:
            self._mention(name)

    def values(self, name: str) -> list[Setting]:
        """Return the assignments of a setting since the last empty one."""
        return self._values.get(name, [])

    def refusal(self, prefixes: str) -> str:
        """Return why a command with these prefixes cannot be carried over, or ""."""
        for name, why in _REFUSED.items():
            if (setting := self._last(name)) and setting.value.lower() not in _NO:
                return f"{name}={setting.value} {why}, and a service has no such key"
        for name in _IDENTITY:
            if (setting := self._last(name)) and re.search(r"[$%]", setting.value):
                return f"{name}={setting.value} is expanded by systemd only: write the name"
        if "|" in prefixes:
            return "ExecStart=| runs the login shell of the user"
        changed = [name for name in (*_IDENTITY, "SupplementaryGroups") if self._last(name)]
        if changed and (prefix := next((each for each in prefixes if each in "+!"), "")):
            return f"ExecStart={prefix} makes it root despite {changed[0]}=: write the user"
        return ""

    def _last(self, name: str) -> Setting | None:
        return next(reversed(self.values(name)), None)

    def _note(self, setting: Setting, why: str, kind: str = "ignored") -> None:
        self.notes.append(commandline.Note(kind, setting.shown, why))

    def _set_identity(self) -> None:
        for name, key in _IDENTITY.items():
            if setting := self._last(name):
                self.settings[key] = int(setting.value) if setting.value.isdigit() else setting.value
        if setting := self._last("UMask"):
            if re.search(r"[$%]", setting.value):
                self._note(setting, "systemd expands no variables there")
            else:
                self.settings["umask"] = setting.value
        if setting := self._last("WorkingDirectory"):
            path = setting.value.removeprefix("-")
            path = self._home() if path == "~" else path
            if not path or "%" in path or "$" in path:
                self._note(setting, "is expanded by systemd only: set directory", "risk")
            else:
                self.settings["directory"] = path
                if setting.value.startswith("-"):
                    self._note(setting, "the directory must exist", "changed")

    def _set_process(self) -> None:
        """Set what the processes of a service have beside user, directory and limits."""
        for given in self.values("SupplementaryGroups"):
            for word in self._split(given):
                if re.search(r"[$%]", word):
                    self._note(given, "is expanded by systemd only: set supplementary_groups", "risk")
                else:
                    groups = self.settings.setdefault("supplementary_groups", [])
                    groups.append(int(word) if word.isdigit() else word)
        if (setting := self._last("NoNewPrivileges")) and setting.value.lower() not in _NO:
            self.settings["no_new_privileges"] = True
        if setting := self._last("OOMScoreAdjust"):
            if re.fullmatch(r"[+-]?\d{1,4}", setting.value) and abs(int(setting.value)) <= _MOST_SCORE:
                self.settings["oom_score_adjust"] = int(setting.value)
            else:
                self._note(setting, "is no number from -1000 to 1000")

    def _home(self) -> str:
        """Return the home directory of the user, or "" if this host does not know the user."""
        user = self.settings.get("user", "root")
        try:
            return (pwd.getpwuid(user) if isinstance(user, int) else pwd.getpwnam(user)).pw_dir
        except KeyError:
            return ""

    def _set_environment(self) -> None:
        """Set the variables: files override Environment=, and UnsetEnvironment= applies last."""
        environment: dict[str, str] = {}
        for setting in self.values("Environment"):
            for word in self._split(setting):
                name, _, text = word.partition("=")
                if re.search(r"%(?!%)", text.replace("%%", "")):
                    self._note(setting, f"{name} has a specifier that is expanded by systemd only", "risk")
                else:
                    environment[name] = text.replace("%%", "%")
        self.variables = dict(environment)
        for setting in self.values("EnvironmentFile"):
            from_file = self._file(setting)
            self.variables |= from_file
            environment = {name: text for name, text in environment.items() if name not in from_file}
        for setting in self.values("UnsetEnvironment"):
            for word in self._split(setting):
                name = word.partition("=")[0]
                environment.pop(name, None)
                if self.variables.pop(name, None) is None or self.values("EnvironmentFile"):
                    self._note(
                        setting, "is taken out of environment; files and tcpdconf's own keep it", "risk"
                    )
        if environment:
            self.settings["environment"] = environment

    def _split(self, setting: Setting) -> list[str]:
        try:
            return shlex.split(setting.value)
        except ValueError as error:
            self._note(setting, str(error), "risk")
            return []

    def _file(self, setting: Setting) -> dict[str, str]:
        path = setting.value.removeprefix("-")
        try:
            found = envfile.parse(self._read_file(path))
        except (OSError, ValueError) as error:
            if not setting.value.startswith("-"):
                self._note(setting, f"cannot be read: {error}")
            return {}
        self.settings.setdefault("environment_files", []).append({"path": path})
        return found

    def _set_limit(self, name: str) -> None:
        setting = self._last(name)
        if setting is None:
            return
        soft, _, hard = setting.value.partition(":")
        text = "unlimited" if soft == "infinity" else soft
        if not (
            text.isdigit() or text == "unlimited" or (name in _SIZES and re.fullmatch(r"\d+[KMGT]", text))
        ):
            self._note(setting, "is no plain number", "risk")
            return
        self.settings.setdefault("rlimits", {})[_LIMITS[name]] = int(text) if text.isdigit() else text
        if hard not in {"", soft}:
            self._note(setting, wrapper_kinds.BOTH, "changed")

    def _set_standard_error(self) -> None:
        """Follow StandardError=, or StandardOutput= if it is missing or `inherit`."""
        setting = self._last("StandardError")
        if setting is None or setting.value == "inherit":
            setting = self._last("StandardOutput")
        if setting is None or setting.value in {
            "journal",
            "inherit",
            "syslog",
            "journal+console",
            "syslog+console",
        }:
            return
        how, _, path = setting.value.partition(":")
        if setting.value == "null":
            how, path = "append", "/dev/null"
        if how in {"append", "file", "truncate"} and path.startswith("/") and "%" not in path:
            self.settings["stderr"] = {"file": path}
            if how == "truncate":
                self._note(setting, "the file is appended to, and no longer emptied at each start", "changed")
        else:
            self._note(setting, "is not carried over: set stderr")

    def _mention(self, name: str) -> None:
        """Add a note for a setting that is not carried over."""
        for setting in self.values(name):
            if name in _CARRIED or name in _REFUSED or _HARMLESS.fullmatch(name):
                return
            restricts = _RESTRICTING.fullmatch(name) is not None
            if not restricts or name in _EMPTY_IS_A_VALUE or setting.value.lower() not in _NO:
                self._note(setting, _OWN_UNIT, "risk" if restricts else "ignored")
