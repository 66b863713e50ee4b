"""ranks_file.py and merges.py: files of ranks, and tekken.json, give tiktoken's ids."""

import base64
import hashlib
import json

import pytest

from headrace.errors import TokenizerError
from headrace.tokens import first_mismatch, load_tokenizer, ranks_file, tokenizer_from_files, tricky_texts
from headrace.tokens.merges import MERGES, merges_of_ranks

PATTERN = r" ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+"


@pytest.fixture(scope="session")
def tokens(trained) -> list[bytes]:
    """Byte-level tokens in the order of their ids: 256 bytes, then merges."""
    table = load_tokenizer(trained).token_bytes()
    return [bytes([b]) for b in range(256)] + [token for token in table if len(token) > 1]


def _ranks(tokens, first=0):
    return b"".join(b"%s %d\n" % (base64.b64encode(token), i) for i, token in enumerate(tokens, first))


def _tekken(tokens, **changes):
    config = {
        "pattern": PATTERN,
        "num_vocab_tokens": len(tokens),
        "default_vocab_size": len(tokens) - 5 + 30,
        "default_num_special_tokens": 30,
        "version": "v3",
    }
    vocab = [
        {"rank": i, "token_bytes": base64.b64encode(t).decode(), "token_str": None}
        for i, t in enumerate(tokens)
    ]
    return json.dumps({"config": config, "vocab": vocab, **changes})


def _reference(tokens, first=0):
    import tiktoken

    ranks = {token: i for i, token in enumerate(tokens, first)}
    return tiktoken.Encoding("test", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})


def test_the_ids_of_a_tekken_json_are_mistrals(tmp_path, tokens, sentences):
    """Special tokens first, the vocabulary behind them, cut to the size that the config names."""
    (tmp_path / "tekken.json").write_text(_tekken(tokens))
    reference = _reference(tokens[:-5], first=30)
    for path in (tmp_path / "tekken.json", tmp_path):
        tokenizer = load_tokenizer(path)
        assert (tokenizer.vocab_size, tokenizer.eos_id) == (len(tokens) + 25, 2)
        for text in [*sentences, "</s><unk>[INST]"]:
            assert tokenizer.encode(text).tolist() == reference.encode_ordinary(text)
            assert tokenizer.decode(tokenizer.encode(text)) == text
        again = tokenizer_from_files(tokenizer.files())
        assert (again.fingerprint, again.eos_id) == (tokenizer.fingerprint, 2)


def test_a_tekken_json_that_lists_its_special_tokens(tmp_path, tokens):
    named = [
        {"rank": 0, "token_str": "<s>", "is_control": True},
        {"rank": 7, "token_str": "</s>", "is_control": True},
    ]
    (tmp_path / "tekken.json").write_text(_tekken(tokens, special_tokens=named))
    assert load_tokenizer(tmp_path).eos_id == 7


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"special_tokens": []}, "not a tekken.json: KeyError.*</s>"),
        ({"vocab": []}, "0 tokens, its config says"),
        ({"vocab": [{"rank": 3, "token_bytes": "AA=="}]}, "token 0 of its vocabulary has rank 3"),
        ({"vocab": [{"rank": 0, "token_bytes": "?"}]}, "not a tekken.json"),
        ({"vocab": [5]}, "not a tekken.json: TypeError"),
    ],
)
def test_a_damaged_tekken_json_is_refused(tmp_path, tokens, changes, says):
    (tmp_path / "tekken.json").write_text(_tekken(tokens, **changes))
    with pytest.raises(TokenizerError, match=says):
        load_tokenizer(tmp_path / "tekken.json")


@pytest.mark.parametrize("scheme", ["gpt4", MERGES])
def test_a_published_file_of_ranks_is_known_by_its_hash(tmp_path, tokens, sentences, monkeypatch, scheme):
    """Whatever its name is: Llama's is called tokenizer.model, as SentencePiece's are."""
    data = _ranks(tokens)
    llama3 = next(d for d in ranks_file._DEFINITION_OF_SHA256.values() if d.name == "llama3")
    definition = ranks_file._Definition(
        name="mine",
        pattern=llama3.pattern,
        specials=llama3.specials,
        eos_token="<|end_of_text|>",
        scheme=scheme,
    )
    monkeypatch.setitem(ranks_file._DEFINITION_OF_SHA256, hashlib.sha256(data).hexdigest(), definition)
    (tmp_path / "tokenizer.model").write_bytes(data)
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.name, tokenizer.engine) == ("mine", "gigatoken")
    assert (tokenizer.eos_id, tokenizer.vocab_size) == (len(tokens) + 1, len(tokens) + 256)
    texts = [text.encode() for text in sentences] + tricky_texts(tokenizer.added_tokens())
    assert first_mismatch(tokenizer, tokenizer.as_reference(), texts) is None
    again = tokenizer_from_files(tokenizer.files())
    assert (again.fingerprint, again.engine) == (tokenizer.fingerprint, "gigatoken")


