"""What survives a power cut: the files as they were at their last fsync, under the names that directories had then.

`Disk` follows the calls of a sink and keeps that image; at every step of every commit the image is written elsewhere,
and a new run takes it up. SQLite's own files are taken as they are when its transaction ends: it syncs them itself.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from headrace.sink import Sink, read_predictions


class Disk:
    """Content of each synced file by inode, and names of each synced directory."""

    def __init__(self, root, monkeypatch):
        self.root = root
        self.contents: dict[int, bytes] = {}
        self.names: dict[Path, dict[str, int | Path]] = {}
        self.open = ExitStack()
        """Every file that was synced: an inode that is free would be given to another file."""
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self.fsync)
        monkeypatch.setattr(os, "fdatasync", self.fsync)

    def fsync(self, handle):
        self._fsync(handle)
        path = Path(f"/proc/self/fd/{handle}").readlink()
        if path.is_dir():
            for entry in path.iterdir():
                if entry.is_file():
                    self.open.enter_context(entry.open("rb"))
            self.names[path] = {
                entry.name: entry if entry.is_dir() else entry.stat().st_ino for entry in path.iterdir()
            }
        else:
            self.open.enter_context(path.open("rb"))
            self.contents[os.fstat(handle).st_ino] = path.read_bytes()

    def database_committed(self):
        """SQLite has synced its file and the directory."""
        folder = self.root / "out"
        file = folder / "commits.sqlite"
        self.contents[file.stat().st_ino] = file.read_bytes()
        self.names.setdefault(folder, {})["commits.sqlite"] = file.stat().st_ino

    def write_image(self, source, target):
        """Write a directory as it is after the power cut."""
        target.mkdir()
        for name, entry in self.names.get(source, {}).items():
            if isinstance(entry, Path):
                self.write_image(entry, target / name)
            else:
                (target / name).write_bytes(self.contents.get(entry, b""))


def test_a_power_cut_at_any_step_loses_no_synced_row_and_doubles_none(
    tmp_path, make_row, request_json, monkeypatch, request
):
    root = tmp_path / "disk"
    root.mkdir()
    disk = Disk(root, monkeypatch)
    request.addfinalizer(disk.open.close)
    images, synced, stored = [], 0, 0

    def step(sink, name):
        nonlocal synced
        if name in ("committed", "log removed"):
            disk.database_committed()
            synced = max(synced, stored)
        target = tmp_path / f"{len(images)}-{name.replace(' ', '-')}"
        disk.write_image(root, target)
        images.append((target, synced))

    with monkeypatch.context() as patch:
        patch.setattr(Sink, "_step", step)
        with Sink(root / "out", request=request_json, part_rows=3) as sink:
            disk.database_committed()
            for number in range(8):
                stored = number + 1
                sink.put(make_row(number))
                if number in (1, 4, 6):
                    sink.sync()
                    synced = stored
    assert len(images) > 20
    assert max(count for _, count in images) == 8
    for image, count in images:
        out = image / "out"
        with Sink(out, request=request_json, part_rows=3) as sink:
            for number in range(count):
                assert sink.done(f"{number:09d}", 0), (image.name, number)
            for number in range(8):
                sink.put(make_row(number))
        ids = read_predictions(out, sort=True)["prompt_id"].to_pylist()
        assert ids == [f"{number:09d}" for number in range(8)], image.name


def test_a_new_output_directory_is_in_its_parent_after_a_power_cut(
    tmp_path, request_json, monkeypatch, request
):
    disk = Disk(tmp_path, monkeypatch)
    request.addfinalizer(disk.open.close)
    Sink(tmp_path / "a" / "b" / "out", request=request_json).close()
    assert "a" in disk.names[tmp_path]
    assert "b" in disk.names[tmp_path / "a"]
    assert {"parts", "job.json"} <= set(disk.names[tmp_path / "a" / "b" / "out"])


@pytest.mark.parametrize("call", ["fsync", "fdatasync", "replace", "mkdir", "unlink", "open", "write"])
def test_a_disk_that_fails_at_any_call_ends_in_our_error_and_loses_nothing(
    tmp_path, make_row, request_json, monkeypatch, call
):
    """EIO at the n-th call, for every n; the same job without the failure then completes the output."""
    import errno

    from headrace.errors import HeadraceError

    real = getattr(os, call)
    nth, finished = 0, False
    while not finished and nth < 60:
        out, calls, stored = tmp_path / f"{call}-{nth}", 0, 0

        def failing(*args, **more):
            nonlocal calls
            calls += 1
            if calls == nth + 1:  # noqa: B023
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*args, **more)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            try:
                with Sink(out, request=request_json, part_rows=2) as sink:
                    for number in range(5):
                        sink.put(make_row(number))
                        stored = number + 1
                finished = calls <= nth
            except HeadraceError as error:
                assert "I/O error" in str(error)  # noqa: PT017
        with Sink(out, request=request_json, part_rows=2) as sink:
            assert all(sink.done(f"{number:09d}", 0) for number in range(stored))
            for number in range(5):
                sink.put(make_row(number))
        assert len(read_predictions(out)) == 5
        nth += 1
    assert finished or nth == 60
