"""`python -m isomorph` is the command `isomorph`."""

import sys

from isomorph.parity.cli import main

if __name__ == "__main__":
    sys.exit(main())
