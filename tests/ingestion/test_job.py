"""A job that is killed, repeated, resumed, refused: the same bytes, or one clear line.

Modules: pipeline.py, run.py, job/job.py, job/commit.py, job/progress.py, job/summary.py, build/tokenize_unit.py,
build/shard_writer.py, build/packer.py, build/tokenizer_check.py, build/document_reader.py, units/plan.py,
units/schedule.py, units/queue.py.
"""

import errno
import gzip
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
from dataclasses import replace

import pytest

from headrace.errors import ConfigError, DocumentError, ResumeError, SourceError, SpaceError, TokenizerError
from headrace.ingestion import FieldOptions, JobOptions, ingest, pipeline
from headrace.storage import LocalBlob
from headrace.store import Store

SMALL = {"job": JobOptions(shard_text_bytes=20_000)}
"""Many units of a small corpus."""


@pytest.fixture
def corpus(tmp_path, make_documents, write_jsonl):
    """A large packed file, a large plain one, small ones: open, cut and grouped tracks."""
    files = [
        write_jsonl(tmp_path / "corpus" / "a.jsonl.gz", make_documents(400, seed=1)),
        write_jsonl(tmp_path / "corpus" / "b.jsonl", make_documents(250, seed=2)),
        write_jsonl(tmp_path / "corpus" / "c.jsonl.gz", make_documents(20, seed=3)),
        write_jsonl(tmp_path / "corpus" / "d.jsonl", make_documents(20, seed=4)),
    ]
    (tmp_path / "corpus" / "e.txt").write_text("one document\nof two lines\n")
    bad = b'{"text": "fine"}\n{"text": "b\xffroken"}\n{"no": 1}\n{"text": 5}\n\n{"text": ""}\n'
    bad += b'not json\n{"text":"end"}\n'
    (tmp_path / "corpus" / "f.jsonl").write_bytes(bad)
    return [*files, tmp_path / "corpus" / "e.txt", tmp_path / "corpus" / "f.jsonl"]


def test_documents_come_out_as_they_went_in_and_in_order(
    tmp_path, corpus, make_documents, texts_of, tokenizer_json
):
    summary = ingest(corpus, tmp_path / "store", tokenizer=tokenizer_json, workers=1, **SMALL)
    wanted = [
        *(
            text
            for seed, count in ((1, 400), (2, 250), (3, 20), (4, 20))
            for text in make_documents(count, seed=seed)
        ),
        "one document\nof two lines\n",
        "fine",
        "end",
    ]
    assert texts_of(tmp_path / "store") == wanted
    assert summary.documents == len(wanted)
    assert summary.bytes_in == sum(len(text.encode()) for text in wanted)
    assert summary.rejects == {"invalid_utf8": 1, "no_text": 2, "broken_json": 1}
    assert summary.dropped == {"empty": 1}
    with Store.open(str(tmp_path / "store")) as store:
        assert (store.num_documents, store.num_tokens) == (summary.documents, summary.tokens)
        assert store.num_shards == summary.num_shards > 10
    assert summary.limiting_stage in summary.stages


@pytest.mark.parametrize("workers", [2, 3])
def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path, corpus, tree, tokenizer_json, workers):
    ingest(corpus, tmp_path / "one", tokenizer=tokenizer_json, workers=1, **SMALL)
    ingest(corpus, tmp_path / "many", tokenizer=tokenizer_json, workers=workers, **SMALL)
    assert tree(tmp_path / "one") == tree(tmp_path / "many")


class Killed(BaseException):
    """Not an Exception: nothing may catch it on its way out, as nothing catches SIGKILL."""


def test_a_job_killed_at_any_write_gives_the_same_bytes_when_run_again(tmp_path, corpus, tree, monkeypatch):
    """At every single write of the job, before it and after it."""
    real_put = LocalBlob.put
    writes = 0
    kill_at, kill_after_writing = None, False

    def put(self, path, data):
        nonlocal writes
        if writes == kill_at and not kill_after_writing:
            raise Killed
        real_put(self, path, data)
        if writes == kill_at:
            raise Killed
        writes += 1

    monkeypatch.setattr(LocalBlob, "put", put)
    monkeypatch.setattr("headrace.storage.files.fsync_directory", lambda path: None)
    options = {"workers": 1, "job": JobOptions(shard_text_bytes=40_000)}
    ingest(corpus, tmp_path / "undisturbed", **options)
    wanted, total = tree(tmp_path / "undisturbed"), writes
    assert total > 20
    for moment in range(0, total, 3):
        kill_at, kill_after_writing, writes = moment, moment % 2 == 0, 0
        out = tmp_path / f"killed-{moment}"
        with pytest.raises(Killed):
            ingest(corpus, out, **options)
        kill_at, writes = None, 0
        ingest(corpus, out, **options)
        assert tree(out) == wanted, f"killed at write {moment}"
        # A unit is three files of a shard, a record, and perhaps its rejects: no more than one is done again.
        assert writes <= max(total - moment, 0) + 8
        shutil.rmtree(out)


