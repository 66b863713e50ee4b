"""Journal files (sealed.py, journal.py, record.py): a damaged one is refused with the cure, and never used."""

import random
import shutil

import pytest

from headrace.errors import HeadraceError, ManifestError, ResumeError
from headrace.ingestion import JobOptions, OperatorOptions, ingest, pipeline, verify_job_files
from headrace.ingestion.units.sealed import read_hashed, read_sealed, seal
from headrace.storage import open_blob
from headrace.store import Store

OPTIONS = {
    "workers": 1,
    "operators": OperatorOptions(dedup="exact"),
    "job": JobOptions(shard_text_bytes=4_000, max_reject_share=1),
}


class Killed(BaseException):
    pass


def killed(*_):
    raise Killed


@pytest.fixture
def corpus(tmp_path, make_documents, write_jsonl):
    documents = make_documents(60)
    path = write_jsonl(tmp_path / "a.jsonl", [*documents, *documents[:30]])
    with path.open("a") as file:
        file.write("not json\n")
    return path


@pytest.fixture
def half_done(tmp_path, corpus, monkeypatch):
    """A job killed just before its commit, with every kind of journal file."""
    out = tmp_path / "half-done"
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "commit", killed)
        with pytest.raises(Killed):
            ingest(corpus, out, **OPTIONS)
    return out


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def ingest_or_restart(corpus, out):
    """Run the job; where it is refused, with the cure, run the cure."""
    try:
        ingest(corpus, out, **OPTIONS)
    except HeadraceError as error:
        message = str(error)
    else:
        return
    assert "--restart" in message
    ingest(corpus, out, restart=True, **OPTIONS)


def test_a_flipped_bit_in_any_journal_file_is_refused_with_the_cure(tmp_path, corpus, half_done, tree):
    ingest(corpus, tmp_path / "undisturbed", **OPTIONS)
    expected = tree(tmp_path / "undisturbed")
    journal = half_done / ".ingest"
    files = sorted(
        path.relative_to(half_done) for path in journal.rglob("*") if path.is_file() and path.stat().st_size
    )
    assert {path.parts[1] for path in files} == {
        "checked.json",
        "job.json",
        "marked.json",
        "units",
        "sketches",
        "drop",
        "rejects",
    }
    rng = random.Random(7)
    for name in rng.sample(files, 10):
        out = tmp_path / "damaged"
        shutil.copytree(half_done, out)
        flip(out / name, rng.randrange(8 * (out / name).stat().st_size))
        ingest_or_restart(corpus, out)
        assert tree(out) == expected, name
        shutil.rmtree(out)


@pytest.mark.parametrize("change", ["cut", "empty", "garbage", "swapped", "missing"])
def test_a_mutated_journal_never_gives_a_traceback_or_another_store(
    tmp_path, corpus, half_done, tree, change
):
    ingest(corpus, tmp_path / "undisturbed", **OPTIONS)
    expected = tree(tmp_path / "undisturbed")
    rng = random.Random(3)
    files = sorted(
        path.relative_to(half_done) for path in (half_done / ".ingest").rglob("*") if path.is_file()
    )
    for name in rng.sample(files, 8):
        out = tmp_path / "damaged"
        shutil.copytree(half_done, out)
        data = (out / name).read_bytes()
        other = (out / rng.choice(files)).read_bytes()
        new = {"cut": data[: len(data) // 2], "empty": b"", "garbage": b"[1, {}]", "swapped": other}
        if change == "missing":
            (out / name).unlink()
        else:
            (out / name).write_bytes(new[change])
        ingest_or_restart(corpus, out)
        assert tree(out) == expected, name
        shutil.rmtree(out)


@pytest.mark.parametrize("name", ["000-sketches.bin", "000-job.json"])
def test_files_of_a_store_that_a_later_job_reads_are_checked(tmp_path, corpus, write_jsonl, name):
    ingest(corpus, tmp_path / "store", **OPTIONS)
    flip(tmp_path / "store" / "ingest" / name, 77)
    with pytest.raises((ResumeError, ManifestError), match=r"damaged|expected"):
        ingest(write_jsonl(tmp_path / "b.jsonl", ["new"]), tmp_path / "store", append=True, **OPTIONS)
    with Store.open(tmp_path / "store") as store, pytest.raises(ManifestError, match=f"{name}: damaged"):
        verify_job_files(store)


def test_a_kill_during_the_clean_up_leaves_a_journal_that_the_next_run_deletes(tmp_path, corpus, monkeypatch):
    from headrace.ingestion.units.journal import UnitJournal

    def half_clear(self, **_):
        self._blob.delete(".ingest/job.json")
        raise Killed

    with monkeypatch.context() as patched:
        # The first clear is before the job, on an empty journal.
        calls = iter([UnitJournal.clear, half_clear])
        patched.setattr(UnitJournal, "clear", lambda journal, **options: next(calls)(journal, **options))  # noqa: PLW0108
        with pytest.raises(Killed):
            ingest(corpus, tmp_path / "store", **OPTIONS)
    assert list((tmp_path / "store" / ".ingest" / "units").iterdir())
    assert "already" in ingest(corpus, tmp_path / "store", **OPTIONS).notes[0]
    assert not (tmp_path / "store" / ".ingest").exists()


def test_a_job_of_another_version_is_refused(tmp_path, corpus, half_done):
    job = read_sealed(open_blob(half_done), ".ingest/job.json")
    (half_done / ".ingest" / "job.json").write_bytes(seal({**job, "format": 1}))
    with pytest.raises(
        ResumeError, match=r"another version of headrace is there \(format 1, expected 2\).*--restart"
    ):
        ingest(corpus, half_done, **OPTIONS)


def test_a_sealed_value_is_read_as_it_was_written():
    blob = open_blob("memory://sealed")
    value = {"a": [1, 2.5, None, "é"], "b": {"c": True}}
    blob.put("x", seal(value))
    assert read_sealed(blob, "x") == value
    with pytest.raises(ResumeError, match="missing"):
        read_hashed(blob, "nothing", "0" * 32)
