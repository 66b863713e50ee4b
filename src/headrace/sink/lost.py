"""A job's directory -> the parts that its commit database should name and does not.

A part that was renamed into place just before a kill is not named either, but its log is still there. Any other part
that the database does not name shows that the database was lost, emptied, or replaced by an older one.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import SinkError

PART = re.compile(r"part-(\d{5,})\.(?:parquet|jsonl\.zst)\Z")
LOG = re.compile(r"wal-(\d+)\.log\Z")


@dataclass(frozen=True, slots=True)
class Listing:
    """Names of the files of a job; taken before its database is read, so that a commit in between is no loss."""

    parts: dict[str, int]
    logs: frozenset[int]

    @classmethod
    def of(cls, path: Path) -> Listing:
        """The files in a job's directory."""
        folder = path / "parts"
        names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
        logs = (LOG.match(file.name) for file in path.iterdir())
        return cls(
            {name: int(match[1]) for name in names if (match := PART.match(name))},
            frozenset(int(match[1]) for match in logs if match),
        )

    def lost(self, committed: Collection[str]) -> list[str]:
        """Parts that the database should name and does not, in their order.

        Args:
            committed: the parts that it names.
        """
        unnamed = [(number, name) for name, number in self.parts.items() if name not in committed]
        after = max((self.parts.get(name, -1) for name in committed), default=-1) + 1
        return [name for number, name in sorted(unnamed) if number != after or number not in self.logs]


def check_not_lost(path: Path, listing: Listing, committed: Collection[str]) -> None:
    """Refuse a database that does not name the parts beside it: a job that went on would generate them again.

    Raises:
        SinkError: with the cures.
    """
    lost = listing.lost(committed)
    if lost:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise SinkError(
            f"{path}: commits.sqlite is missing, empty or too old: it does not name parts/{lost[0]}{more}. "
            f"The predictions in them are kept. Restore commits.sqlite from a copy, or rebuild it from the parts: run "
            f"headrace generate with --rebuild-commits, or headrace.sink.rebuild_commits({str(path)!r})."
        )