CHILD = """
import sys
import tarfile
from headrace.ingestion import JobOptions, ingest
def progress(done, total, note):
    print(done, flush=True)
ingest(sys.argv[2:], sys.argv[1], workers=2, job=JobOptions(shard_text_bytes=20_000), progress=progress)
"""


def test_a_process_killed_at_random_moments_gives_the_same_bytes_in_the_end(tmp_path, corpus, tree):
    """SIGKILL to the parent; its workers leave by themselves."""
    ingest(corpus, tmp_path / "undisturbed", workers=1, **SMALL)
    out = tmp_path / "killed"
    rng = random.Random(5)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(out), *map(str, corpus)],
            stdout=subprocess.PIPE,
            env=environment,
        )
        with child:
            for _ in range(rng.randint(2, 30)):
                child.stdout.readline()
            child.send_signal(signal.SIGKILL)
    ingest(corpus, out, workers=2, **SMALL)
    assert tree(out) == tree(tmp_path / "undisturbed")


def test_a_half_done_job_is_no_store(tmp_path, corpus, monkeypatch):
    from headrace.errors import StoreError

    _half_done(monkeypatch, corpus, tmp_path / "store")
    with pytest.raises(StoreError):
        Store.open(str(tmp_path / "store"))


def _killed(*_):
    raise Killed


def _half_done(monkeypatch, corpus, out, **options):
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "commit", _killed)
        with pytest.raises(Killed):
            ingest(corpus, out, workers=1, **SMALL, **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"codec": "none"}, "codec was 'zstd', is 'none'"),
        ({"fields": FieldOptions(text_field="id")}, r"fields\.text_field was 'text', is 'id'"),
        ({"job": JobOptions(shard_text_bytes=20_000, block_tokens=1024)}, "block_tokens was 131072, is 1024"),
    ],
)
def test_other_options_on_a_half_done_job_are_refused_by_name(tmp_path, corpus, monkeypatch, options, says):
    _half_done(monkeypatch, corpus, tmp_path / "store")
    with pytest.raises(ResumeError, match=says):
        ingest(corpus, tmp_path / "store", workers=1, **{**SMALL, **options})
    ingest(
        corpus,
        tmp_path / "store",
        workers=1,
        restart=True,
        **{**SMALL, **options, "job": replace(options.get("job", SMALL["job"]), max_reject_share=1)},
    )


def test_another_tokenizer_on_a_half_done_job_is_refused_by_name(
    tmp_path, corpus, monkeypatch, tokenizer_json
):
    _half_done(monkeypatch, corpus, tmp_path / "store")
    with pytest.raises(ResumeError, match=r"tokenizer was byte, is .*--restart"):
        ingest(corpus, tmp_path / "store", tokenizer=tokenizer_json, workers=1, **SMALL)


def test_a_changed_source_on_a_half_done_job_is_refused_by_name(tmp_path, corpus, monkeypatch, write_jsonl):
    _half_done(monkeypatch, corpus, tmp_path / "store")
    write_jsonl(corpus[3], ["changed"])
    with pytest.raises(ResumeError, match=r"d\.jsonl has changed"):
        ingest(corpus, tmp_path / "store", workers=1, **SMALL)
    with pytest.raises(ResumeError, match="there were 6 sources, and are 5"):
        ingest(corpus[:5], tmp_path / "store", workers=1, **SMALL)


def test_the_same_command_on_a_finished_store_does_nothing(tmp_path, corpus, tree):
    first = ingest(corpus, tmp_path / "store", workers=1, **SMALL)
    before = tree(tmp_path / "store")
    again = ingest(corpus, tmp_path / "store", workers=1, **SMALL)
    assert tree(tmp_path / "store") == before
    assert (again.documents, again.tokens, again.rejects) == (first.documents, first.tokens, first.rejects)
    assert "already" in again.notes[0]


