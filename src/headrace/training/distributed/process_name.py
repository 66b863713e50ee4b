"""A process -> a name that other processes of its machine can look at, to see whether it runs."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from headrace.platform import machine_name


@dataclass(frozen=True, slots=True)
class ProcessName:
    """Machine, number and start time of a process."""

    machine: str | None
    """See `machine_name`."""
    pid: int
    started: str
    """Ticks of the machine's clock; another process that gets the number later has another time."""

    @classmethod
    def own(cls) -> Self:
        """The name of this process."""
        return cls(machine_name(), os.getpid(), _state_and_start(os.getpid())[1])

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """The name that `text` was made of."""
        pid, started, machine = text.decode().split(" ", 2)
        return cls(machine or None, int(pid), started)

    @property
    def text(self) -> str:
        """The name as one line."""
        return f"{self.pid} {self.started} {self.machine or ''}"

    @property
    def is_of_this_machine(self) -> bool:
        """Whether this process can see it."""
        return self.machine is not None and self.machine == machine_name()

    def is_running(self) -> bool:
        """Whether it is there and can still run: a process that was killed stays as a zombie until it is waited for."""
        state, started = _state_and_start(self.pid)
        return state not in {"", "Z", "X"} and started == self.started


def _state_and_start(pid: int) -> tuple[str, str]:
    """State and start time of a process; empty where there is none, or no /proc.

    Source: proc_pid_stat(5), fields 3 and 22; the name before them may hold blanks and parentheses.
    """
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_bytes().decode(errors="replace").rpartition(")")[2].split()
        return fields[0], fields[19]
    return "", "-"
