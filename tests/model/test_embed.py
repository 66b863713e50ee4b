"""Word vectors from elsewhere find their tokens by text, at the scale of a fresh model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from headrace.errors import ConfigError
from headrace.model.embed import match_tokens, read_vectors, token_table
from headrace.tokens import Tokenizer, load_tokenizer, train_tokenizer

WORDS = ["water", "wheel", "turns", "Stone"]
TEXTS = ["the water turns the wheel", "a stone under water", "wheeling stones return"] * 30


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    out = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer(TEXTS, vocab_size=320, out=out)
    return load_tokenizer(out)


def id_of(tokenizer: Tokenizer, token: bytes) -> int:
    return tokenizer.token_bytes().index(token)


def vectors_of(dims: int) -> np.ndarray:
    return np.random.default_rng(dims).normal(size=(len(WORDS), dims)).astype(np.float32)


def write_word2vec(path: Path, *, binary: bool, newlines: bool = True, dims: int = 6) -> np.ndarray:
    """As the word2vec tool writes them (with line feeds) and as gensim does (without)."""
    table = vectors_of(dims)
    with path.open("wb") as file:
        file.write(f"{len(WORDS)} {dims}\n".encode())
        for word, row in zip(WORDS, table, strict=True):
            if binary:
                file.write(word.encode() + b" " + row.tobytes() + (b"\n" if newlines else b""))
            else:
                file.write((word + " " + " ".join(map(repr, row.tolist())) + "\n").encode())
    return table


def write_bert(directory: Path, dims: int = 6, *, old: bool = False) -> np.ndarray:
    import orjson

    words = ["[PAD]", "water", "wheel", "##ing", "##s", "the"]
    table = np.random.default_rng(0).normal(size=(len(words), dims)).astype(np.float32)
    save_file(
        {"bert.embeddings.word_embeddings.weight": torch.from_numpy(table)}, directory / "model.safetensors"
    )
    if old:
        (directory / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
        return table
    vocabulary = {word: row for row, word in enumerate(words)}
    (directory / "tokenizer.json").write_bytes(
        orjson.dumps({"model": {"type": "WordPiece", "vocab": vocabulary}})
    )
    return table


@pytest.mark.parametrize("kind", ["text", "binary", "binary without line feeds"])
def test_word2vec_files_are_read_in_every_form(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "vectors"
    want = write_word2vec(path, binary=kind != "text", newlines=not kind.endswith("feeds"))
    got = read_vectors(path)
    assert list(got.rows) == WORDS[::-1]
    np.testing.assert_array_equal(got.table[[got.rows[word] for word in WORDS]], want)


def test_tokens_find_their_word_by_text(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_word2vec(tmp_path / "v.txt", binary=False)
    vectors = read_vectors(tmp_path / "v.txt")
    rows = match_tokens(vectors, tokenizer)
    assert rows[id_of(tokenizer, b" water")] == vectors.rows["water"]
    assert rows[id_of(tokenizer, b" wheel")] == vectors.rows["wheel"]
    assert rows[tokenizer.eos_id] == -1


def test_pieces_inside_a_word_find_berts_pieces(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_bert(tmp_path)
    vectors = read_vectors(tmp_path)
    rows = match_tokens(vectors, tokenizer)
    assert rows[id_of(tokenizer, b" water")] == vectors.rows["water"]
    assert rows[id_of(tokenizer, b"s")] == vectors.rows["##s"]


@pytest.mark.parametrize("dims", [3, 8, 20])
def test_vectors_of_any_width_become_a_table_at_a_fresh_models_scale(
    dims: int, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    write_word2vec(tmp_path / "v.txt", binary=False, dims=dims)
    fresh = torch.randn(tokenizer.vocab_size, 8, generator=torch.Generator().manual_seed(1)) * 0.02
    found = token_table(read_vectors(tmp_path / "v.txt"), tokenizer, fresh)
    hit = torch.from_numpy(found.hit)
    assert torch.equal(found.table_VW[~hit], fresh[~hit])
    # Principal dimensions of few words are no more than the words.
    filled = found.table_VW[hit][:, : dims if dims <= 8 else min(8, int(hit.sum()))]
    assert filled.std().item() == pytest.approx(0.02, rel=1e-3)
    assert found.hit_rate == hit.double().mean().item() > 0


def test_nearby_words_stay_nearby(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Centring and scaling keep the angles between matched vectors' differences."""
    want = write_word2vec(tmp_path / "v.txt", binary=False, dims=8)
    fresh = torch.zeros(tokenizer.vocab_size, 8)
    table = token_table(read_vectors(tmp_path / "v.txt"), tokenizer, fresh).table_VW
    water, wheel = table[id_of(tokenizer, b" water")], table[id_of(tokenizer, b" wheel")]
    turns = table[id_of(tokenizer, b" turns")]
    ratio = (water - wheel).norm() / (water - turns).norm()
    assert ratio.item() == pytest.approx(
        np.linalg.norm(want[0] - want[1]) / np.linalg.norm(want[0] - want[2]), rel=1e-4
    )


