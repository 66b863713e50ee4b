"""StoreWriter: documents of any iterator become a store, whole or not at all."""

import numpy as np
import pytest

import headrace as hr
from headrace.errors import ConfigError, DocumentError
from headrace.ingestion import FieldOptions, JobOptions, StoreWriter, ingest


def test_documents_of_an_iterator_become_a_store_in_their_order(
    tmp_path, make_documents, texts_of, tokenizer_json
):
    documents = make_documents(300)
    with StoreWriter(
        tmp_path / "store", tokenizer=tokenizer_json, job=JobOptions(shard_text_bytes=9_000)
    ) as writer:
        writer.extend(text for text in documents[:100])
        for text in documents[100:]:
            writer.write(text.encode())
    assert texts_of(tmp_path / "store") == documents
    assert (writer.num_documents, writer.snapshot) == (300, 1)
    with hr.Store.open(tmp_path / "store") as store:
        assert store.num_shards > 2
        assert store.num_tokens == writer.num_tokens


def test_the_shards_are_those_of_ingest_of_the_same_texts(tmp_path, make_documents, write_jsonl, tree):
    documents = make_documents(200)
    ingest(
        write_jsonl(tmp_path / "a.jsonl", documents),
        tmp_path / "ingested",
        workers=1,
        job=JobOptions(shard_text_bytes=10**6),
    )
    with StoreWriter(tmp_path / "written", job=JobOptions(shard_text_bytes=10**6)) as writer:
        writer.extend(documents)
    data = [
        {k: v for k, v in tree(tmp_path / name).items() if k.startswith("data/")}
        for name in ("ingested", "written")
    ]
    assert data[0] == data[1]


def test_rows_of_a_dataset_keep_the_fields_that_are_named(tmp_path, texts_of):
    datasets = pytest.importorskip("datasets")
    import pyarrow as pa

    rows = datasets.Dataset.from_dict({"body": ["one", "zwei"], "lang": ["en", "de"], "n": [1, 2]})
    with StoreWriter(
        tmp_path / "store", fields=FieldOptions(text_field="body", keep=["lang", "n"])
    ) as writer:
        writer.extend(rows)
    assert texts_of(tmp_path / "store") == ["one", "zwei"]
    [file] = (tmp_path / "store" / "data").glob("*.docs.arrow")
    kept = pa.ipc.open_file(file).read_all()
    assert kept.select(["lang", "n"]).to_pydict() == {"lang": ["en", "de"], "n": ["1", "2"]}


def test_a_kept_field_that_no_document_has_is_named_in_a_warning(tmp_path, caplog):
    with StoreWriter(tmp_path / "store", fields=FieldOptions(keep=["lang", "url"])) as writer:
        writer.write("without")
        writer.extend([{"text": "with", "lang": "en"}])
    assert [record.getMessage() for record in caplog.records] == [
        "no document has a value in the kept field 'url': is this its name? The store has nulls there"
    ]


def test_an_error_in_the_block_leaves_no_store_and_the_next_writer_starts_over(
    tmp_path, make_documents, texts_of
):
    def broken():
        yield from make_documents(50)
        raise RuntimeError("the source broke")

    small = JobOptions(shard_text_bytes=500)
    with pytest.raises(RuntimeError), StoreWriter(tmp_path / "store", job=small) as writer:
        writer.extend(broken())
    assert not (tmp_path / "store" / "manifest.json").exists()
    with StoreWriter(tmp_path / "store", job=small) as writer:
        writer.write("whole")
    assert texts_of(tmp_path / "store") == ["whole"]
    assert len(list((tmp_path / "store" / "data").iterdir())) == 3


def test_a_store_that_is_there_is_appended_to_or_replaced_only_when_asked(tmp_path, texts_of, write_jsonl):
    ingest(write_jsonl(tmp_path / "a.jsonl", ["first"]), tmp_path / "store")
    with pytest.raises(ConfigError, match=r"there is a store already\. append=True adds"):
        StoreWriter(tmp_path / "store")
    with StoreWriter(tmp_path / "store", append=True) as writer:
        writer.write("second")
    assert writer.snapshot == 2
    ingest(write_jsonl(tmp_path / "b.jsonl", ["third"]), tmp_path / "store", append=True)
    assert texts_of(tmp_path / "store") == ["first", "second", "third"]
    with StoreWriter(tmp_path / "store", restart=True) as writer:
        writer.write("alone")
    assert texts_of(tmp_path / "store") == ["alone"]


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (b"a\xff", "document 1: byte 1: invalid UTF-8: byte 0xff"),
        ("a\ud800", "document 1: not valid Unicode"),
        ("long" * 100, r"document 1: 400 bytes; the limit is 100 \(max_document_bytes\)"),
        ({"txt": "x"}, "document 1: no text field 'text'; the fields are: txt"),
    ],
)
def test_a_bad_document_is_named_by_its_number(tmp_path, document, says):
    with (
        pytest.raises(DocumentError, match=says),
        StoreWriter(tmp_path / "store", fields=FieldOptions(max_document_bytes=100)) as writer,
    ):
        writer.extend(["good", document])


def test_a_store_of_nothing_is_refused_and_a_closed_writer_takes_nothing(tmp_path):
    with (
        pytest.raises(DocumentError, match="no documents were written"),
        StoreWriter(tmp_path / "store") as writer,
    ):
        writer.write("")
    with StoreWriter(tmp_path / "store") as writer:
        writer.write("a")
    with pytest.raises(ConfigError, match="closed"):
        writer.write("b")
    with hr.Store.open(tmp_path / "store") as store:
        assert store.read(0, 2).astype(np.int64).tolist() == [97, 256]
