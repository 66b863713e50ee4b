"""A run directory -> its copy on an object store, and back on a machine that has none of it.

The copy has the run's own layout. A checkpoint's manifest is sent last and deleted first, so a checkpoint
without one was never whole there.
"""

from __future__ import annotations

import mmap
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import orjson

from headrace.errors import CheckpointError, HeadraceError
from headrace.model import (
    BASE,
    MANIFEST,
    PRETRAINED,
    STATE,
    base_checkpoint,
    latest_checkpoint,
    list_checkpoints,
    manifest_files,
    verify_checkpoint,
)
from headrace.storage import Blob, make_directory
from headrace.training.run_directory.metrics import STEP_LINES
from headrace.training.run_directory.run_json import RUN

_CHECKPOINTS = "checkpoints"
_PART_BYTES = 64 << 20


T = TypeVar("T")


def reachable(url: str, work: Callable[[], T]) -> T:
    """Do work at a start; the mirror's errors become one that says what to do.

    Raises:
        CheckpointError: the mirror cannot be read.
    """
    try:
        return work()
    except CheckpointError:
        raise
    except (HeadraceError, OSError) as error:
        raise CheckpointError(
            f"{url}: the mirror cannot be read: {error}. Run the same command again when it answers, or leave "
            f"out --mirror to go on with what is here."
        ) from error


class Mirror:
    """Copies a run to another place; a failure there is a warning and does not stop the run."""

    def __init__(self, blob: Blob, run: Path, *, warn: Callable[[str], None]) -> None:
        self._blob = blob
        self._run = run
        self._warn = warn

    def fetch_run(self) -> None:
        """Where there is no run yet: run.json, tokenizer and metrics of the copy, if it has them."""
        if (self._run / RUN).exists():
            return
        names = self._blob.list()
        if RUN not in names:
            return
        frozen = base_checkpoint(self._run).relative_to(self._run).as_posix()
        if f"{frozen}/{MANIFEST}" in names:
            self._fetch_directory(frozen, self._run / frozen)
        kept_apart = (f"{_CHECKPOINTS}/", f"{BASE}/")
        others = [name for name in names if not name.startswith(kept_apart) and name != RUN]
        for name in [*others, RUN]:  # run.json last: with it the directory is a run
            self._get(name, self._run / name)

    def fetch_checkpoint(self) -> None:
        """Where the copy has a newer checkpoint than the newest whole one here: bring it, verified."""
        here = latest_checkpoint(self._run / _CHECKPOINTS, warn=self._warn)
        step_here = -1 if here is None else int(here[1]["step"])  # an imported model's is 0
        for step, name in reversed(self._steps()):
            if step <= step_here:
                return
            try:
                self._fetch_step(name)
            except (CheckpointError, FileNotFoundError) as error:
                self._warn(f"{self._blob.url}: {error} This copy is passed over for an older one.")
            else:
                return

    def send_beginning(self, *, keep: int) -> None:
        """Send what a start wrote: run.json, tokenizer, frozen weights and the newest checkpoint where it has none."""
        frozen = base_checkpoint(self._run)
        if frozen.is_dir() and f"{BASE}/{frozen.name}/{MANIFEST}" not in self._blob.list(f"{BASE}/"):
            self._send(_manifest_last(frozen))
        self.send_run()
        here = list_checkpoints(self._run / _CHECKPOINTS)
        if here and self._try(self._steps) == []:
            self.send_checkpoint(here[-1][1], keep=keep)

    def send_run(self) -> None:
        """Send the files that do not change in a run."""
        directories = [self._run / "tokenizer", self._run / PRETRAINED]
        files = [
            path for directory in directories if directory.is_dir() for path in sorted(directory.iterdir())
        ]
        self._send([*files, self._run / RUN])

    def send_checkpoint(self, directory: Path, *, keep: int) -> None:
        """Send a finished checkpoint and the metrics up to it; then delete all but the newest copies and the best."""
        files = _manifest_last(directory)
        lines = [
            path for name in STEP_LINES if (path := self._run / name).exists()
        ]  # an imported model has none
        if self._send([self._run / RUN, *lines, *files]):
            best = orjson.loads((directory / STATE).read_bytes()).get("best") or {}
            for step, name in (self._try(self._steps) or [])[:-keep]:
                if step != best.get("step"):
                    self._delete(name)

    def _steps(self) -> list[tuple[int, str]]:
        finished = [name for name in self._blob.list(f"{_CHECKPOINTS}/") if name.endswith(f"/{MANIFEST}")]
        return sorted(
            (int(name.split("/")[1].removeprefix("step-")), name.rsplit("/", 1)[0]) for name in finished
        )

    def _fetch_step(self, name: str) -> None:
        checkpoints = self._run / _CHECKPOINTS
        final = self._run / name
        staging = checkpoints / f".staging-fetched-{final.name}"
        shutil.rmtree(staging, ignore_errors=True)
        self._fetch_directory(name, staging)
        if final in dict(list_checkpoints(checkpoints)).values():  # here, but damaged: it was passed over
            shutil.rmtree(final)
        staging.rename(final)

    def _fetch_directory(self, name: str, into: Path) -> None:
        # By the manifest, not by a listing: that of a local directory leaves out .metadata.
        self._get(f"{name}/{MANIFEST}", into / MANIFEST)
        for file in manifest_files(into):
            self._get(f"{name}/{file}", into / file)
        verify_checkpoint(into)

    def _get(self, name: str, path: Path) -> None:
        make_directory(path.parent)
        size = self._blob.size(name)
        with path.open("wb") as file:
            for start in range(0, size, _PART_BYTES):
                file.write(self._blob.get_range(name, start, min(start + _PART_BYTES, size)))

    def _send(self, paths: Sequence[Path]) -> bool:
        def send() -> bool:
            for path in paths:
                self._put(path.relative_to(self._run).as_posix(), path)
            return True

        return bool(self._try(send))

    def _try(self, work: Callable[[], T]) -> T | None:
        """Do work while the run goes on; what fails is a warning, and None."""
        try:
            return work()
        except (HeadraceError, OSError) as error:
            self._warn(
                f"{self._blob.url}: not copied there, the run goes on and tries at its next checkpoint: {error}"
            )
            return None

    def _put(self, name: str, path: Path) -> None:
        with path.open("rb") as file:
            if path.stat().st_size < _PART_BYTES:
                self._blob.put(name, file.read())
                return
            # Mapped, so that a checkpoint of many gigabytes is not in memory a second time. The map is closed with
            # its last user: a request may hold it a little longer than this call.
            self._blob.put(name, memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))

    def _delete(self, name: str) -> None:
        try:
            self._blob.delete(f"{name}/{MANIFEST}")
            for path in self._blob.list(f"{name}/"):
                self._blob.delete(path)
        except (HeadraceError, OSError) as error:
            self._warn(f"{self._blob.url}: {name} could not be deleted there: {error}")


def _manifest_last(directory: Path) -> list[Path]:
    return sorted(directory.iterdir(), key=lambda path: path.name == MANIFEST)
