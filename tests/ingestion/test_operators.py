"""Each operator by itself, and in a job: independent of workers, restarts and the order of work.

Modules: operators/normalise.py, operators/filters.py, operators/sample.py, operators/chance.py, operators/exact.py,
operators/minhash.py, operators/split.py, job/dedup.py, build/sketch_unit.py.
"""

import json
import shutil
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import ConfigError
from headrace.ingestion import FieldOptions, FilterOptions, JobOptions, OperatorOptions, ingest
from headrace.ingestion.operators import exact, minhash
from headrace.ingestion.operators.filters import filtered
from headrace.ingestion.operators.normalise import normalise
from headrace.ingestion.operators.sample import is_sampled
from headrace.ingestion.operators.split import is_validation

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60)


@given(texts)
def test_normal_text_is_composed_has_newlines_only_and_stays_so(text):
    once = normalise(text.encode())
    assert unicodedata.is_normalized("NFC", once.decode())
    assert b"\r" not in once
    assert normalise(once) == once


@pytest.mark.parametrize(
    ("text", "filters", "reason"),
    [
        ("short", FilterOptions(), "short"),
        ("long" * 100, FilterOptions(max_chars=100), "long"),
        ("|--|--|" * 100, FilterOptions(), "symbols"),
        ("A menu line that comes again and again.\n" * 10, FilterOptions(), "repeated_lines"),
        ("buy it now at the shop " * 30, FilterOptions(), "repeated_words"),
        ("x", FilterOptions(min_chars=None), None),
        ("水は高いところから低いところへ流れる。" * 2, FilterOptions(min_chars=10), None),
        (
            "A headrace brings water to the wheel; what it brought, the tailrace takes away. " + "z" * 130,
            FilterOptions(),
            None,
        ),
    ],
)
def test_a_text_is_filtered_by_the_first_rule_that_it_breaks(text, filters, reason):
    assert filtered(text.encode(), filters) == reason


def test_a_share_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"max_symbols is 3; expected a share"):
        FilterOptions(max_symbols=3)
    with pytest.raises(ConfigError, match=r"threshold is 1\.5"):
        OperatorOptions(dedup_threshold=1.5)


def test_a_sample_has_its_share_and_a_larger_one_holds_it():
    documents = [f"document {i}".encode() for i in range(20_000)]
    tenth = {d for d in documents if is_sampled(d, 0.1)}
    half = {d for d in documents if is_sampled(d, 0.5)}
    assert abs(len(tenth) - 2_000) < 5 * (20_000 * 0.1 * 0.9) ** 0.5
    assert tenth < half
    other = {d for d in documents if is_sampled(d, 0.1, seed=1)}
    assert abs(len(tenth & other) - 200) < 5 * 200**0.5
    split = {d for d in documents if is_validation(d, 0.1)}
    assert abs(len(tenth & split) - 200) < 5 * 200**0.5


@given(st.lists(st.lists(st.integers(0, 30), max_size=12), max_size=5), st.sampled_from([24, 100, 1 << 20]))
def test_the_first_of_equal_documents_is_no_repeat_and_all_others_are(parts, partition_bytes):
    """Whatever the units, and however little memory there is at a time."""
    sketches = [exact.sketch([b"%d" % n for n in part]) for part in parts]
    got = exact.repeats(sketches, partition_bytes=partition_bytes)
    flat = [n for part in parts for n in part]
    assert got.tolist() == [n in flat[:i] for i, n in enumerate(flat)]


def _near(text, rng, words):
    parts = text.split()
    for i in rng.choice(len(parts), words, replace=False):
        parts[i] = "changed"
    return " ".join(parts)


def test_near_documents_are_found_and_others_are_not():
    rng = np.random.default_rng(0)
    vocabulary = [f"word{i}" for i in range(3000)]
    originals = [" ".join(rng.choice(vocabulary, 400)) for _ in range(60)]
    near = [_near(text, rng, 4) for text in originals[:30]]
    far = [_near(text, rng, 200) for text in originals[30:]]
    everything = [text.encode() for text in [*originals, *near, *far]]
    sketches = [minhash.sketch(everything[:50]), minhash.sketch(everything[50:])]
    repeated = minhash.repeats(sketches, 0.7)
    assert not repeated[:60].any()
    assert repeated[60:90].mean() > 0.9
    assert not repeated[90:].any()


