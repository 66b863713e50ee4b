"""`python -m headrace ...` -> the command line; also what torchrun starts on every rank."""

import sys
from pathlib import Path


def leave_out_current_directory() -> None:
    """Take the current directory off the import path, where `python -m` puts it first, and `headrace` does not.

    A user's `random.py` or `h2.py` there would be imported in place of the library that another library looks for.
    headrace itself stays importable where it lies there.
    """
    first, own = Path(sys.path[0] or "."), Path(__file__).parent.parent
    if not sys.flags.safe_path and first.resolve() == Path.cwd() and first.resolve() != own.resolve():
        del sys.path[0]


if __name__ == "__main__":
    leave_out_current_directory()
    from headrace.cli import main

    sys.exit(main())