def test_another_command_on_a_finished_store_is_refused_and_restart_replaces_it(tmp_path, corpus, tree):
    ingest(corpus, tmp_path / "store", workers=1, **SMALL)
    before = tree(tmp_path / "store")
    with pytest.raises(ConfigError, match=r"there is a store already.*there were 6 sources, and are 2"):
        ingest(corpus[:2], tmp_path / "store", workers=1, **SMALL)
    assert tree(tmp_path / "store") == before
    ingest(corpus[:2], tmp_path / "store", workers=1, restart=True, **SMALL)
    ingest(corpus[:2], tmp_path / "fresh", workers=1, **SMALL)
    assert tree(tmp_path / "store") == tree(tmp_path / "fresh")


def test_a_folder_that_is_no_store_is_left_alone(tmp_path, corpus):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"meow")
    with pytest.raises(ConfigError, match=r"not empty, and not a store: it holds cat\.jpg"):
        ingest(corpus, tmp_path / "photos", workers=1)
    with pytest.raises(ConfigError, match="not empty"):
        ingest(corpus, tmp_path / "photos", workers=1, restart=True)
    assert [file.name for file in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


def test_two_jobs_at_one_place_exclude_each_other_and_leave_no_lock(tmp_path, corpus):
    seen = []

    def progress(done, total, note):
        if not seen:
            seen.append(note)
            with pytest.raises(
                ConfigError, match=rf"another ingest is writing to it \(process {os.getpid()}\)"
            ):
                ingest(corpus, tmp_path / "store", workers=1, **SMALL)

    ingest(corpus, tmp_path / "store", workers=1, progress=progress, **SMALL)
    assert seen
    assert not (tmp_path / "store" / ".ingest").exists()


def test_a_full_device_is_one_clear_line_and_going_on_works(tmp_path, corpus, tree, monkeypatch):
    ingest(corpus, tmp_path / "wanted", workers=1, **SMALL)
    real_put = LocalBlob.put
    writes = 0

    def put(self, path, data):
        nonlocal writes
        writes += 1
        if writes == 12:
            raise OSError(errno.ENOSPC, "No space left on device", str(self.path(path)))
        real_put(self, path, data)

    with monkeypatch.context() as patched:
        patched.setattr(LocalBlob, "put", put)
        with pytest.raises(SpaceError, match=r"no space left on the device.*same command again"):
            ingest(corpus, tmp_path / "store", workers=1, **SMALL)
    assert not (tmp_path / "store" / "manifest.json").exists()
    ingest(corpus, tmp_path / "store", workers=1, **SMALL)
    assert tree(tmp_path / "store") == tree(tmp_path / "wanted")


def test_rejects_are_listed_with_file_line_and_byte(tmp_path, corpus):
    ingest(corpus, tmp_path / "store", workers=1, **SMALL)
    listed = [json.loads(line) for line in (tmp_path / "store" / "rejects.jsonl").read_text().splitlines()]
    assert [(r["reason"], r["line"], r["offset"]) for r in listed] == [
        ("invalid_utf8", 2, 28),
        ("no_text", 3, 37),
        ("no_text", 4, 47),
        ("broken_json", 7, 73),
    ]
    assert all(r["source"] == str(corpus[5]) for r in listed)
    assert "byte 0xff" in listed[0]["detail"]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", ["bad.jsonl", "bad.jsonl.gz"])
def test_lines_of_rejects_are_counted_from_the_files_start_whatever_the_units(tmp_path, name, workers):
    lines = [b'{"text": "fine %d"}' % i for i in range(4000)]
    for i in (5, 1700, 3999):
        lines[i] = b"{broken"
    data = b"\n".join(lines)
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    ingest(path, tmp_path / "store", workers=workers, job=JobOptions(shard_text_bytes=9_000))
    listed = [json.loads(line) for line in (tmp_path / "store" / "rejects.jsonl").read_text().splitlines()]
    assert [r["line"] for r in listed] == [6, 1701, 4000]
    assert [data[r["offset"] - 1 :][:7] for r in listed] == [b"{broken"] * 3


@pytest.mark.parametrize("workers", [1, 2])
def test_strict_stops_at_the_first_bad_document_by_file_line_and_byte(tmp_path, make_documents, workers):
    lines = [json.dumps({"text": text}).encode() for text in make_documents(600)]
    lines[150], lines[430] = b'{"text": "a\xc3("}', b"{"
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"\n".join(lines))
    at = sum(len(line) + 1 for line in lines[:150]) + 11
    with pytest.raises(DocumentError, match=rf"bad\.jsonl: line 151: byte {at}: invalid UTF-8: byte 0xc3"):
        ingest(
            path, tmp_path / "store", workers=workers, job=JobOptions(strict=True, shard_text_bytes=20_000)
        )
    assert not (tmp_path / "store" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"text": "a\xff"}\n', r"bad\.jsonl: line 1: byte 11: invalid UTF-8: byte 0xff"),
        (b'{"body": "a"}\n', r"bad\.jsonl: line 1: byte 0: no text field 'text'; the fields are: body"),
        (
            b'{"text": "a"}\n{"text": 1}\n',
            r"bad\.jsonl: line 2: byte 14: the text field 'text' is no string but",
        ),
        (b'{"text": "a"}\n["a"]\n', r"bad\.jsonl: line 2: byte 14: .*the record is no object but a list"),
        (b'{"text": "a"}\n{"text": "a", }\n', r"bad\.jsonl: line 2: byte \d+: broken JSON"),
        (b'{"text": "a\\ud800"}\n', r"bad\.jsonl: line 1: byte \d+: broken JSON"),
        (b"", r"bad\.jsonl: empty: no documents in 1 files"),
        (b"\n \n", r"bad\.jsonl: empty: no documents in 1 files"),
        (b'{"text": ""}\n', r"bad\.jsonl: empty: .*1 were left out: 1 empty"),
    ],
)
def test_bad_input_is_one_clear_line_and_leaves_no_store(tmp_path, data, says):
    (tmp_path / "bad.jsonl").write_bytes(data)
    with pytest.raises((DocumentError, SourceError), match=says) as caught:
        ingest(tmp_path / "bad.jsonl", tmp_path / "store")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "store" / "manifest.json").exists()


