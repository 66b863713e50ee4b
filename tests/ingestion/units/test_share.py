"""share.py: a job done in shares makes the store that one job makes, however its tasks run."""

import gzip
import multiprocessing

import pytest

from headrace.errors import ConfigError, ResumeError
from headrace.ingestion import FieldOptions, JobOptions, OperatorOptions, ingest
from headrace.ingestion.job.destination import open_destination
from headrace.ingestion.read.sources import SourceFile
from headrace.ingestion.units.plan import Track
from headrace.ingestion.units.record import UnitRecord
from headrace.ingestion.units.schedule import UnitSchedule
from headrace.ingestion.units.share import Share

SMALL = JobOptions(shard_text_bytes=3000)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, make_documents, write_jsonl):
    """A plain file, two packed ones, and a few small ones: tracks of all kinds."""
    root = tmp_path_factory.mktemp("corpus")
    texts = make_documents(120, seed=3)
    write_jsonl(root / "a.jsonl", [*texts[:60], texts[0], texts[1]])
    write_jsonl(root / "b.jsonl.gz", texts[60:90])
    write_jsonl(root / "c.jsonl.gz", [*texts[90:120], texts[70]])
    for i in range(4):
        (root / f"d{i}.txt").write_text(texts[i * 7])
    return root


@pytest.mark.parametrize(("count", "dedup"), [(1, "none"), (4, "none"), (25, "none"), (3, "exact")])
def test_the_store_of_shares_is_that_of_one_job(tmp_path, corpus, tree, count, dedup):
    options = {"job": SMALL, "workers": 1, "operators": OperatorOptions(dedup=dedup)}
    one = ingest(corpus, tmp_path / "one", **options)
    for _ in range(1 if dedup == "none" else 2):
        documents = 0
        for index in reversed(range(count)):
            documents += ingest(corpus, tmp_path / "many", share=f"{index}/{count}", **options).documents
    assert documents == one.documents
    assert not (tmp_path / "many" / "manifest.json").exists()
    summary = ingest(corpus, tmp_path / "many", share=f"finish/{count}", **options)
    assert (summary.documents, summary.dropped) == (one.documents, one.dropped)
    assert tree(tmp_path / "many") == tree(tmp_path / "one")


def test_shares_that_are_missing_are_named(tmp_path, corpus):
    for index in (0, 2):
        ingest(corpus, tmp_path / "store", job=SMALL, workers=1, share=f"{index}/4")
    with pytest.raises(ResumeError, match=r"2 of 4 shares are not done: --share 1/4, 3/4\. Run them"):
        ingest(corpus, tmp_path / "store", job=SMALL, workers=1, share="finish/4")
    with pytest.raises(ResumeError, match="no share of an ingest was run there"):
        ingest(corpus, tmp_path / "other", job=SMALL, workers=1, share="finish/4")


def test_the_command_without_a_share_does_what_is_missing(tmp_path, corpus, tree):
    ingest(corpus, tmp_path / "one", job=SMALL, workers=1)
    done = ingest(corpus, tmp_path / "many", job=SMALL, workers=1, share="1/3")
    summary = ingest(corpus, tmp_path / "many", job=SMALL, workers=1)
    assert 0 < summary.units_resumed <= done.units < summary.units
    assert tree(tmp_path / "many") == tree(tmp_path / "one")


def test_a_share_that_was_interrupted_is_continued_alone(tmp_path, corpus, tree):
    ingest(corpus, tmp_path / "one", job=SMALL, workers=1)
    out = tmp_path / "many"
    units = ingest(corpus, out, job=SMALL, workers=1, share="0/2").units
    ingest(corpus, out, job=SMALL, workers=1, share="1/2")
    for record in sorted((out / ".ingest/units").iterdir())[::3]:
        record.unlink()
    again = [ingest(corpus, out, job=SMALL, workers=1, share=f"{index}/2") for index in (0, 1)]
    assert again[0].units == units
    assert 0 < again[0].units_resumed < units
    ingest(corpus, out, job=SMALL, workers=1, share="finish/2")
    assert tree(out) == tree(tmp_path / "one")
    assert "there already" in ingest(corpus, out, job=SMALL, workers=1, share="1/2").notes[0]
    assert not (out / ".ingest").exists()


def test_deduplication_needs_the_first_pass_of_all_shares(tmp_path, corpus):
    options = {"job": SMALL, "workers": 1, "operators": OperatorOptions(dedup="exact")}
    first = ingest(corpus, tmp_path / "store", share="0/3", **options)
    assert "these have not yet: 1/3, 2/3" in first.notes[-1]
    with pytest.raises(ResumeError, match="not done by these shares: 1/3, 2/3"):
        ingest(corpus, tmp_path / "store", share="0/3", **options)


def test_shares_append(tmp_path, corpus, tree, write_jsonl, make_documents):
    more = write_jsonl(tmp_path / "more.jsonl", make_documents(50, seed=9))
    for out in ("one", "many"):
        ingest(corpus, tmp_path / out, job=SMALL, workers=1)
    ingest([corpus, more], tmp_path / "one", job=SMALL, workers=1, append=True)
    for share in ("0/2", "1/2", "finish/2"):
        ingest([corpus, more], tmp_path / "many", job=SMALL, workers=1, append=True, share=share)
    assert tree(tmp_path / "many") == tree(tmp_path / "one")