def test_a_signature_estimates_the_similarity():
    """Within what 128 permutations can give: a standard error of 0.04."""
    rng = np.random.default_rng(1)
    errors = []
    for words in (5, 20, 60, 120):
        text = " ".join(f"w{n}" for n in rng.integers(0, 10**6, 600))
        other = _near(text, rng, words)
        a, b = (set(minhash.shingles(t.encode()).tolist()) for t in (text, other))
        x, y = minhash.sketch([text.encode(), other.encode()])
        errors.append(float((x == y).mean()) - len(a & b) / len(a | b))
    assert np.abs(errors).max() < 0.15


def test_equal_texts_but_for_case_and_blanks_have_equal_signatures():
    a, b, c = minhash.sketch([b"The River  turns\nthe Wheel", b"the river turns the wheel", b"the river"])
    assert (a == b).all()
    assert (a != c).mean() > 0.5


def _corpus(tmp_path, make_documents, write_jsonl):
    documents = make_documents(300, seed=7)
    repeated = [documents[3], documents[299], "unique one", documents[3]]
    return [
        write_jsonl(tmp_path / "a.jsonl.gz", [*documents, documents[10]]),
        write_jsonl(tmp_path / "b.jsonl", repeated),
    ], [*documents, "unique one"]


SMALL = {"job": JobOptions(shard_text_bytes=15_000)}
OPERATORS = {
    "normalise": OperatorOptions(normalise=True),
    "filters": OperatorOptions(filters=FilterOptions(min_chars=150)),
    "sample": OperatorOptions(sample=0.5),
    "exact": OperatorOptions(dedup="exact"),
    "minhash": OperatorOptions(dedup="minhash"),
    "all": OperatorOptions(
        normalise=True, filters=FilterOptions(min_chars=50), sample=0.9, dedup="exact", seed=3
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_in_a_job_does_not_depend_on_the_workers(
    tmp_path, make_documents, write_jsonl, tree, name
):
    files, _ = _corpus(tmp_path, make_documents, write_jsonl)
    first = ingest(files, tmp_path / "one", workers=1, operators=OPERATORS[name], **SMALL)
    ingest(files, tmp_path / "two", workers=2, operators=OPERATORS[name], **SMALL)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert first.documents + sum(first.dropped.values()) == 305


def test_exact_dedup_keeps_the_first_in_the_order_of_the_sources(
    tmp_path, make_documents, write_jsonl, texts_of
):
    files, wanted = _corpus(tmp_path, make_documents, write_jsonl)
    summary = ingest(files, tmp_path / "store", workers=1, operators=OperatorOptions(dedup="exact"), **SMALL)
    assert texts_of(tmp_path / "store") == wanted
    assert summary.dropped == {"repeated": 4}


class Killed(BaseException):
    pass


def test_dedup_killed_at_any_write_gives_the_same_bytes_when_run_again(
    tmp_path, make_documents, write_jsonl, tree, monkeypatch
):
    from headrace.storage import LocalBlob

    files, _ = _corpus(tmp_path, make_documents, write_jsonl)

    def run(name, validation):
        operators = OperatorOptions(dedup="exact", validation_share=0.2, validation_out=tmp_path / validation)
        ingest(files, tmp_path / name, workers=1, operators=operators, **SMALL)

    run("wanted", "wanted-validation")
    real_put = LocalBlob.put
    for kill_at in range(1, 40, 3):
        writes = 0

        def put(self, path, data, kill_at=kill_at):
            nonlocal writes
            writes += 1
            if writes == kill_at:
                raise Killed
            real_put(self, path, data)

        with monkeypatch.context() as patched:
            patched.setattr(LocalBlob, "put", put)
            with pytest.raises(Killed):
                run("store", "validation")
        run("store", "validation")
        assert tree(tmp_path / "store") == tree(tmp_path / "wanted")
        assert tree(tmp_path / "validation") == tree(tmp_path / "wanted-validation")
        shutil.rmtree(tmp_path / "store")
        shutil.rmtree(tmp_path / "validation")


def test_an_append_drops_what_the_store_has_seen(tmp_path, make_documents, write_jsonl, texts_of):
    files, wanted = _corpus(tmp_path, make_documents, write_jsonl)
    ingest(files[0], tmp_path / "store", workers=1, operators=OperatorOptions(dedup="exact"), **SMALL)
    added = ingest(
        files, tmp_path / "store", append=True, workers=1, operators=OperatorOptions(dedup="exact"), **SMALL
    )
    assert (added.documents, added.dropped) == (1, {"repeated": 3})
    assert texts_of(tmp_path / "store") == wanted
    with pytest.raises(ConfigError, match=r"job 0 was run with dedup exact .*, now it is minhash"):
        ingest(
            write_jsonl(tmp_path / "c.jsonl", ["new"]),
            tmp_path / "store",
            append=True,
            workers=1,
            operators=OperatorOptions(dedup="minhash"),
        )


def test_the_split_gives_every_document_to_one_store(tmp_path, make_documents, write_jsonl, texts_of):
    documents = make_documents(500, seed=8)
    path = write_jsonl(tmp_path / "a.jsonl", [*documents, *documents[:50]])
    summary = ingest(
        path,
        tmp_path / "train",
        workers=1,
        operators=OperatorOptions(validation_share=0.2, validation_out=tmp_path / "validation"),
        fields=FieldOptions(keep=["id"]),
        **SMALL,
    )
    train, validation = texts_of(tmp_path / "train"), texts_of(tmp_path / "validation")
    assert sorted(train + validation) == sorted([*documents, *documents[:50]])
    assert not set(train) & set(validation)
    assert 60 < len(set(validation)) < 140
    assert (summary.documents, summary.validation_documents) == (len(train), len(validation))
    # More of the same corpus later moves no document across.
    more = write_jsonl(tmp_path / "more.jsonl", make_documents(50, seed=9))
    ingest(
        [path, more],
        tmp_path / "train",
        append=True,
        workers=1,
        operators=OperatorOptions(validation_share=0.2, validation_out=tmp_path / "validation"),
        fields=FieldOptions(keep=["id"]),
        **SMALL,
    )
    assert texts_of(tmp_path / "train")[: len(train)] == train
    assert texts_of(tmp_path / "validation")[: len(validation)] == validation
    assert len(texts_of(tmp_path / "train")) + len(texts_of(tmp_path / "validation")) == 600


def test_kept_fields_stay_with_their_documents_through_all_operators(tmp_path, write_jsonl, make_documents):
    import pyarrow as pa

    documents = make_documents(120, seed=4)
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": t, "same": t}) + "\n" for t in [*documents, *documents[::7]]))
    ingest(
        path,
        tmp_path / "train",
        workers=1,
        operators=OperatorOptions(
            validation_share=0.3,
            validation_out=tmp_path / "validation",
            filters=FilterOptions(min_chars=60),
            sample=0.8,
            dedup="exact",
        ),
        fields=FieldOptions(keep=["same"]),
        job=JobOptions(shard_text_bytes=3_000),
    )
    from headrace.store import Store

    for name in ("train", "validation"):
        with Store.open(str(tmp_path / name)) as store:
            kept = []
            for entry in store.shards:
                file = tmp_path / name / "data" / f"{entry.name}.docs.arrow"
                kept += pa.ipc.open_file(file.read_bytes()).read_all()["same"].to_pylist()
            tokens = store.read(0, store.num_tokens)
            ends = store.document_ends(0, store.num_tokens)
            read = [store.tokenizer.decode(t) for t in np.split(tokens, ends[:-1])]
        assert kept == read


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"validation_share": 0.1}, "expected both or neither"),
        ({"validation_out": "v"}, "expected both or neither"),
        ({"sample": 0.0}, r"sample is 0\.0; expected a share above 0"),
        ({"validation_share": 1.0, "validation_out": "v"}, r"validation_share is 1\.0"),
    ],
)
def test_a_share_that_makes_no_sense_is_named(options, says):
    with pytest.raises(ConfigError, match=says):
        OperatorOptions(**options)


def test_without_rensa_the_error_names_the_extra(monkeypatch, tmp_path, write_jsonl):
    monkeypatch.setitem(sys.modules, "rensa", None)
    with pytest.raises(ConfigError, match=r"pip install 'headrace\[dedup\]'"):
        ingest(
            write_jsonl(tmp_path / "a.jsonl", ["a"]),
            tmp_path / "store",
            operators=OperatorOptions(dedup="minhash"),
        )