def test_bad_text_is_named_by_line_and_byte(tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"one\ntwo\xff\nthree\n")
    for mode, line in (("file", 2), ("line", 2), ("block", 2)):
        with pytest.raises(DocumentError, match=rf"bad\.txt: line {line}: byte 7: invalid UTF-8: byte 0xff"):
            ingest(
                tmp_path / "bad.txt",
                tmp_path / f"store-{mode}",
                fields=FieldOptions(text_mode=mode),
                job=JobOptions(strict=True),
            )


def test_too_many_bad_documents_fail_the_job_and_a_larger_share_lets_it_finish(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "fine"}\n' * 9 + b"{\n")
    with pytest.raises(
        DocumentError, match=r"line 10: .*1 of 10 documents are bad; max_reject_share allows 0\.05"
    ):
        ingest(tmp_path / "x.jsonl", tmp_path / "store")
    summary = ingest(tmp_path / "x.jsonl", tmp_path / "store", job=JobOptions(max_reject_share=0.1))
    assert (summary.documents, summary.units_resumed) == (9, 1)


def test_documents_over_the_limit_are_rejected_and_the_others_kept(tmp_path, texts_of):
    documents = ["a", "b" * 1001, "c" * 1000, "d" * 300_000, "e"]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    summary = ingest(
        path,
        tmp_path / "store",
        fields=FieldOptions(max_document_bytes=1000),
        job=JobOptions(max_reject_share=1),
    )
    assert texts_of(tmp_path / "store") == ["a", "c" * 1000, "e"]
    assert summary.rejects == {"too_long": 2}


def test_other_fields_are_kept_beside_their_documents(tmp_path):
    records = [
        {"text": "one", "url": "http://a", "n": 1, "tags": ["x", "y"]},
        {"text": "", "url": "dropped"},
        {"text": "two", "n": None},
        {"text": "three", "url": "http://c", "n": {"k": 1.5}},
    ]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    ingest(
        path,
        tmp_path / "store",
        fields=FieldOptions(keep=["url", "n", "tags"]),
        job=JobOptions(shard_text_bytes=4),
    )
    import pyarrow as pa

    rows = []
    for file in sorted((tmp_path / "store" / "data").glob("*.docs.arrow")):
        rows += pa.ipc.open_file(file.read_bytes()).read_all().drop(["end"]).to_pylist()
    assert rows == [
        {"url": "http://a", "n": "1", "tags": '["x","y"]'},
        {"url": None, "n": None, "tags": None},
        {"url": "http://c", "n": '{"k":1.5}', "tags": None},
    ]


