"""A URL of a run -> a lock that other machines see, and that ends some time after its holder was killed.

    locks/00000001.json   one object for each holder so far; created if absent, so that of two processes one has it

The object with the highest number is the lock. Its holder rewrites it every 10 s. Another process may create the next
number when the holder wrote that it is done, when it is known to be dead (same machine), or when the object has not
changed for 60 s by the clock of the process that watches it: no clocks of two machines are compared. A holder that was
only asleep finds the higher number before its next commit and ends.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

import orjson

from headrace.errors import ConfigError, HeadraceError, ResumeError
from headrace.platform import machine_name, process_exists
from headrace.storage import Blob, Unavailable

LOCKS: Final = "locks/"
RENEW_S: Final = 10.0
EXPIRE_S: Final = 60.0
_LOCK: Final = re.compile(rf"{LOCKS}(\d{{8}})\.json")


class RemoteRunLock:
    """Holds a run on an object store for one process, from before its first object is read until its last is written.

    Args:
        blob: the run's.
        log: called with a line when the lock of a process that may be dead is awaited.
        expire_s: a lock that has not changed for so long is nobody's.
        sleep: tests pass a clock of their own.
        clock: in seconds.

    Raises:
        ResumeError: another process has the lock.
    """

    def __init__(
        self,
        blob: Blob,
        *,
        log: Callable[[str], None],
        expire_s: float = EXPIRE_S,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._blob = blob
        self._token = secrets.token_hex(8)
        self._renewals = 0
        self._ended = threading.Event()
        newest = self._newest()
        if newest:
            self._wait_until_free(newest, log, expire_s, sleep, clock)
        self._number = newest + 1
        if not blob.put_if_absent(self._name(self._number), self._content()):
            raise self._is_held(self._read(self._number))
        for number in self._numbers():
            if number < self._number:
                blob.delete(self._name(number))
        self._thread = threading.Thread(target=self._renew, name="run-lock", daemon=True)
        self._thread.start()

    def check(self, blob: Blob | None = None) -> None:
        """Whether this process still has the lock: called before every commit.

        Args:
            blob: the run's, where the caller waits longer for it.

        Raises:
            ResumeError: another process has taken it, as this one was silent for too long.
        """
        if self._newest(blob) > self._number:
            self._ended.set()
            raise ResumeError(
                f"{self._blob.url}: another process trains into this run now: this one was silent for more than "
                f"{EXPIRE_S:.0f} s (suspended, or cut off from the store). What it committed before is whole."
            )

    def release(self) -> None:
        """Let the next process have the lock at once."""
        self._ended.set()
        self._thread.join(timeout=5.0)
        with suppress(HeadraceError, OSError):  # the lock expires by itself
            if self._newest() == self._number:
                self._blob.put(self._name(self._number), self._content(is_released=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_S):
            self._renewals += 1
            with suppress(
                HeadraceError, OSError
            ):  # the next one may succeed; `check` says when it is too late
                self._blob.put(self._name(self._number), self._content())

    def _wait_until_free(
        self,
        number: int,
        log: Callable[[str], None],
        expire_s: float,
        sleep: Callable[[float], None],
        clock: Callable[[], float],
    ) -> None:
        content = self._read(number)
        if not content or content.get("released") or _is_dead(content):
            return
        log(
            f"{self._blob.url}: {_holder(content)} trained into this run and did not end it: waiting up to "
            f"{expire_s:.0f} s for a sign of life"
        )
        until = clock() + expire_s
        while clock() < until:
            sleep(min(2.0, expire_s))
            now = self._read(number)
            if self._newest() != number or (now != content and not now.get("released")):
                raise self._is_held(now)
            if now.get("released"):
                return

    def _is_held(self, content: dict[str, Any]) -> ResumeError:
        return ResumeError(
            f"{self._blob.url}: another process is training into this run ({_holder(content)}). "
            f"Wait for it, or give another --out."
        )

    def _content(self, *, is_released: bool = False) -> bytes:
        return orjson.dumps(
            {
                "token": self._token,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "machine": machine_name(),
                "renewals": self._renewals,
                "released": is_released,
            },
            option=orjson.OPT_INDENT_2,
        )

    def _read(self, number: int) -> dict[str, Any]:
        try:
            content: Any = orjson.loads(bytes(self._blob.get(self._name(number))))
        except (FileNotFoundError, orjson.JSONDecodeError):
            return {}
        return content if isinstance(content, dict) else {}

    def _numbers(self, blob: Blob | None = None) -> list[int]:
        try:
            names = (blob or self._blob).list(LOCKS)
        except Unavailable as error:
            raise ConfigError(f"{self._blob.url}: cannot be listed: {error}.") from error
        return [int(match[1]) for name in names if (match := _LOCK.fullmatch(name))]

    def _newest(self, blob: Blob | None = None) -> int:
        return max(self._numbers(blob), default=0)

    @staticmethod
    def _name(number: int) -> str:
        return f"{LOCKS}{number:08d}.json"


def _holder(content: dict[str, Any]) -> str:
    return f"process {content.get('pid', '?')} on {content.get('host', '?')}"


def _is_dead(content: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that is gone."""
    machine, pid = machine_name(), content.get("pid")
    return (
        machine is not None
        and content.get("machine") == machine
        and isinstance(pid, int)
        and not process_exists(pid)
    )
