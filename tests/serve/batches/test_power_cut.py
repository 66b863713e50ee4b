"""A power cut at any sync: what a client was told of is there, and a batch that is done has every line.

The rows of a running batch are those of a sink, whose own tests cut its power.
"""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from storage_fakes import PowerCut

from headrace.serve.batches.store import UNFINISHED, BatchStore, new_batch
from headrace.serve.files import FileStore
from headrace.serve.protocol import BatchBody
from headrace.sink import Sink
from headrace.types import Prediction

LINES = [
    orjson.dumps(
        {"custom_id": f"row {i}", "method": "POST", "url": "/v1/completions", "body": {"prompt": "a"}}
    )
    + b"\n"
    for i in range(7)
]
NAMES = [f"row {i}" for i in range(7)]
UPLOAD = "file-" + "0" * 24


def answer(number: int) -> Prediction:
    return Prediction(
        prompt_id=f"{number:09d}",
        sample_index=0,
        prompt="",
        text='{"id": "x"}',
        token_ids=(),
        finish_reason="stop",
    )


def status_after_a_cut(left: Path, told: list[str]) -> str:
    """Start a server on what is left; the batch's status, none before there is one."""
    if not (left / "var" / "state").exists():
        assert not told
        return "none"
    files = FileStore(left / "var" / "state", max_upload_bytes=1 << 20)
    try:
        store, status = BatchStore(files), "none"
        store.sweep()
        for name in told:
            if name.startswith("file-"):
                assert files.path(name).read_bytes() == b"".join(LINES)
            else:
                assert store.get(name)
        for batch in store.all():
            status = batch["status"]
            if status in UNFINISHED:
                assert store.requests(batch).read_bytes() == b"".join(LINES)
            else:
                lines = files.path(batch["output_file_id"]).read_bytes().splitlines()
                assert [orjson.loads(line)["custom_id"] for line in lines] == NAMES
        return status
    finally:
        files.close()


def test_what_a_client_was_told_of_outlives_a_power_cut_at_any_moment(tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    told: list[str] = []
    states: list[str] = []
    is_checking: list[bool] = []

    def check() -> None:
        if not is_checking:  # the server that is started there syncs too
            is_checking.append(True)
            states.append(status_after_a_cut(power.survivors(tmp_path / f"left-{len(states)}"), told))
            is_checking.clear()

    power = PowerCut(disk, at_sync=check)
    files = None
    try:
        power.patch(monkeypatch)
        files = FileStore(disk / "var" / "state", max_upload_bytes=1 << 20)
        files.add(LINES, name="in.jsonl", purpose="batch", identity=UPLOAD)
        told.append(UPLOAD)
        store = BatchStore(files)
        batch = new_batch(
            BatchBody(input_file_id=UPLOAD, endpoint="/v1/completions", completion_window="24h"), now=1
        )
        store.create(batch)
        told.append(batch["id"])
        check()
        told.remove(UPLOAD)  # a client may delete the file: the batch owns its content
        (files.files / f"{UPLOAD}.json").unlink()
        (files.files / UPLOAD).unlink()
        store.write(batch | {"status": "in_progress"})
        with Sink(store.rows(batch), request={"a": 1}, format="jsonl") as sink:
            for number in range(len(LINES)):
                sink.put(answer(number))
        batch["request_counts"] |= {"total": 7, "completed": 7}
        store.write_results(batch, "completed")
        store.write(batch | {"status": "completed"})
        store.remove_working_files(batch)
        check()
    finally:
        monkeypatch.undo()
        if files is not None:
            files.close()
    seen = [state for state, before in zip(states, ["", *states], strict=False) if state != before]
    assert seen == ["none", "validating", "in_progress", "completed"]


@pytest.mark.parametrize("name", ["files", "batches"])
def test_a_servers_new_directory_is_in_its_parent(name, tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    power = PowerCut(disk)
    with monkeypatch.context() as patch:
        power.patch(patch)
        FileStore(disk / "a" / "state", max_upload_bytes=1).close()
    assert (power.survivors(tmp_path / "left") / "a" / "state" / name).is_dir()
