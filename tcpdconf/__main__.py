"""`python -m tcpdconf`: the same command as `tcpdconf`."""

import sys

from tcpdconf import cli

if __name__ == "__main__":
    sys.exit(cli.main())
