"""tcpdconf: a TCP super-server for mail hosts, configured in TOML."""

__version__ = "0.2.0"