def test_an_append_adds_what_is_new_and_keeps_every_row(tmp_path, corpus, texts_of, tree):
    ingest(corpus[:3], tmp_path / "store", workers=1, **SMALL)
    before_files = tree(tmp_path / "store")
    before_texts = texts_of(tmp_path / "store")
    with Store.open(str(tmp_path / "store")) as store:
        snapshot_tokens = store.num_tokens
        first = store.read(0, snapshot_tokens)
    added = ingest(
        corpus,
        tmp_path / "store",
        workers=1,
        append=True,
        job=JobOptions(max_reject_share=1, shard_text_bytes=20_000),
    )
    assert added.num_sources == 3
    assert "in the store already: 3 of 6 sources (3 by size and times)" in added.notes
    after = texts_of(tmp_path / "store")
    assert after[: len(before_texts)] == before_texts
    assert len(after) == len(before_texts) + added.documents
    with Store.open(str(tmp_path / "store"), snapshot=1) as old:
        assert (old.read(0, old.num_tokens) == first).all()
    files = tree(tmp_path / "store")
    assert all(files[name] == data for name, data in before_files.items() if name.startswith("data/"))
    again = ingest(
        corpus,
        tmp_path / "store",
        workers=1,
        append=True,
        job=JobOptions(max_reject_share=1, shard_text_bytes=20_000),
    )
    assert (again.documents, again.num_sources) == (0, 0)
    assert tree(tmp_path / "store") == files


def test_an_append_killed_at_any_write_gives_the_same_bytes_when_run_again(
    tmp_path, corpus, tree, monkeypatch
):
    ingest(corpus[:1], tmp_path / "base", workers=1)
    shutil.copytree(tmp_path / "base", tmp_path / "undisturbed")
    ingest(corpus[1:], tmp_path / "undisturbed", workers=1, append=True, job=JobOptions(max_reject_share=1))
    wanted = tree(tmp_path / "undisturbed")
    real_put = LocalBlob.put
    for kill_at in range(14):
        writes = 0

        def put(self, path, data, kill_at=kill_at):
            nonlocal writes
            writes += 1
            if writes == kill_at:
                raise Killed
            real_put(self, path, data)

        out = tmp_path / f"killed-{kill_at}"
        shutil.copytree(tmp_path / "base", out)
        with monkeypatch.context() as patched:
            patched.setattr(LocalBlob, "put", put)
            try:
                ingest(corpus[1:], out, workers=1, append=True, job=JobOptions(max_reject_share=1))
            except Killed:
                with Store.open(str(out)) as store:  # the old snapshot is readable all the while
                    assert store.num_documents in (400, 400 + 250 + 20 + 20 + 3)
        ingest(corpus[1:], out, workers=1, append=True, job=JobOptions(max_reject_share=1))
        assert tree(out) == wanted
        shutil.rmtree(out)


def test_an_append_with_another_tokenizer_is_refused(tmp_path, corpus, tokenizer_json, tree):
    ingest(corpus[:1], tmp_path / "store", workers=1)
    before = tree(tmp_path / "store")
    with pytest.raises(ConfigError, match="tokenizer is byte"):
        ingest(
            corpus[1:],
            tmp_path / "store",
            tokenizer=tokenizer_json,
            workers=1,
            append=True,
            job=JobOptions(max_reject_share=1),
        )
    assert {k: v for k, v in tree(tmp_path / "store").items() if not k.startswith(".ingest")} == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"codec": "gzip"}, "codec is 'gzip'; expected none, lz4 or zstd"),
        ({"workers": 0}, "workers is 0"),
        ({"distribute": "local "}, "distribute is 'local '"),
        ({"append": True, "restart": True}, "expected one of them"),
        ({"distribute": "spark"}, "distribute is 'spark'; expected local or ray"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(tmp_path, corpus, options, says):
    with pytest.raises(ConfigError, match=says):
        ingest(corpus, tmp_path / "store", **options)
    assert not (tmp_path / "store").exists()


def test_units_that_lay_behind_a_file_s_end_are_not_counted_as_gone_on_with(tmp_path, corpus, monkeypatch):
    """A second worker on one packed file looks behind its end, and writes that down as well."""
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "commit", _killed)
        with pytest.raises(Killed):
            ingest(corpus[:1], tmp_path / "store", workers=2, **SMALL)
    summary = ingest(corpus[:1], tmp_path / "store", workers=2, **SMALL)
    assert summary.units_resumed == summary.units
    assert summary.notes == (f"continued after {summary.units} units of an earlier run",)


