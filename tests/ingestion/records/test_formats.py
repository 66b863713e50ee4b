"""Conversations in every format -> one store: the same bytes from each, and for any number of workers."""

from __future__ import annotations

import csv
import io
import itertools
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import headrace as hr
from headrace.ingestion import FieldOptions, JobOptions, StoreWriter
from headrace.ingestion.options import OperatorOptions

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
CHATS = [
    {
        "messages": [
            {"role": "user", "content": f"question {i}?"},
            {"role": "assistant", "content": f"answer {'é' * (i % 7)}{i}"},
        ]
    }
    for i in range(50)
]
PAIRS = [{"prompt": f"{i} + {i} =", "completion": f" {2 * i}"} for i in range(50)]


def jsonl(records):
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def table(records):
    return pa.Table.from_pylist([{**record, "other": 1} for record in records])


def parquet(records):
    sink = io.BytesIO()
    pq.write_table(table(records), sink)
    return sink.getvalue()


def arrow(records):
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table(records).schema) as file:
        file.write_table(table(records))
    return sink.getvalue()


def comma(records):
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(records[0])
    values = ([v if isinstance(v, str) else json.dumps(v) for v in record.values()] for record in records)
    writer.writerows(values)
    return out.getvalue().encode()


def tar(records):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as file:
        for i, record in enumerate(records):
            data = json.dumps(record).encode()
            member = tarfile.TarInfo(f"{i:04d}.json")
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return sink.getvalue()


FORMATS = {
    "a.jsonl": jsonl,
    "a.json": lambda records: json.dumps(records, indent=1).encode(),
    "a.parquet": parquet,
    "a.arrow": arrow,
    "a.csv": comma,
    "a.tar": tar,
}


@pytest.fixture
def template(tmp_path):
    path = tmp_path / "template.jinja"
    path.write_text(TEMPLATE)
    return str(path)


def ingest(tmp_path, data, name, *, out="store", job=None, operators=None, workers=1, **fields):
    """Ingest one file; returns the summary and the open store."""
    (tmp_path / name).write_bytes(data)
    summary = hr.ingest(
        tmp_path / name,
        tmp_path / out,
        workers=workers,
        fields=FieldOptions(**fields),
        job=job or JobOptions(),
        operators=operators or OperatorOptions(),
    )
    return summary, hr.Store.open(tmp_path / out)


def shown(store):
    """Each document, what is learned of it in brackets."""
    documents, begin = [], 0
    for end in store.document_ends(0, store.num_tokens).tolist():
        tokens, learned = store.read(begin, end), store.learned([begin], end - begin)
        assert tokens[-1] == store.eos_id
        edges = [0, *(np.flatnonzero(np.diff(learned)) + 1).tolist(), end - begin]
        parts = [
            (f"[{text}]" if learned[a] else text)
            for a, b in itertools.pairwise(edges)
            for text in [bytes(t if t < 256 else ord("$") for t in tokens[a:b].tolist()).decode()]
        ]
        documents.append("".join(parts))
        begin = end
    return documents


@pytest.mark.parametrize("records", [CHATS, PAIRS], ids=["messages", "prompt"])
def test_every_format_gives_the_same_documents(tmp_path, template, records):
    documents = {}
    for name, write in FORMATS.items():
        options = {"template": template} if records is CHATS else {}
        summary, store = ingest(tmp_path, write(records), name, out=f"store-{name}", **options)
        documents[name] = shown(store)
        assert summary.given_tokens == int((~store.learned([0], store.num_tokens)).sum())
        assert not summary.rejects
    expected = "<user>question 3?\n<assistant>[answer ééé3\n$]" if records is CHATS else "3 + 3 =[ 6$]"
    assert documents["a.jsonl"][3] == expected
    assert all(documents[name] == documents["a.jsonl"] for name in FORMATS)


def test_the_bytes_of_a_store_of_conversations_do_not_depend_on_the_workers(tmp_path, template):
    data = jsonl(CHATS * 40)
    job = JobOptions(shard_text_bytes=20_000)
    one, first = ingest(tmp_path, data, "a.jsonl", out="one", template=template, job=job)
    two, second = ingest(tmp_path, data, "a.jsonl", out="two", template=template, job=job, workers=2)
    assert one.num_shards == two.num_shards > 2
    assert first.fingerprint == second.fingerprint
    names = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one/data").iterdir())
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_text_and_conversations_may_stand_in_one_file(tmp_path, template):
    records = [{"text": "plain"}, *PAIRS[:1], {"text": "more"}, *CHATS[:1]]
    for native in ("a.jsonl", "a.json"):
        data = FORMATS[native](records)
        _, store = ingest(tmp_path, data, native, out=f"out-{native}", template=template, record="auto")
        assert shown(store) == [
            "[plain$]",
            "<user>0 + 0 =\n<assistant>[ 0\n$]",
            "[more$]",
            "<user>question 0?\n<assistant>[answer 0\n$]",
        ]


def test_bad_conversations_are_listed_with_line_and_name(tmp_path, template):
    bad = [{"id": "c1", "messages": []}, {"messages": [{"role": "user", "content": "a"}]}]
    summary, store = ingest(
        tmp_path, jsonl([*CHATS, *bad]), "a.jsonl", template=template, job=JobOptions(max_reject_share=0.1)
    )
    assert (summary.documents, summary.rejects) == (50, {"bad_conversation": 2})
    rejects = [json.loads(line) for line in (tmp_path / "store/rejects.jsonl").read_text().splitlines()]
    assert [reject["line"] for reject in rejects] == [51, 52]
    assert rejects[0]["detail"] == "conversation 'c1': its messages are an empty list"
    assert store.num_documents == 50


def test_a_validation_share_and_duplicates_of_conversations_keep_their_masks(tmp_path, template):
    operators = OperatorOptions(
        dedup="exact", validation_share=0.3, validation_out=str(tmp_path / "held-out")
    )
    summary, store = ingest(tmp_path, jsonl(PAIRS * 2), "a.jsonl", operators=operators)
    both = shown(store) + shown(hr.Store.open(tmp_path / "held-out"))
    assert sorted(both) == sorted(f"{i} + {i} =[ {2 * i}$]" for i in range(50))
    assert summary.dropped == {"repeated": 50}
    assert 0 < summary.validation_documents < 50


def test_normalise_is_refused_for_conversations(tmp_path):
    with pytest.raises(hr.ConfigError, match="whose parts they would move"):
        ingest(tmp_path, jsonl(PAIRS), "a.jsonl", operators=OperatorOptions(normalise=True))


def test_a_job_with_another_template_or_other_answers_is_not_the_same(tmp_path, template):
    ingest(tmp_path, jsonl(CHATS), "a.jsonl", template=template)
    with pytest.raises(hr.ConfigError, match=r"fields\.learn was None, is 'last'"):
        ingest(tmp_path, jsonl(CHATS), "a.jsonl", template=template, learn="last")
    (tmp_path / "template.jinja").write_text(TEMPLATE + " ")
    with pytest.raises(hr.ConfigError, match=r"fields\.chat was"):
        ingest(tmp_path, jsonl(CHATS), "a.jsonl", template=template)


def test_a_store_writer_takes_records_of_conversations(tmp_path, template):
    with StoreWriter(tmp_path / "out", fields=FieldOptions(template=template)) as writer:
        writer.extend([*CHATS[:2], {"text": "plain"}])
    assert shown(hr.Store.open(tmp_path / "out"))[1:] == [
        "<user>question 1?\n<assistant>[answer é1\n$]",
        "[plain$]",
    ]
