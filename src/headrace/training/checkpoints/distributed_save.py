"""Tensors of all ranks -> the files of one checkpoint, each written and hashed by the rank that holds its tensors.

torch's own `save` waits for every rank's disk within a collective, which has a time limit. Here plans are
exchanged by collectives, and ranks wait for disks by keys, for as long as all of them live.
"""

from __future__ import annotations

import dataclasses
import io
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan

from headrace.model import hash_file
from headrace.storage import make_directory
from headrace.training.distributed.process_group import ProcessGroup

T = TypeVar("T")
FileEntries = dict[str, dict[str, Any]]
"""File name -> its size and hash, as the manifest holds them."""


def save_tensors(
    directory: Path,
    tensors: Mapping[str, Tensor],
    *,
    group: ProcessGroup,
    attempt: str = "",
    run: Callable[[Callable[[], Any]], Any] = lambda work: work(),
    count: Callable[[int], None] = lambda _: None,
    send: Callable[[Sequence[str]], None] = lambda _: None,
) -> FileEntries:
    """Write the tensors of all ranks; every rank calls together, in the thread that the group is for.

    Args:
        directory: of this rank's files; the same one for all ranks, or one for each.
        tensors: of this rank.
        group: the ranks.
        attempt: becomes a part of the files' names: two attempts at one step share no name.
        run: called with the work of this rank that waits for disks, outside of collectives; returns its result.
        count: called with the number of bytes of each write.
        send: called in that work with the names of this rank's files when they are written and hashed.

    Returns:
        On rank 0 all files, elsewhere this rank's.

    Raises:
        OSError, RuntimeError: a file of this rank could not be written.
        HeadraceError: another rank failed.
    """
    writer = FileSystemWriter(directory, sync_files=True)
    writer.fs = _CountingFileSystem(count)
    planner = DefaultSavePlanner()
    group.on_all_ranks(lambda: run(lambda: make_directory(directory)))
    planner.set_up_planner(dict(tensors), storage_meta=writer.storage_meta(), is_coordinator=group.is_rank0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.distributed.*")
        writer.set_up_storage_writer(group.is_rank0)
        plan = writer.prepare_local_plan(planner.create_local_plan())
        plan, metadata = _exchange_plans(plan, planner, writer, group, attempt)
        plan = planner.finish_plan(plan)
        results: list[Any] = []

        def write() -> FileEntries:
            results.extend(writer.write_data(plan, planner).wait())
            names = sorted({result.storage_data.relative_path for result in results})
            entries = {name: file_entry(directory / name) for name in names}
            send(names)
            return entries

        entries: FileEntries = group.on_all_ranks(lambda: run(write))
        gathered = _gather((results, entries), group)
        if gathered is None:
            return entries
        assert metadata is not None
        writer.finish(metadata, [results for results, _ in gathered])
    return {name: entry for _, files in gathered for name, entry in files.items()}


def file_entry(path: Path) -> dict[str, Any]:
    """Size and hash of a file, as a manifest holds them."""
    return {"bytes": path.stat().st_size, "xxh3_128": hash_file(path)}


class _CountingFileSystem(FileSystem):
    """torch's local file system; the bytes of each write are counted."""

    def __init__(self, count: Callable[[int], None]) -> None:
        super().__init__()
        self._count = count

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[io.IOBase]:
        """See FileSystem.create_stream."""
        if mode != "wb":
            with super().create_stream(path, mode) as stream:
                yield stream
            return
        with _CountedFile(io.FileIO(path, "wb"), self._count) as file:
            yield file


class _CountedFile(io.BufferedWriter):
    """A file whose writes are counted."""

    def __init__(self, raw: io.FileIO, count: Callable[[int], None]) -> None:
        super().__init__(raw, 1 << 20)
        self._count = count

    def fileno(self) -> int:
        """The file's number; torch calls it for fsync, and what is still in the buffer would not be synced."""
        self.flush()
        return super().fileno()

    def write(self, data: Any, /) -> int:
        written = super().write(data)
        self._count(written)
        return written


def _exchange_plans(
    plan: SavePlan, planner: DefaultSavePlanner, writer: FileSystemWriter, group: ProcessGroup, attempt: str
) -> tuple[SavePlan, Metadata | None]:
    """What this rank is to write: a tensor that several ranks hold is written by one of them."""
    plans = _gather(plan, group)
    if plans is None:
        received: list[Any] = [None]
        dist.scatter_object_list(received, None, src=0, group=group.collectives)
        return cast("SavePlan", received[0]), None
    global_plans, metadata = planner.create_global_plan(plans)
    global_plans = writer.prepare_global_plan(global_plans)
    if attempt:
        global_plans = [_with_attempt(plan, attempt) for plan in global_plans]
    if group.size > 1:
        received = [None]
        dist.scatter_object_list(received, list(global_plans), src=0, group=group.collectives)
        return cast("SavePlan", received[0]), metadata
    return global_plans[0], metadata


def _with_attempt(plan: SavePlan, attempt: str) -> SavePlan:
    prefix = plan.storage_data
    return dataclasses.replace(
        plan, storage_data=dataclasses.replace(prefix, prefix=f"{prefix.prefix}{attempt}_")
    )


def _gather(value: T, group: ProcessGroup) -> list[T] | None:
    """Every rank's value on rank 0, None elsewhere."""
    if group.size == 1:
        return [value]
    values: list[Any] | None = [None] * group.size if group.is_rank0 else None
    dist.gather_object(value, values, dst=0, group=group.collectives)
    return values
