"""``python -m jaxrel``: the command line."""

import sys

from jaxrel.cli import main

if __name__ == "__main__":
    sys.exit(main())