def test_a_vocabulary_without_a_single_match_is_refused(tmp_path: Path) -> None:
    write_word2vec(tmp_path / "v.txt", binary=False)
    byte = load_tokenizer("byte")
    with pytest.raises(ConfigError, match="none of 257 tokens has a vector"):
        token_table(read_vectors(tmp_path / "v.txt"), byte, torch.zeros(257, 4))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"hello world\n", "its first line is"),
        (b"2 3\nwater 1 2 3\nwheel 1 2\n", "line 3 has 2 numbers, its first line says 3"),
        (b"2 3\nwater 1 2 3\nwheel 1 x 3\n", "line 3 has a field that is no number"),
        (b"1 3\nwater \x00\x00", "ends within word 1 of 1"),
    ],
)
def test_a_damaged_vector_file_is_refused_by_line(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "v"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        read_vectors(path)


def test_a_bert_without_tokenizer_json_is_read_by_its_list_of_pieces(tmp_path: Path) -> None:
    write_bert(tmp_path, old=True)
    vectors = read_vectors(tmp_path)
    assert vectors.rows == {"[PAD]": 0, "water": 1, "wheel": 2, "##ing": 3, "##s": 4, "the": 5}


def test_a_directory_that_is_no_bert_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a BERT directory"):
        read_vectors(tmp_path)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"-1 6\n", "says -1 words of 6 dimensions"),
        (b"4 -6\n", "says 4 words of -6 dimensions"),
        (b"4000000000000 300\n", "says 4000000000000 words of 300 dimensions, the file has"),
        (b"0 6\n", "says 0 words"),
    ],
)
def test_counts_that_the_file_cannot_hold_are_refused(head: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    write_word2vec(path, binary=False)
    path.write_bytes(head + path.read_bytes().split(b"\n", 1)[1])
    with pytest.raises(ConfigError, match=message):
        read_vectors(path)


def test_a_word_may_begin_with_a_space(tmp_path: Path) -> None:
    """Text, though its first word looks like one field too few."""
    path = tmp_path / "vectors.txt"
    path.write_bytes(b"3 2\n  0.5 1.5\n the 1.0 2.0\nof it 3.0 4.0\n")
    vectors = read_vectors(path)
    assert list(vectors.rows) == ["of it", " the", " "]
    assert vectors.table.tolist() == [[0.5, 1.5], [1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize("binary", [True, False])
def test_a_vector_that_is_not_finite_is_named(binary: bool, tmp_path: Path) -> None:
    path = tmp_path / "vectors"
    content = b"2 2\n"
    for word, row in ((b"a", [1.0, 2.0]), (b"b", [float("nan"), 1.0])):
        numbers = np.array(row, np.float32).tobytes() if binary else b"%f %f\n" % tuple(row)
        content += word + b" " + numbers
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="the vector of 'b', number 2, has a value that is not finite"):
        read_vectors(path)


def test_bytes_after_the_last_vector_are_no_word2vec(tmp_path: Path) -> None:
    path = tmp_path / "vectors.bin"
    write_word2vec(path, binary=True)
    path.write_bytes(path.read_bytes() + b"and more")
    with pytest.raises(ConfigError, match="goes on after its 4 vectors with b'and more'"):
        read_vectors(path)


def test_a_bert_vocabulary_longer_than_its_table_is_refused(tmp_path: Path) -> None:
    write_bert(tmp_path, old=True)
    with (tmp_path / "vocab.txt").open("a") as file:
        file.write("stone\n")
    with pytest.raises(ConfigError, match=r"7 pieces, its table is \[6, 6\]; 'stone' has no row"):
        read_vectors(tmp_path)
