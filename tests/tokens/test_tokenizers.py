"""Every tokenizer: ids are the reference's, text comes back, and nothing in text is special.

The contract of protocol.py, run against byte.py, encodings.py (tiktoken), huggingface.py and pieces.py (SentencePiece),
which share bytelevel.py; load.py finds and refuses them, probe.py has the texts that tell engines apart;
train.py makes one.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import TokenizerError
from headrace.tokens import first_mismatch, load_tokenizer, tokenizer_from_files, train_tokenizer
from headrace.tokens.probe import tricky_texts

REAL = ("gpt2", "cl100k_base", "o200k_base", "tokenizer-gpt2", "tokenizer-qwen3")


def _sentencepiece(tmp_path, sentences, **options):
    sentencepiece = pytest.importorskip("sentencepiece")
    text = tmp_path / "text.txt"
    text.write_text("\n".join(sentences * 20))
    options = {"vocab_size": 420, "byte_fallback": True, "model_type": "bpe", **options}
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "sp"), minloglevel=2, hard_vocab_limit=False, **options
    )
    return load_tokenizer(tmp_path / "sp.model")


def _unigram(tmp_path, sentences):
    """A Hugging Face unigram model with a normalizer: none of it is known to the fast engine."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<unk>", "<eos>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(sentences * 5, trainer)
    tokenizer.save(str(tmp_path / "unigram.json"))
    return load_tokenizer(tmp_path / "unigram.json")


@pytest.fixture(params=["byte", "trained", "sentencepiece-bpe", "sentencepiece-unigram", "unigram", *REAL])
def tokenizer(request, tmp_path, sentences, monkeypatch):
    name = request.param
    if name in REAL:
        assets = request.getfixturevalue("assets")
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(assets / "tiktoken-cache"))
        return load_tokenizer(assets / name if name.startswith("tokenizer-") else name)
    if name == "trained":
        return load_tokenizer(request.getfixturevalue("trained"))
    if name.startswith("sentencepiece"):
        return _sentencepiece(tmp_path, sentences, model_type=name.removeprefix("sentencepiece-"))
    return _unigram(tmp_path, sentences) if name == "unigram" else load_tokenizer("byte")


def test_ids_are_the_references(tokenizer, sentences):
    texts = [text.encode() for text in sentences] + tricky_texts(["<|endoftext|>", "</s>", "<eos>"])
    assert first_mismatch(tokenizer, tokenizer.as_reference(), texts) is None


def test_what_every_tokenizer_promises(tokenizer, sentences):
    texts = [b"", *(text.encode() for text in sentences), b"<|endoftext|></s><eos>"]
    ids, offsets = tokenizer.encode_batch(texts)
    assert (ids.dtype, offsets.dtype) == (np.uint32, np.int64)
    assert (len(offsets), offsets[0], offsets[-1]) == (len(texts) + 1, 0, len(ids))
    assert int(ids.max()) < tokenizer.vocab_size
    assert 0 <= tokenizer.eos_id < tokenizer.vocab_size
    assert tokenizer.eos_id not in ids.tolist()
    for i, text in enumerate(texts):
        assert tokenizer.encode(text.decode()).tolist() == ids[offsets[i] : offsets[i + 1]].tolist()
    table = tokenizer.token_bytes()
    assert len(table) == tokenizer.vocab_size
    assert table[tokenizer.eos_id] == b""
    empty, none = tokenizer.encode_batch([])
    assert (len(empty), none.tolist()) == (0, [0])


def test_it_travels_as_files(tokenizer, sentences):
    """What a store carries makes the same tokenizer, whichever engine computes it."""
    for engine in ("auto", "reference"):
        again = tokenizer_from_files(tokenizer.files(), engine=engine)
        assert (again.name, again.vocab_size, again.eos_id, again.fingerprint) == (
            tokenizer.name,
            tokenizer.vocab_size,
            tokenizer.eos_id,
            tokenizer.fingerprint,
        )
        assert again.token_bytes() == tokenizer.token_bytes()
        text = " ".join(sentences)
        assert again.encode(text).tolist() == tokenizer.encode(text).tolist()


@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=200))
def test_byte_level_text_comes_back(trained, text):
    """Any text whatever, through ids and through the table of bytes."""
    for tokenizer in (load_tokenizer("byte"), _once(trained)):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        table = tokenizer.token_bytes()
        assert b"".join(table[i] for i in ids) == text.encode()
        assert tokenizer.decode([*ids, tokenizer.eos_id]) == text


