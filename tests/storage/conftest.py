"""A directory as a user sees it to whom it does not belong."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = 65534


class AnotherUser:
    """Call it for a block that may read the files of a directory and write none, as other users of a machine."""

    def __init__(self, path):
        self.path = path

    @contextmanager
    def __call__(self):
        found = [self.path, *self.path.rglob("*")]
        modes = {path: path.stat().st_mode for path in found}
        user = os.geteuid()
        for path, mode in modes.items():
            path.chmod(0o555 if stat.S_ISDIR(mode) else 0o444)
        if user == 0:  # whom modes do not hold back
            os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(user)
            for path, mode in modes.items():
                path.chmod(stat.S_IMODE(mode))


@pytest.fixture
def as_another_user():
    # pytest's own directories can be entered by their owner alone.
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield AnotherUser(Path(name))
