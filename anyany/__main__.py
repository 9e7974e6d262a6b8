"""`python -m anyany`: the same as the `anyany` command."""

import sys

from anyany.cli import main

if __name__ == "__main__":
    sys.exit(main())