_loaded = {}


def _once(path):
    if path not in _loaded:
        _loaded[path] = load_tokenizer(path)
    return _loaded[path]


def test_half_a_character_decodes_to_a_replacement():
    assert load_tokenizer("byte").decode([0xE6, 0xB0]) == "\ufffd"


def test_the_fast_engine_is_used_where_it_is_exact_and_only_there(trained, tmp_path, sentences):
    assert load_tokenizer(trained).engine == "gigatoken"
    assert load_tokenizer(trained, engine="reference").engine == "tokenizers"
    assert _unigram(tmp_path, sentences).engine == "tokenizers"
    assert _sentencepiece(tmp_path, sentences, model_type="unigram").engine == "sentencepiece"


def test_an_engine_that_differs_on_the_probe_is_not_used(trained, monkeypatch):
    from headrace.tokens.gigatoken import Gigatoken

    real = Gigatoken.encode_batch

    def wrong(self, texts):
        ids, offsets = real(self, texts)
        return ids ^ np.uint32(1), offsets

    monkeypatch.setattr(Gigatoken, "encode_batch", wrong)
    assert load_tokenizer(trained).engine == "tokenizers"


@pytest.mark.parametrize("name", ["trained", "gpt2", "cl100k_base", "o200k_base"])
def test_every_character_of_unicode_encodes_as_the_reference_does(request, monkeypatch, name):
    """Alone, after a blank, and between letters: where splitting rules differ, it shows here."""
    if name == "trained":
        tokenizer = load_tokenizer(request.getfixturevalue("trained"))
    else:
        assets = request.getfixturevalue("assets")
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(assets / "tiktoken-cache"))
        tokenizer = load_tokenizer(name)
    assert tokenizer.engine == "gigatoken"
    points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    # The planes without assigned characters are sampled, the assigned ones swept.
    points = [c for c in points if c < 0x20000 or c % 61 == 0]
    texts = []
    for i in range(0, len(points), 64):
        some = [chr(c) for c in points[i : i + 64]]
        texts.append((" ".join(some) + "".join(f"a{c}b1{c}2" for c in some)).encode())
    assert first_mismatch(tokenizer, tokenizer.as_reference(), texts) is None


@pytest.mark.parametrize(
    "text",
    [
        "a" * 300_000,
        " " * 100_000,
        "\n" * 100_000,
        "ab1 " * 50_000,
        "<|endoftext|>" * 5_000,
        "".join(chr(0x4E00 + i % 20_000) for i in range(60_000)),
        "0123456789" * 20_000,
        "'" * 100_000,
        "\u0301" * 50_000,
    ],
    ids=["letters", "blanks", "newlines", "words", "ends", "ideographs", "digits", "quotes", "marks"],
)
def test_adversarial_documents_encode_as_the_reference_does(trained, text):
    tokenizer = load_tokenizer(trained)
    assert first_mismatch(tokenizer, tokenizer.as_reference(), [text.encode()]) is None


def test_training_is_deterministic_and_the_end_is_the_last_id(tmp_path, sentences):
    a = train_tokenizer(sentences * 5, vocab_size=400, out=tmp_path / "a" / "tokenizer.json")
    b = train_tokenizer(sentences * 5, vocab_size=400, out=tmp_path / "b" / "tokenizer.json")
    assert a.read_bytes() == b.read_bytes()
    tokenizer = load_tokenizer(a)
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (400, 399)
    assert json.loads(a.read_bytes())["added_tokens"][0]["content"] == "<|endoftext|>"
    assert [file.name for file in a.parent.iterdir()] == ["tokenizer.json"]


def test_training_on_nothing_or_for_too_few_ids_is_refused(tmp_path):
    from headrace.errors import ConfigError, SourceError

    with pytest.raises(ConfigError, match="vocab_size is 256; byte-level BPE needs 257"):
        train_tokenizer(["a"], vocab_size=256, out=tmp_path / "t.json")
    with pytest.raises(SourceError, match="no text to train a tokenizer on"):
        train_tokenizer(["", ""], vocab_size=300, out=tmp_path / "t.json")
    assert not (tmp_path / "t.json").exists()


