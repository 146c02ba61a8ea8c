"""A host whose files change under a running daemon."""

import pathlib

from support.running import daemons


class Host:
    """Holds a conf.d with two services, and their files. A test replaces the text `old` by `new`."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.conf = folder / "conf.d"
        self.test = self.conf / "test.toml"
        self.port, self.other_port, self.new_port = (daemons.free_port() for _ in range(3))
        self.files = folder / "files"
        self.files.mkdir()
        self.environment = self.write("environment", "FILE=old\n")
        self.shell = self.write("shell", "SHELL_FILE=$(echo old)\n")
        self.access = self.write("access", "*\tallow,RULE=old\n")
        self.zone = self.write("zone", "old.example\n")
        self.texts = self.files / "texts"
        self.texts.mkdir()
        self.write("texts/default", "192.0.2\tdeny\n")
        self.releases = self.files / "releases"
        for name in ("old", "new"):
            (self.releases / name).mkdir(parents=True)
            self.write(f"releases/{name}/environment", f"RELEASE={name}\n")
        (self.releases / "current").symlink_to("old")
        self.new = self.write("10-test.toml", self.configuration().replace('"old"', '"new"'))

    def write(self, name: str, text: str) -> pathlib.Path:
        """A file beside conf.d."""
        path = self.files / name
        path.write_text(text)
        return path

    def configuration(self, daemon: str = "") -> str:
        """The first service: everything that it is told it shows to who connects."""
        return f"""
            [daemon]
            {daemon}
            log_level = "debug" # shows reloads that change nothing
            [services.test]
            program = ["/usr/bin/env", "-0"]
            environment = {{ TABLE = "old" }}
            environment_files = [
              "{self.environment}",
              "{self.releases}/current/environment",
              {{ path = "{self.shell}", shell = true }},
            ]
            {listener("test", self.port)}
            [[services.test.access]]
            file = "{self.texts}"
            [[services.test.access]]
            file = "{self.access}"
        """

    def other(self) -> str:
        """The second service, which asks a DNS list that nobody serves."""
        return f"""
            [services.other]
            program = ["/bin/true"]
            dns_lists = [{{ zone_file = "{self.zone}", display_zone = "hidden", action = "block" }}]
            {listener("other", self.other_port)}
            [dns]
            servers = ["127.0.0.1:{daemons.free_port()}"]
        """

    def added(self) -> pathlib.Path:
        """A file, outside of conf.d, with a third service."""
        text = f'[services.added]\nprogram = ["/bin/true"]\n{listener("added", self.new_port)}'
        return self.write("30-added.toml", text)

    def shows(self, variable: str) -> str | None:
        """The value of a variable for who connects now."""
        return daemons.environment(daemons.talk(self.port)).get(variable)

    def has_added(self) -> bool:
        """Return whether the third service listens."""
        return _is_open(self.new_port)

    def has_no_other(self) -> bool:
        """Return whether the second service listens no more."""
        return not _is_open(self.other_port)


def listener(name: str, port: int) -> str:
    return f'[[services.{name}.listeners]]\naddress = "127.0.0.1"\nport = {port}\n'


def _is_open(port: int) -> bool:
    try:
        daemons.connect(port).close()
    except (ConnectionRefusedError, ConnectionResetError):  # or it is being closed
        return False
    return True
