"""`python -m headrace ...` -> the command line; also what torchrun starts on every rank."""

import sys

from headrace.cli import main

if __name__ == "__main__":
    sys.exit(main())