def test_an_out_that_cannot_be_a_file_is_refused_before_the_texts_are_read(tmp_path, monkeypatch):
    from headrace.errors import ConfigError

    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    for out in (".", "..", "/", tmp_path, "file/t.json"):
        with pytest.raises(ConfigError, match=r"tokenizer train: out is .*(a directory|cannot be made)"):
            train_tokenizer(iter(()), vocab_size=300, out=out)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_transformers_reads_what_we_trained_to_the_same_ids(trained, sentences):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(trained))
    ours = load_tokenizer(trained)
    for text in sentences:
        assert ours.encode(text).tolist() == theirs.encode(text, add_special_tokens=False)


def test_gpt2_is_the_same_by_tiktokens_files_and_by_transformers(assets, monkeypatch, sentences):
    transformers = pytest.importorskip("transformers")
    tiktoken = pytest.importorskip("tiktoken")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(assets / "tiktoken-cache"))
    ours = load_tokenizer("gpt2")
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(assets / "tokenizer-gpt2" / "tokenizer.json")
    )
    reference = tiktoken.get_encoding("gpt2")
    assert (ours.eos_id, ours.vocab_size) == (50256, 50257)
    for text in sentences:
        ids = ours.encode(text).tolist()
        assert ids == reference.encode_ordinary(text)
        assert ids == theirs.encode(text, add_special_tokens=False)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (
            "no-such-name",
            r"no-such-name: no such tokenizer. Expected: byte, gpt2, r50k_base, .*, o200k_harmony, or the path",
        ),
        (
            "{tmp}/empty",
            r"no tokenizer\.json, no tokenizer\.model, no tekken\.json, no vocab\.json and merges\.txt in this",
        ),
        ("{tmp}/broken.json", r"broken\.json|broken: not a tokenizer\.json"),
        ("{tmp}/dropout.json", r"BPE dropout is 0\.1"),
        ("{tmp}/no-model.json", r'no "model" in it'),
        ("{tmp}/broken.model", r"not a SentencePiece model"),
    ],
)
def test_what_is_no_tokenizer_is_refused_by_name(tmp_path, trained, spec, says):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "no-model.json").write_text("{}")
    (tmp_path / "broken.model").write_bytes(b"\xff\xff\xff")
    definition = json.loads(trained.read_bytes())
    definition["model"]["dropout"] = 0.1
    (tmp_path / "dropout.json").write_text(json.dumps(definition))
    with pytest.raises(TokenizerError, match=says):
        load_tokenizer(spec.format(tmp=tmp_path))


def test_gpt2_without_its_files_says_which_and_where_to_put_them(tmp_path, monkeypatch):
    """And nothing is downloaded: there is no network in this test."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("DATA_GYM_CACHE_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(
        TokenizerError, match=rf"gpt2: its file vocab\.bpe is in none of {tmp_path}.*TIKTOKEN_CACHE_DIR"
    ):
        load_tokenizer("gpt2")
    (tmp_path / "cl100k_base.tiktoken").write_bytes(b"damaged")
    with pytest.raises(TokenizerError, match=r"cl100k_base\.tiktoken: sha256 is .*Damaged"):
        load_tokenizer("cl100k_base")
    with pytest.raises(TokenizerError, match="sha256"):
        load_tokenizer(tmp_path / "cl100k_base.tiktoken")


def test_damaged_files_of_a_store_are_refused():
    with pytest.raises(TokenizerError, match="incomplete"):
        tokenizer_from_files({})
    with pytest.raises(TokenizerError, match="kind 'morse'"):
        tokenizer_from_files({"headrace-tokenizer.json": b'{"kind": "morse", "name": "x"}'})
    with pytest.raises(TokenizerError, match=r"incomplete: .*tokenizer\.json"):
        tokenizer_from_files(
            {"headrace-tokenizer.json": b'{"kind": "huggingface", "name": "x", "eos_id": 1}'}
        )


def test_weights_beside_a_tokenizer_are_not_read(tmp_path, monkeypatch):
    """A model's directory holds both, and the weights may be larger than the memory."""
    for name, data in load_tokenizer("byte").files().items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    read, read_bytes = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or read_bytes(path))
    assert load_tokenizer(tmp_path).vocab_size == 257
    assert read == ["headrace-tokenizer.json"]