def test_the_fast_engine_takes_words_that_no_merge_makes(tokens, sentences):
    """Llama 3's vocabulary has such words; tiktoken finds them whole."""
    from headrace.tokens.encodings import EncodingTokenizer

    llama3 = next(d for d in ranks_file._DEFINITION_OF_SHA256.values() if d.name == "llama3")
    tokenizer = EncodingTokenizer(
        name="x",
        pattern=llama3.pattern,
        ranks_file=_ranks([*tokens, b" Ponamos", b"zqx"]),
        specials={"<|end|>": 1000},
        eos_id=1000,
        scheme=MERGES,
    )
    texts = [text.encode() for text in [*sentences, "zqx Ponamos zqxx a Ponamosx"]]
    assert tokenizer.engine == "gigatoken"
    assert first_mismatch(tokenizer, tokenizer.as_reference(), texts) is None
    assert len(tokenizer.encode("zqx Ponamos")) == 2


def test_every_way_to_make_a_token_is_a_merge():
    ranks = {token: i for i, token in enumerate(["a", "b", "c", "bc", "ab", "abc"])}
    assert merges_of_ranks(ranks) == [("b", "c"), ("a", "b"), ("a", "bc"), ("ab", "c")]


def test_an_unknown_file_of_ranks_is_refused_with_its_cure_and_the_cure_works(tmp_path, tokens, sentences):
    (tmp_path / "mine.tiktoken").write_bytes(_ranks(tokens))
    with pytest.raises(
        TokenizerError, match=r"none of r50k_base.*llama3.*ranks\.tiktoken.*headrace-tokenizer\.json"
    ):
        load_tokenizer(tmp_path / "mine.tiktoken")
    place = tmp_path / "cure"
    place.mkdir()
    (place / "ranks.tiktoken").write_bytes(_ranks(tokens))
    about = {
        "kind": "tiktoken",
        "name": "mine",
        "pattern": PATTERN,
        "special_tokens": {"<|end|>": 999},
        "eos_id": 999,
    }
    (place / "headrace-tokenizer.json").write_text(json.dumps(about))
    tokenizer = load_tokenizer(place)
    for text in sentences:
        assert tokenizer.encode(text).tolist() == _reference(tokens).encode_ordinary(text)


def test_a_file_named_tiktoken_that_has_no_ranks_is_refused(tmp_path):
    (tmp_path / "x.tiktoken").write_bytes(b"<html>")
    with pytest.raises(TokenizerError, match="token in base 64"):
        load_tokenizer(tmp_path / "x.tiktoken")


def test_r50k_and_p50k_are_tiktokens_own(assets, monkeypatch, tmp_path, sentences):
    """Their files are made from GPT-2's: r50k_base has its ranks, p50k_base also runs of 2 to 25 blanks."""
    tiktoken = pytest.importorskip("tiktoken")
    from headrace.tokens.encodings import _ranks_of_encoder

    encoder = (assets / "tiktoken-cache" / "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6").read_bytes()
    r50k = _ranks_of_encoder(encoder)
    blanks = b"".join(b"%s %d\n" % (base64.b64encode(b" " * n), 50255 + n) for n in range(2, 26))
    (tmp_path / "r50k_base.tiktoken").write_bytes(r50k)
    (tmp_path / "p50k_base.tiktoken").write_bytes(r50k + blanks)
    (tmp_path / "renamed").write_bytes(r50k + blanks)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    for name in (
        "r50k_base",
        "p50k_base",
        "p50k_edit",
        tmp_path / "renamed",
        tmp_path / "r50k_base.tiktoken",
    ):
        tokenizer = load_tokenizer(name)
        assert (tokenizer.engine, tokenizer.eos_id) == ("gigatoken", 50256)
        reference = tokenizer.as_reference()._tiktoken
        assert isinstance(reference, tiktoken.Encoding)
        for text in [*sentences, "a" + " " * 40 + "b"]:
            assert tokenizer.encode(text).tolist() == reference.encode_ordinary(text)


@pytest.mark.parametrize(
    ("changes", "cut", "says"),
    [
        ({"pattern": "("}, 0, "not an encoding of tiktoken"),
        ({"special_tokens": 5}, 0, "incomplete"),
        ({"special_tokens": {"x": "y"}}, 0, "no number from 0"),
        ({"eos_id": "x"}, 0, "no number from 0"),
        ({"eos_id": 10**12}, 0, "no number from 0"),
        ({"eos_id": 5}, 0, "id 5 is the rank of an ordinary token"),
        ({}, 3, "damaged: a token or a rank"),
        ({}, 12, "damaged"),
    ],
)
def test_a_definition_of_ones_own_that_cannot_be_right_is_refused(tmp_path, tokens, changes, cut, says):
    about = {
        "kind": "tiktoken",
        "name": "mine",
        "pattern": PATTERN,
        "special_tokens": {"<|end|>": 999},
        "eos_id": 999,
    }
    (tmp_path / "headrace-tokenizer.json").write_text(json.dumps({**about, **changes}))
    data = _ranks(tokens[:256])
    (tmp_path / "ranks.tiktoken").write_bytes(data[: len(data) - cut])
    with pytest.raises(TokenizerError, match=says):
        load_tokenizer(tmp_path).encode("text")