def test_a_share_of_another_job_is_refused(tmp_path, corpus):
    ingest(corpus, tmp_path / "store", job=SMALL, workers=1, share="0/2")
    with pytest.raises(ResumeError, match="half-done ingest with other"):
        ingest(
            corpus, tmp_path / "store", job=SMALL, workers=1, share="1/2", fields=FieldOptions(keep=["id"])
        )
    with pytest.raises(ConfigError, match="restart would delete"):
        ingest(corpus, tmp_path / "store", job=SMALL, share="1/2", restart=True)


def test_shares_run_together_and_neither_twice_nor_beside_a_whole_job(tmp_path):
    def opened(share):
        parsed = None if share is None else Share.parse(share)
        return open_destination(tmp_path / "store", None, restart=False, share=parsed)

    with opened("0/2"), opened("1/2"):
        with pytest.raises(ConfigError, match="share 1/2 is running"), opened("1/2"):
            pass
        for whole in (None, "finish/2"):
            with pytest.raises(ConfigError, match="another ingest is writing"), opened(whole):
                pass
    with opened(None), pytest.raises(ConfigError, match="another ingest is writing"), opened("0/2"):
        pass
    with opened("1/2"):
        pass
    assert not (tmp_path / "store" / ".ingest").exists()


def _run(corpus, out, share):
    ingest(corpus, out, job=SMALL, workers=1, share=share)


def test_shares_that_start_at_once_make_one_job(tmp_path, corpus, tree):
    ingest(corpus, tmp_path / "one", job=SMALL, workers=1)
    context = multiprocessing.get_context("spawn")
    tasks = [context.Process(target=_run, args=(corpus, tmp_path / "many", f"{i}/3")) for i in range(3)]
    for task in tasks:
        task.start()
    for task in tasks:
        task.join()
    assert [task.exitcode for task in tasks] == [0, 0, 0]
    ingest(corpus, tmp_path / "many", job=SMALL, workers=1, share="finish/3")
    assert tree(tmp_path / "many") == tree(tmp_path / "one")


@pytest.mark.parametrize(
    "text", ["", "3", "3/", "/3", "3/3", "-1/3", "1/0", "a/b", "1/3/4", "finish", "finish/x"]
)
def test_other_words_are_refused(text):
    with pytest.raises(ConfigError, match="expected I/N with I from 0 to N - 1, or finish/N"):
        Share.parse(text)


def _source(nbytes):
    return SourceFile(url="a", nbytes=nbytes, format="json", compression="gzip", fingerprint="")


@pytest.mark.parametrize("sizes", [[7], [5, 3], [9, 1, 4, 4, 2, 6, 1, 1]])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_each_unit_is_one_shares(sizes, count):
    """Files whose number of units is known when the last one was read."""
    sources = [_source(size) for size in sizes]
    tracks = [Track(number=i, first_source=i, last_source=i, step=10) for i in range(len(sizes))]
    tracks.append(Track(number=len(sizes), first_source=0, last_source=0, bounds=(0, 5, 9)))
    done = []
    for index in range(count):
        schedule = Share(index=index, count=count).schedule(tracks, sources, ())
        while (unit := schedule.next_unit(0)) is not None:
            ended = unit.track < len(sizes) and unit.part + 1 >= sizes[unit.track]
            record = UnitRecord(track=unit.track, part=unit.part, shards=(), ended=ended)
            schedule.finish(0, record)
            assert schedule.is_own(record)
            done.append(record)
        assert schedule.is_done
    whole = UnitSchedule(tracks, done)
    assert whole.is_done
    needed = [record.key for record in done if whole.belongs(record)]
    assert len(needed) == len(set(needed)) == sum(sizes) + 3
    share = Share(index=None, count=count)
    assert share.missing(tracks, sources, done) == []
    assert all(share.missing(tracks, sources, [one for one in done if one.key != key]) for key in needed)


def test_a_packed_file_is_one_shares_where_there_are_enough(tmp_path):
    tracks = [Track(number=i, first_source=i, last_source=i, step=10) for i in range(4)]
    schedules = [
        Share(index=i, count=2).schedule(tracks, [_source(size) for size in (8, 1, 4, 3)], ())
        for i in range(2)
    ]
    units = [[schedule.next_unit(worker).track for worker in range(2)] for schedule in schedules]
    assert units == [[0, 0], [1, 2]]


def test_gzip_written_by_python_is_the_same_in_every_share(tmp_path):
    """One packed file and more shares than it has units."""
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "one"}\n' * 30))
    for share in ("0/3", "1/3", "2/3"):
        ingest(tmp_path / "a.jsonl.gz", tmp_path / "store", job=SMALL, workers=1, share=share)
    summary = ingest(tmp_path / "a.jsonl.gz", tmp_path / "store", job=SMALL, workers=1, share="finish/3")
    assert summary.documents == 30
