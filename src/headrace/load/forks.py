"""A process -> how many forks made it since headrace was imported: tells a forked child from its parent."""

from __future__ import annotations

from headrace.platform import after_fork_in_child

_forks = 0


def fork_count() -> int:
    """A number that changes in a forked child. Reading it costs 50 ns; os.getpid is a system call."""
    return _forks


def _in_child() -> None:
    global _forks
    _forks += 1


after_fork_in_child(_in_child)
