"""vocab_merges.py: vocab.json and merges.txt give the ids of the tokenizer.json that they came from."""

import json

import pytest

from headrace.errors import TokenizerError
from headrace.tokens import load_tokenizer


@pytest.fixture
def pair(tmp_path, trained):
    """Files as GPT-2's repositories have them."""
    model = json.loads(trained.read_bytes())["model"]
    vocab = {**model["vocab"], "<|endoftext|>": len(model["vocab"])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return tmp_path


def test_the_pair_has_the_ids_of_its_tokenizer_json(pair, trained, sentences):
    whole = load_tokenizer(trained)
    for path in (pair, pair / "vocab.json", pair / "merges.txt"):
        tokenizer = load_tokenizer(path)
        assert (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.engine) == (400, whole.eos_id, "gigatoken")
        for text in [*sentences, "a<|endoftext|>b"]:
            assert tokenizer.encode(text).tolist() == whole.encode(text).tolist()


def test_transformers_reads_the_pair_to_the_same_ids(pair, sentences):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2Tokenizer.from_pretrained(str(pair))
    ours = load_tokenizer(pair)
    for text in sentences:
        assert ours.encode(text).tolist() == theirs.encode(text, add_special_tokens=False)
    assert ours.eos_id == theirs.eos_token_id


def test_qwen2s_pair_has_its_rule_and_its_added_tokens(pair, sentences):
    transformers = pytest.importorskip("transformers")
    added = {"<|im_start|>": 400, "<|im_end|>": 401}
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": "<|im_end|>",
        "added_tokens_decoder": {
            str(i): {"content": content, "special": True, "normalized": False} for content, i in added.items()
        },
    }
    (pair / "tokenizer_config.json").write_text(json.dumps(config))
    ours = load_tokenizer(pair)
    assert (ours.vocab_size, ours.eos_id) == (402, 401)
    theirs = transformers.Qwen2Tokenizer.from_pretrained(str(pair))
    for text in [*sentences, "e\u0301 A\u030a 12345"]:
        assert ours.encode(text).tolist() == theirs.encode(text, add_special_tokens=False)


def test_openais_names_and_a_prefix_space(pair, sentences):
    (pair / "vocab.json").rename(pair / "encoder.json")
    (pair / "merges.txt").rename(pair / "vocab.bpe")
    plain = load_tokenizer(pair)
    (pair / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "RobertaTokenizerFast", "add_prefix_space": true}'
    )
    spaced = load_tokenizer(pair / "encoder.json")
    assert spaced.encode("river").tolist() == plain.encode(" river").tolist()


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        (
            "tokenizer_config.json",
            '{"tokenizer_class": "CLIPTokenizer"}',
            "names 'CLIPTokenizer'.*save_pretrained",
        ),
        ("config.json", '{"model_type": "clip"}', "config.json names 'clip'"),
        ("tokenizer_config.json", "[]", "expected a JSON object"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {"content": 5}}}', "cannot be read"),
        ("tokenizer_config.json", '{"added_tokens_decoder": [1]}', "cannot be read"),
        ("tokenizer_config.json", '{"additional_special_tokens": 7}', "cannot be read"),
        ("added_tokens.json", '{"a": "b"}', "cannot be read"),
        ("vocab.json", "{", "no JSON"),
        ("vocab.json", '{"a": "b"}', "from tokens to ids"),
        ("vocab.json", '{"a": 0}', "255 of 256 bytes have no token"),
        ("merges.txt", "#version: 0.2\nt h e\n", "line 2 is 't h e'; expected two tokens"),
        ("merges.txt", "#version: 0.2\nq☃ z\n", "line 2 merges .*lacks a token"),
        ("merges.txt", "#version: 0.2\n", "no merges"),
    ],
)
def test_a_pair_that_cannot_be_read_right_is_refused(pair, file, content, says):
    (pair / file).write_text(content)
    with pytest.raises(TokenizerError, match=says):
        load_tokenizer(pair)


def test_half_a_pair_is_refused(pair):
    (pair / "merges.txt").unlink()
    with pytest.raises(TokenizerError, match=r"vocab\.json and merges\.txt or encoder\.json and vocab\.bpe"):
        load_tokenizer(pair / "vocab.json")
    with pytest.raises(TokenizerError, match=r"no vocab\.json and merges\.txt in this directory"):
        load_tokenizer(pair)
