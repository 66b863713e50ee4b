"""The extension reads what the libraries read, and nothing else; what it does not accept they parse."""

import json

from hypothesis import example, given
from hypothesis import strategies as st

from headrace.ingestion import FieldOptions, ingest
from headrace.ingestion.parse.jsonl import JsonLines
from headrace.ingestion.read.records import RecordBlock
from headrace.native import use_target
from headrace.tokens.flat import FlatTexts

# Valid and invalid parts of JSON: joined at random, most lines are nearly valid.
PIECES = [
    *(b'{ } [ ] , : " \\ "text" "text":"a" "te\\u0078t":"b" "a":1 "a":{"text":"c"} true nul null'.split()),
    *(b"0 01 -0 -1.5e3 1e400 1. 12345678901234567890 NaN [[]] [1,{}] {}".split()),
    *(rb"\n \u0041 \ud83d\ude00 \ud83d \ude00 \u12 \x \u0000 \"".split()),
    *(b" ", b"\t", b"\r", b"\x0b", b"\x00", b"\x1f", b"\x7f", b"x" * 40, b"\xef\xbb\xbf", b"\xff"),
    *("é 漢 😀 \u2028".encode().split(b" ")),
    *(
        b"\xc0\x80",
        b"\xe0\x80\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xf0\x82\x82\xac",
        b"\xe2\x82",
        b"\x80",
    ),
]
inside = st.lists(st.sampled_from(PIECES), max_size=6).map(b"".join)
good = st.dictionaries(
    st.sampled_from(["text", "a", "id"]),
    st.text(max_size=20) | st.integers() | st.none() | st.lists(st.floats(), max_size=2),
    min_size=1,
).map(lambda record: json.dumps(record, ensure_ascii="id" in record).encode())
lines = st.one_of(
    inside,
    good,
    inside.map(lambda piece: b'{"text":"' + piece + b'"}'),
    inside.map(lambda piece: b'{"a": ' + piece + b' , "text" : "end"}\r'),
)
blocks = st.tuples(st.lists(lines, min_size=1, max_size=8), st.booleans())


def parsed_both_ways(native_target, data, *, most=1 << 20, name="text"):
    ways = []
    for target in ("off", native_target):
        with use_target(target):
            parsed = JsonLines("file", FieldOptions(text_field=name, max_document_bytes=most)).parse(
                RecordBlock(offset=7, data=data), lines_before=3
            )
        result = (list(parsed.texts), parsed.rejects, parsed.empty, parsed.lines, parsed.nbytes)
        ways.append((result, isinstance(parsed.texts, FlatTexts)))
    return ways


@given(block=blocks, most=st.sampled_from([30, 1 << 20]), name=st.sampled_from(["text", "a", "a.text"]))
@example(block=([b'{"text":"' + b"y" * n + b'"}' for n in range(1, 80)], True), most=1 << 20, name="text")
@example(
    block=([b'{"a":' + b"[" * n + b"]" * n + b',"text":"t"}' for n in (1, 63, 70, 1100)], True),
    most=1 << 20,
    name="text",
)
@example(block=([b""] * 100 + [b'{"text":""}'] * 40 + [b'{"text":"t"}'], False), most=1 << 20, name="text")
def test_texts_and_rejects_are_those_of_the_libraries(native_target, block, most, name):
    data = b"\n".join(block[0]) + b"\n" * block[1]
    (expected, _), (got, _) = parsed_both_ways(native_target, data or b"\n", most=most, name=name)
    assert got == expected


def test_plain_lines_are_read_without_an_object_for_each(native_target):
    texts = [f'{i}: \u00e9 \U0001f600 \\ " / \b\f\n\r\t \x00 end' * (i % 9 + 1) for i in range(500)]
    records = [
        {"id": i, "meta": {"a": [1.5, None, {"text": "no"}]}, "text": text} for i, text in enumerate(texts)
    ]
    data = b"".join(json.dumps(r, ensure_ascii=i % 2 == 0).encode() + b"\n" for i, r in enumerate(records))
    (expected, _), (got, is_flat) = parsed_both_ways(native_target, data)
    assert is_flat
    assert got == expected
    assert got[0] == [text.encode() for text in texts]


def test_a_store_is_the_same_bytes_with_and_without_the_extension(
    native_target, tmp_path, make_documents, write_jsonl, tree, tokenizer_json
):
    corpus = str(write_jsonl(tmp_path / "a.jsonl.gz", [*make_documents(300, seed=1), "", "x" * 5000]))
    for name, target in (("without", "off"), ("with", native_target)):
        with use_target(target):
            ingest(
                corpus,
                tmp_path / name,
                tokenizer=tokenizer_json,
                workers=1,
                fields=FieldOptions(max_document_bytes=4000),
            )
    assert tree(tmp_path / "without") == tree(tmp_path / "with")
