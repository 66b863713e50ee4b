"""Tests prompts/reader.py, prompt.py and batch_lines.py."""

import bz2
import csv
import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.errors import ConfigError, SourceError
from headrace.generation.prompts import batch_lines, duplicate_ids
from headrace.generation.prompts.batch_lines import prompt_of_batch_line
from headrace.generation.prompts.reader import Prompt, read_prompts, survey_prompts

TEXTS = ["one", 'zwei, "quoted"', "три", "四", "  five "]


def compressors():
    import lz4.frame
    import zstandard

    return {
        "": lambda data: data,
        ".gz": gzip.compress,
        ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
        ".lz4": lz4.frame.compress,
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
    }


def as_file(kind, texts, tmp_path):
    if kind == ".txt":
        return "\n".join(texts).encode() + b"\n"
    if kind == ".jsonl":
        return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)
    path = tmp_path / "scratch"
    if kind == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["other", "prompt"])
            writer.writerows(["x", text] for text in texts)
    else:
        pq.write_table(pa.table({"prompt": texts, "other": [1] * len(texts)}), path)
    return path.read_bytes()


@pytest.mark.parametrize("kind", [".txt", ".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("packed", ["", ".gz", ".zst", ".lz4", ".bz2", ".xz"])
def test_every_format_and_compression_gives_the_same_prompts(tmp_path, kind, packed):
    path = tmp_path / f"prompts{kind}{packed}"
    path.write_bytes(compressors()[packed](as_file(kind, TEXTS, tmp_path)))
    expected = [Prompt(prompt_id=f"{i:09d}", text=text) for i, text in enumerate(TEXTS)]
    assert list(read_prompts(path)) == expected
    assert survey_prompts(path) == survey_prompts(TEXTS)


def test_ids_are_those_given_and_token_ids_are_prompts(tmp_path):
    path = tmp_path / "p.jsonl"
    lines = [
        {"id": "a", "prompt": "text"},
        {"prompt_id": 7, "prompt_token_ids": [1, 2, 3]},
        {"custom_id": "c", "prompt": [4, 5]},
        "just text",
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    assert list(read_prompts(path)) == [
        Prompt(prompt_id="a", text="text"),
        Prompt(prompt_id="7", token_ids=(1, 2, 3)),
        Prompt(prompt_id="c", token_ids=(4, 5)),
        Prompt(prompt_id="000000003", text="just text"),
    ]


def test_blank_lines_are_no_prompts_and_do_not_change_the_other_lines_ids(tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes(b"one\r\n\r\n  \nfour\n")
    assert [(p.prompt_id, p.text) for p in read_prompts(path)] == [
        ("000000000", "one"),
        ("000000003", "four"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"prompt": "cut', "line 2: not JSON"),
        (b'{"prompt": "\xff"}', "line 2: not JSON"),
        (b"[1, 2]", "a JSON list; expected an object or a string"),
        (b'{"txet": "x"}', "no field prompt or text"),
        (b'{"prompt": {"a": 1}}', "the prompt is a dict; expected text, a list of token ids, or messages"),
        (b'{"prompt": [1, "2"]}', "the prompt is a list; expected text"),
        (b'{"prompt": [true]}', "the prompt is a list; expected text"),
    ],
)
def test_a_bad_line_is_one_bad_prompt_and_the_others_are_read(tmp_path, line, message):
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'{"prompt": "good"}\n' + line + b'\n{"prompt": "good"}\n')
    first, bad, last = read_prompts(path)
    assert (first.text, last.text) == ("good", "good")
    assert (first.error, last.error) == (None, None)
    assert bad.prompt_id == "000000001"
    assert message in bad.error["message"]


def test_invalid_utf8_names_the_line_and_the_byte(tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes(b"good\nab\xffcd\n")
    _, bad = read_prompts(path)
    assert bad.error == {"type": "DocumentError", "message": "line 2: byte 2 is not UTF-8"}
    path = tmp_path / "p.csv"
    path.write_bytes(b"id,prompt\na,ab\xffcd\nb,good\n")
    bad, good = read_prompts(path)
    assert bad.prompt_id == "a"
    assert "character 2 is not UTF-8" in bad.error["message"]
    assert good.text == "good"


@pytest.mark.parametrize("packed", [".gz", ".zst", ".lz4", ".bz2", ".xz"])
def test_a_truncated_file_is_refused_by_name(tmp_path, packed):
    path = tmp_path / f"p.txt{packed}"
    whole = compressors()[packed](b"".join(b"prompt %d\n" % (i * 7919) for i in range(20_000)))
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(SourceError, match=rf"p\.txt{packed}: cannot be read to its end"):
        list(read_prompts(path))


@pytest.mark.parametrize("name", ["p.txt.gz", "p.jsonl.zst", "p.parquet", "p.txt.xz"])
def test_a_file_that_is_not_what_its_name_says_is_refused_by_name(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"plain text, nothing else\n" * 10)
    with pytest.raises(SourceError, match="Truncated, or not what its name says"):
        list(read_prompts(path))


@pytest.mark.parametrize("name", ["p.docx", "p", "p.gz"])
def test_a_name_that_says_nothing_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=r"prompts are read from \.txt"):
        list(read_prompts(tmp_path / name))


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(SourceError, match=r"nothing\.txt: No such file"):
        list(read_prompts(tmp_path / "nothing.txt"))


@pytest.mark.parametrize("name", ["p.csv", "p.parquet"])
def test_a_table_without_a_prompt_column_is_refused(tmp_path, name):
    path = tmp_path / name
    if name == "p.csv":
        path.write_text("a,b\n1,2\n")
    else:
        pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(SourceError, match="columns a"):
        list(read_prompts(path))


def test_an_id_given_twice_is_refused_before_any_work(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps({"id": i % 900, "prompt": "x"}) + "\n" for i in range(901)))
    with pytest.raises(ConfigError, match="id '0' of row 900 is the id of row 0 as well"):
        survey_prompts(path)


def test_ids_given_twice_are_found_over_many_buffers(monkeypatch):
    """Buffers go to disk; whatever their size and the number of ids, exactly the duplicates are found."""
    monkeypatch.setattr(duplicate_ids, "BUFFER", 64)
    for count in (1, 63, 64, 65, 1000):
        with duplicate_ids.DuplicateIds() as found:
            for i in [*range(count), *range(0, count, 7)]:
                found.add(f"id {i}")
            assert found.hashes() == {duplicate_ids.hash_of(f"id {i}") for i in range(0, count, 7)}
    with pytest.raises(ConfigError, match="id 'x' of row 500 is the id of row 3 as well"):
        survey_prompts([{"id": "x" if i in (3, 500) else i, "prompt": "p"} for i in range(600)])


def test_a_conversation_is_a_prompt_in_rows_and_in_lines_of_a_batch_file(tmp_path):
    path = tmp_path / "p.jsonl"
    turns = [{"role": "user", "content": "hi"}]
    body = {"messages": turns, "max_completion_tokens": 7, "temperature": 0}
    lines = [
        {"messages": turns},
        {"prompt": turns},
        {"custom_id": "c", "url": "/v1/chat/completions", "body": body},
        {"custom_id": "d", "url": "/v1/chat/completions", "body": {"messages": turns}},
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    row, by_prompt, limited, free = read_prompts(path)
    assert row.messages == by_prompt.messages == limited.messages == free.messages == tuple(turns)
    assert row.sampling == {}
    assert limited.sampling == {"max_new_tokens": 7, "temperature": 0}
    assert free.sampling == {"max_new_tokens": 1024, "temperature": 1.0}
    parquet = tmp_path / "p.parquet"
    pq.write_table(pa.table({"messages": [turns]}), parquet)
    assert [prompt.messages for prompt in read_prompts(parquet)] == [tuple(turns)]
    assert survey_prompts(path).digest != survey_prompts(parquet).digest


def test_no_prompt_at_all_is_refused(tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes(b"\n\n")
    with pytest.raises(ConfigError, match="holds no prompt"):
        survey_prompts(path)


def test_the_digest_tells_other_prompts_and_other_ids_apart():
    digests = {
        survey_prompts(source).digest
        for source in (["a", "b"], ["b", "a"], ["a"], ["ab"], [{"id": 1, "prompt": "a"}, "b"], [[1], "b"])
        if not isinstance(source[0], list)
    }
    assert len(digests) == 5


def test_lines_of_a_batch_file_bring_their_own_sampling(tmp_path):
    path = tmp_path / "batch.jsonl"
    body = {
        "model": "m",
        "prompt": "hello",
        "max_tokens": 5,
        "temperature": 0.5,
        "stop": "x",
        "n": 2,
        "seed": 9,
    }
    lines = [
        {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": body},
        {"custom_id": "b", "method": "POST", "url": "/v1/completions", "body": {"prompt": [1, 2]}},
        {
            "custom_id": "c",
            "method": "POST",
            "url": "/v1/completions",
            "body": {"prompt": "x", "logit_bias": {"50": 1}},
        },
        {"custom_id": "d", "method": "POST", "url": "/v1/embeddings", "body": {"input": "x"}},
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    a, b, c, d = read_prompts(path)
    assert (a.prompt_id, a.text, a.num_samples) == ("a", "hello", 2)
    assert a.sampling == {"max_new_tokens": 5, "temperature": 0.5, "stop": ("x",), "seed": 9}
    assert b.token_ids == (1, 2)
    assert b.sampling == {"max_new_tokens": 16, "temperature": 1.0}
    assert "'logit_bias' is not supported here" in c.error["message"]
    assert "field" in d.error["message"]


@pytest.mark.parametrize("kind", [".txt", ".jsonl", ".csv"])
def test_a_byte_order_mark_is_no_part_of_the_first_prompt(tmp_path, kind):
    path = tmp_path / f"p{kind}"
    path.write_bytes(b"\xef\xbb\xbf" + as_file(kind, TEXTS, tmp_path))
    assert [prompt.text for prompt in read_prompts(path)] == TEXTS
    batch = tmp_path / "batch.jsonl"
    batch.write_bytes(b'\xef\xbb\xbf{"custom_id": "a", "body": {"prompt": "x"}}\n')
    assert [(prompt.prompt_id, prompt.text) for prompt in read_prompts(batch)] == [("a", "x")]


def test_an_empty_id_is_no_id(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("id,prompt\n,a\nx,b\n,c\n")
    assert [prompt.prompt_id for prompt in read_prompts(path)] == ["000000000", "x", "000000002"]
    assert [prompt.prompt_id for prompt in read_prompts([{"id": "", "prompt": "a"}])] == ["000000000"]


@pytest.mark.parametrize(("name", "values"), batch_lines.NEUTRAL_FIELDS.items())
def test_a_field_that_changes_nothing_is_accepted_and_another_value_of_it_is_an_error(name, values):
    for value in values:
        assert prompt_of_batch_line("a", {"body": {"prompt": "x", name: value}}).error is None
    refused = prompt_of_batch_line("a", {"body": {"prompt": "x", name: {"other": 1}}})
    assert f"'{name}' is not supported here" in refused.error["message"]


def test_a_line_of_a_batch_file_keeps_the_name_of_its_model():
    assert prompt_of_batch_line("a", {"body": {"prompt": "x", "model": "m"}}).model == "m"
    assert (
        "model is a int" in prompt_of_batch_line("a", {"body": {"prompt": "x", "model": 1}}).error["message"]
    )
