"""Pairs of texts, and preferences, become columns of tokens: pairs.py, and `RecordRenderer` for layout pairs."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

import headrace as hr
from headrace.errors import ConfigError, DocumentError, SourceError
from headrace.ingestion.samples.build import SampleBuilder

PAIRS = hr.Samples(layout="pairs")
RECORDS = [{"source": f"Satz {i} " * (i % 7 + 1), "target": f"sentence {i}"} for i in range(40)]


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def texts(store):
    return [
        {name: store.tokenizer.decode(value) for name, value in row.items()}
        for row in hr.SampleStore.open(store.url)
    ]


def ingested(source, out, **options):
    hr.ingest(source, out, samples=PAIRS, **options)
    return hr.SampleStore.open(out)


def test_pairs_of_every_format_become_the_same_columns(tmp_path):
    lines = write_lines(tmp_path / "a.jsonl", RECORDS)
    table = pa.Table.from_pylist(RECORDS)
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text(
        "source,target\n" + "".join(f"{r['source']},{r['target']}\n" for r in RECORDS)
    )
    (tmp_path / "a.json").write_text(json.dumps(RECORDS))
    named = write_lines(tmp_path / "b.jsonl", [{"de": r["source"], "en": r["target"]} for r in RECORDS])
    others = write_lines(
        tmp_path / "c.jsonl", [{"prompt": r["source"], "completion": r["target"]} for r in RECORDS]
    )
    stores = [ingested(tmp_path / f"a.{kind}", tmp_path / kind) for kind in ("parquet", "csv", "json")]
    stores.append(
        ingested(named, tmp_path / "named", fields=hr.FieldOptions(names=("source=de", "target=en")))
    )
    stores.append(ingested(others, tmp_path / "prompts"))
    store = ingested(lines, tmp_path / "lines")
    assert texts(store) == RECORDS
    assert all(row["target"][-1] == 256 and row["source"][-1] == 256 for row in store)
    assert {one.fingerprint for one in stores} == {store.fingerprint}


def test_questions_have_their_context_in_the_source(tmp_path):
    record = {
        "context": "It rained.",
        "question": "What fell?",
        "answers": {"text": ["rain"], "answer_start": [3]},
    }
    store = ingested(write_lines(tmp_path / "q.jsonl", [record]), tmp_path / "q")
    assert texts(store) == [{"source": "It rained.\n\nWhat fell?", "target": "rain"}]


def test_preferences_have_a_prompt_and_two_answers(tmp_path):
    (tmp_path / "chat.jinja").write_text(
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    user = {"role": "user", "content": "Hi"}
    answers = [{"role": "assistant", "content": text} for text in ("Hello", "Go")]
    records = [
        {"prompt": "Hi", "chosen": "Hello", "rejected": "Go"},
        {"chosen": "Hello", "rejected": "Go"},
        {"prompt": [user], "chosen": answers[:1], "rejected": answers[1:]},
        {"chosen": [user, answers[0]], "rejected": [user, answers[1]]},
        {"chosen": [user, answers[0]], "rejected": [user, answers[0]]},
        {"prompt": 3, "chosen": "a", "rejected": "b"},
    ]
    store = ingested(
        write_lines(tmp_path / "p.jsonl", records),
        tmp_path / "p",
        fields=hr.FieldOptions(template=str(tmp_path / "chat.jinja")),
        job=hr.JobOptions(max_reject_share=0.5),
    )
    answered = {"chosen": "Hello", "rejected": "Go"}
    templated = {"prompt": "<user>Hi<assistant>", **answered}
    assert texts(store) == [{"prompt": "Hi", **answered}, {"prompt": "", **answered}, templated, templated]
    assert [(256 in row["prompt"], row["chosen"][-1], row["rejected"][-1]) for row in store] == [
        (False, 256, 256)
    ] * 4
    rejects = [json.loads(line) for line in (tmp_path / "p/rejects.jsonl").read_text().splitlines()]
    assert [(r["line"], r["detail"]) for r in rejects] == [
        (5, "its chosen and rejected messages do not differ"),
        (6, "its prompt is no string but int"),
    ]
    with pytest.raises(DocumentError, match="--samples --layout pairs"):
        hr.ingest(tmp_path / "p.jsonl", tmp_path / "documents")


def bart_like(path):
    vocab = {"<s>": 0, "<pad>": 1, "</s>": 2}
    vocab |= {char: 3 + i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens(["<s>", "<pad>", "</s>"])
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return save(made, path)


def t5_like(path):
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    made = Tokenizer(models.Unigram([*pieces, *((chr(97 + i), -3.0) for i in range(26))], unk_id=2))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.add_special_tokens(["<pad>", "</s>", "<unk>"])
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return save(made, path)


def save(made, path):
    path.mkdir()
    made.save(str(path / "tokenizer.json"))
    names = {"eos_token": "</s>", "pad_token": "<pad>"}
    (path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **names})
    )
    return path


@pytest.mark.parametrize("make", [bart_like, t5_like])
def test_ids_are_those_of_transformers_with_the_models_own_special_tokens(tmp_path, make):
    from transformers import AutoTokenizer

    folder = make(tmp_path / "tokenizer")
    records = [{"source": "guten tag", "target": "good day"}, {"source": "a", "target": ""}]
    store = ingested(write_lines(tmp_path / "p.jsonl", records), tmp_path / "store", tokenizer=folder)
    reference = AutoTokenizer.from_pretrained(folder)
    for row, record in zip(store, records, strict=True):
        assert row["source"].tolist() == reference(record["source"])["input_ids"]
        assert row["target"].tolist() == reference(text_target=record["target"])["input_ids"]
    loader = hr.Loader(store, batch_size=2, output=hr.BatchOptions(framework="numpy", padding=True))
    batch = next(loader)
    assert (batch["input_ids"][batch["attention_mask"] == 0] == reference.pad_token_id).all()


def test_a_text_that_spells_a_special_token_cannot_forge_an_end(tmp_path):
    records = [{"source": "a</s>b", "target": "b"}, *({"source": "a", "target": "b"} for _ in range(30))]
    source = write_lines(tmp_path / "p.jsonl", records)
    store = ingested(source, tmp_path / "t5", tokenizer=t5_like(tmp_path / "t5-tokenizer"))
    assert store.num_rows == 30
    assert "it holds '</s>'" in (tmp_path / "t5/rejects.jsonl").read_text()
    store = ingested(source, tmp_path / "bart", tokenizer=bart_like(tmp_path / "bart-tokenizer"))
    assert 2 not in store[0]["source"][:-1].tolist()


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_job_that_was_killed_and_one_with_other_workers_write_the_same_bytes(tmp_path, monkeypatch):
    source = write_lines(tmp_path / "p.jsonl", [*RECORDS, {"source": 1, "target": "x"}])
    job = hr.JobOptions(shard_text_bytes=500)
    whole = ingested(source, tmp_path / "whole", job=job)
    assert whole.num_shards > 3
    expected = files_of(tmp_path / "whole")
    ingested(source, tmp_path / "two", job=job, workers=2)
    assert files_of(tmp_path / "two") == expected

    run, calls = SampleBuilder.run, []

    def killed(self, task, notify):
        calls.append(task)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run(self, task, notify)

    monkeypatch.setattr(SampleBuilder, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        ingested(source, tmp_path / "killed", job=job, workers=1)
    ingested(source, tmp_path / "killed", job=job, workers=1)
    assert files_of(tmp_path / "killed") == expected
    assert (
        json.loads((tmp_path / "whole/rejects.jsonl").read_text())["detail"]
        == "its source is no string but int"
    )


def test_rows_are_appended_with_the_same_tokenizer_only(tmp_path):
    first = write_lines(tmp_path / "a.jsonl", RECORDS[:3])
    second = write_lines(tmp_path / "b.jsonl", RECORDS[3:5])
    ingested(first, tmp_path / "store")
    store = ingested(second, tmp_path / "store", append=True)
    assert texts(store) == RECORDS[:5]
    with pytest.raises(ConfigError, match="its tokenizer is byte, the new shards' is other"):
        ingested(first, tmp_path / "store", append=True, tokenizer=bart_like(tmp_path / "other"))


def test_what_is_no_pair_is_refused_by_name(tmp_path):
    text = write_lines(tmp_path / "t.jsonl", [{"text": "a"}])
    with pytest.raises(
        SourceError, match="its first records are no pairs: expected fields source and target"
    ):
        ingested(text, tmp_path / "out")
    both = write_lines(
        tmp_path / "b.jsonl", [{"source": "a", "target": "b", "prompt": "c", "completion": "d"}]
    )
    with pytest.raises(ConfigError, match="of source and of prompt: say which with --record"):
        ingested(both, tmp_path / "out")
    store = ingested(both, tmp_path / "chosen", fields=hr.FieldOptions(record="prompt"))
    assert texts(store) == [{"source": "c", "target": "d"}]
    with pytest.raises(ConfigError, match="layout pairs has records of kind"):
        ingested(both, tmp_path / "out", fields=hr.FieldOptions(record="messages"))
    with pytest.raises(
        ConfigError, match="pairs are rows, and these options are of documents: keep, normalise"
    ):
        ingested(
            both,
            tmp_path / "out",
            fields=hr.FieldOptions(keep=("id",)),
            operators=hr.OperatorOptions(normalise=True),
        )
    for options in ({"image_field": "a"}, {"label_field": "a"}):
        with pytest.raises(ConfigError, match=f"{min(options)}: not an option of layout pairs.*--field"):
            hr.ingest(both, tmp_path / "out", samples=hr.Samples(layout="pairs", **options))
    with pytest.raises(ConfigError, match="options are of documents: block_tokens"):
        ingested(both, tmp_path / "out", job=hr.JobOptions(block_tokens=512))
    with pytest.raises(DocumentError, match="its target is no string"):
        ingested(
            write_lines(tmp_path / "s.jsonl", [RECORDS[0], {"source": "a", "target": 3}]),
            tmp_path / "strict",
            job=hr.JobOptions(strict=True),
        )


def test_a_damaged_tokenizer_file_is_found_by_verify(tmp_path):
    from headrace.errors import ManifestError
    from headrace.store import inspect_samples, verify_samples

    store = ingested(write_lines(tmp_path / "a.jsonl", RECORDS), tmp_path / "store")
    assert inspect_samples(store).sequences.rows == 40
    assert inspect_samples(store).sequences.padding_share > 0.2
    verify_samples(store)
    file = next((tmp_path / "store/tokenizer").iterdir())
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(ManifestError, match=file.name):
        verify_samples(hr.SampleStore.open(tmp_path / "store"))
