"""`python -m tcpdconf`: the same command as `tcpdconf`."""

import sys

from tcpdconf.cli import main as cli

if __name__ == "__main__":
    sys.exit(cli.main())
