"""After a power cut behind a finished ingest, the store is there under its whole path."""

from __future__ import annotations

from storage_fakes import PowerCut

from headrace.ingestion import ingest
from headrace.store import Store


def test_the_directories_that_an_ingest_makes_are_synced_into_their_parents(tmp_path, monkeypatch):
    """Names alone: workers write and sync the shards in processes of their own, which the record does not see."""
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    power = PowerCut(disk)
    out = disk / "corpora" / "new" / "store"
    with monkeypatch.context() as patch:
        power.patch(patch)
        ingest(tmp_path / "a.txt", out, tokenizer="byte", workers=1)
    left = power.survivors(tmp_path / "left") / "corpora" / "new" / "store"
    with Store.open(out) as store:
        assert store.num_documents > 0
    assert (left / "manifest.json").read_bytes() == (out / "manifest.json").read_bytes()
    assert {path.name for path in left.iterdir()} >= {path.name for path in out.iterdir()}