def test_progress_ends_at_the_total_and_never_goes_back(tmp_path, corpus):
    seen = []
    ingest(corpus, tmp_path / "store", workers=1, progress=lambda *event: seen.append(event), **SMALL)
    done = [event[0] for event in seen]
    total = sum(path.stat().st_size for path in corpus)
    assert done == sorted(done)
    assert done[-1] == total
    assert {event[1] for event in seen} == {total}
    assert "MB/s" in seen[-1][2]
    assert "documents" in seen[-1][2]


def test_a_store_in_memory_is_made_like_any_other(corpus, texts_of, tmp_path):
    ingest(corpus, "memory://ingested-by-test", workers=2, **SMALL)
    ingest(corpus, tmp_path / "store", workers=1, **SMALL)
    assert texts_of("memory://ingested-by-test") == texts_of(tmp_path / "store")


def test_an_engine_that_is_not_exact_on_the_corpus_is_replaced_by_the_reference(
    tmp_path, corpus, tokenizer_json, monkeypatch, tree
):
    """And the summary says so; nothing that the wrong engine did stays."""
    from headrace.tokens.gigatoken import Gigatoken

    ingest(corpus, tmp_path / "right", tokenizer=tokenizer_json, workers=1, **SMALL)
    real = Gigatoken.encode_batch

    def wrong(self, texts):
        ids, offsets = real(self, texts)
        marked = ["#1." in text.decode() for text in texts]
        ids = ids.copy()
        for i in range(len(texts)):
            if marked[i]:
                ids[offsets[i]] ^= 1
        return ids, offsets

    monkeypatch.setattr(Gigatoken, "encode_batch", wrong)
    summary = ingest(corpus, tmp_path / "store", tokenizer=tokenizer_json, workers=1, **SMALL)
    assert summary.tokenizer_engine == "tokenizers"
    assert "not exact on this corpus" in summary.notes[0]
    assert tree(tmp_path / "store") == tree(tmp_path / "right")


def test_a_tokenizer_whose_end_can_be_written_as_text_is_refused(tmp_path):
    """A document that could forge another's end would break every promise about documents."""

    class Forgeable:
        name, vocab_size, eos_id, fingerprint, engine = "forgeable", 300, 65, "0" * 32, "byte"

        def encode_batch(self, texts):
            from headrace.tokens.byte import ByteTokenizer

            return ByteTokenizer().encode_batch(texts)

        def as_reference(self):
            return self

        def added_tokens(self):
            return []

        def files(self):
            return {}

    (tmp_path / "x.txt").write_text("fine\n\nAn A")
    with pytest.raises(TokenizerError, match=r"'An A' encodes to the end-of-document id 65"):
        ingest(
            tmp_path / "x.txt",
            tmp_path / "store",
            tokenizer=Forgeable(),
            fields=FieldOptions(text_mode="block"),
        )


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt", "a.tar"])
def test_a_kept_field_that_no_document_has_is_named(tmp_path, name):
    """Tables and CSV refuse it; where records need not have the same fields, a note says it."""
    if name == "a.tar":
        with tarfile.open(tmp_path / name, "w") as tar:
            member = tarfile.TarInfo("x.json")
            member.size = len(b'{"text": "x"}')
            tar.addfile(member, io.BytesIO(b'{"text": "x"}'))
    else:
        (tmp_path / name).write_text('{"text": "x", "lang": null, "id": 1}')
    summary = ingest(tmp_path / name, tmp_path / "store", fields=FieldOptions(keep=["lang", "id"]), workers=1)
    named = [note for note in summary.notes if "kept field" in note]
    absent = ["lang"] if name.startswith("a.json") else ["lang", "id"]
    assert [f"'{field}'" in note for field, note in zip(absent, named, strict=True)] == [True] * len(absent)


def test_a_half_done_ingest_that_did_nothing_gives_way(tmp_path):
    """A wrong name of a column is mended by the right command, without --restart."""
    (tmp_path / "a.csv").write_text("id,body\n1,x\n")
    with pytest.raises(SourceError, match="no column 'text'"):
        ingest(tmp_path / "a.csv", tmp_path / "store", workers=1)
    right = FieldOptions(text_field="body")
    assert ingest(tmp_path / "a.csv", tmp_path / "store", fields=right, workers=1).documents == 1
