"""pieces.py: lines and sentences that the corpus had before are removed, the same ones by any number of workers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.ingestion import JobOptions, OperatorOptions, ingest
from headrace.ingestion.operators.exact import repeats
from headrace.ingestion.operators.pieces import pieces_of, sketch, without_repeats

TEXT = st.text(st.sampled_from("ab .!?\n\r。é"), max_size=40)


@given(
    texts=st.lists(TEXT, max_size=6), kind=st.sampled_from(["lines", "sentences"]), least=st.integers(1, 4)
)
def test_each_piece_stays_once_and_nothing_else_is_changed(texts, kind, least):
    data = [text.encode() for text in texts]
    assert all(b"".join(pieces_of(text, kind)) == text for text in data)
    flags = repeats([sketch([text], kind, least) for text in data])
    at, seen = 0, set()
    for text in data:
        expected = b""
        for piece in pieces_of(text, kind):
            key = b" ".join(piece.split())
            long_enough = len(key.decode()) >= least
            if not (long_enough and key in seen):
                expected += piece
            if long_enough:
                seen.add(key)
        left, compared, removed = without_repeats(text, flags[at:], kind, least)
        assert left == expected
        assert removed == np.count_nonzero(flags[at : at + compared])
        at += compared
    assert at == len(flags)


MENU = "Home | About | Contact us | Impressum"
PAGES = [
    f"{MENU}\nPage {i} tells of the mill and its wheel.\nshort\n  {MENU} \nEnd of page {i}, as it was."
    for i in range(40)
]


@pytest.mark.parametrize("kind", ["lines", "sentences"])
def test_repeated_lines_of_a_corpus_are_removed(tmp_path, texts_of, tree, write_jsonl, kind):
    path = write_jsonl(tmp_path / "a.jsonl", [*PAGES, MENU, PAGES[3]])
    stores = []
    for workers in (1, 2):
        summary = ingest(
            path,
            tmp_path / f"store-{workers}",
            workers=workers,
            operators=OperatorOptions(dedup=kind),
            job=JobOptions(shard_text_bytes=1500),
        )
        stores.append(tree(tmp_path / f"store-{workers}"))
    assert stores[0] == stores[1]
    first, second, *_, last = texts_of(tmp_path / "store-1")
    assert first == f"{MENU}\nPage 0 tells of the mill and its wheel.\nshort\nEnd of page 0, as it was."
    assert second == "Page 1 tells of the mill and its wheel.\nshort\nEnd of page 1, as it was."
    assert last == "short\n"  # shorter than the least that is compared
    assert summary.dropped == {"repeated": 1}
    assert any(note.endswith(f"{kind} of an earlier document were removed") for note in summary.notes)


def test_lines_of_the_store_are_known_to_an_append(tmp_path, texts_of, write_jsonl):
    operators = OperatorOptions(dedup="lines", dedup_min_chars=1)
    ingest(
        write_jsonl(tmp_path / "a.jsonl", ["one\ntwo\n"]), tmp_path / "store", workers=1, operators=operators
    )
    more = write_jsonl(tmp_path / "b.jsonl", ["zero\ntwo\nthree\nthree\n"])
    ingest(more, tmp_path / "store", workers=1, operators=operators, append=True)
    assert texts_of(tmp_path / "store") == ["one\ntwo\n", "zero\nthree\n"]
