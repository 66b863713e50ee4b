"""The version of this package -> one place, which pyproject.toml reads too."""

from typing import Final

VERSION: Final = "0.1.0"
