"""`python -m punch` is the console script."""

from __future__ import annotations

import sys

from punch.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
