"""Runs the command `tcpdconf` for `python -m tcpdconf`."""

import sys

from tcpdconf.cli import main as cli

if __name__ == "__main__":
    sys.exit(cli.main())
