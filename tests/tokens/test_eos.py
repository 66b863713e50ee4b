"""Which id ends a document, for any tokenizer.json."""

import json

import pytest

from headrace.errors import TokenizerError
from headrace.tokens import load_tokenizer


@pytest.fixture
def directory(tmp_path, trained):
    """tokenizer.json with other special tokens, and what stands beside it."""

    def make(specials, config=None, ordinary=()):
        definition = json.loads(trained.read_bytes())
        first = 399
        definition["added_tokens"] = [
            {
                "id": first + i,
                "content": token,
                "special": token not in ordinary,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
            }
            for i, token in enumerate([*specials, *ordinary])
        ]
        definition["model"]["vocab"].pop("<|endoftext|>", None)
        (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
        if config is not None:
            (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("specials", "config", "end"),
    [
        (["<pad>", "<|endoftext|>"], None, 400),
        (["<pad>", "</s>", "<|im_end|>"], None, 400),
        (["<pad>", "</s>"], {"eos_token": "<pad>"}, 399),
        (["<pad>", "</s>"], {"eos_token": {"content": "<pad>", "lstrip": False}}, 399),
        (["<pad>", "</s>"], {"eos_token": None}, 400),
        (["<pad>"], None, 400),  # none is known as an end: one is added above the vocabulary
        ([], None, 399),
    ],
)
def test_the_end_of_a_document_is_found_by_rule(directory, specials, config, end):
    tokenizer = load_tokenizer(directory(specials, config))
    assert tokenizer.eos_id == end
    assert tokenizer.vocab_size == max(end + 1, 399 + len(specials))
    assert tokenizer.decode([*tokenizer.encode("mill"), end]) == "mill"


def test_an_end_that_the_vocabulary_lacks_is_refused(directory):
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json names '<end>' as eos_token"):
        load_tokenizer(directory(["<pad>"], {"eos_token": "<end>"}))


def test_the_rule_travels_with_the_files(directory):
    """A store that was made with one end keeps it, whatever later versions would choose."""
    from headrace.tokens import tokenizer_from_files

    tokenizer = load_tokenizer(directory(["<pad>", "</s>"], {"eos_token": "<pad>"}))
    files = tokenizer.files()
    del files["tokenizer_config.json"]
    assert tokenizer_from_files(files).eos_id == tokenizer.eos_id == 399


def test_special_tokens_in_text_are_text_and_ordinary_added_tokens_are_tokens(directory):
    """As transformers encodes "<think>", and as no document may end another one."""
    tokenizer = load_tokenizer(directory(["<|endoftext|>"], ordinary=("<think>",)))
    assert tokenizer.engine == "gigatoken"
    for one in (tokenizer, tokenizer.as_reference()):
        ids = one.encode("a<think>b<|endoftext|>c").tolist()
        assert 400 in ids
        assert 399 not in ids
        assert one.decode(ids) == "a<think>b<|endoftext|>c"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vocab", [1, 2]),
        ("vocab", [[]]),
        ("vocab", {"a": "x"}),
        ("vocab", {"a": None}),
        ("added_tokens", 5),
        ("added_tokens", [5]),
        ("added_tokens", [{}]),
        ("added_tokens", {"a": 1}),
        ("added_tokens", [{"id": "x", "content": "a"}]),
        ("pre_tokenizer", {"type": "Sequence", "pretokenizers": 5}),
        ("decoder", {"type": "Sequence", "decoders": 5}),
    ],
)
@pytest.mark.parametrize("kind", ["BPE", "Unigram"])
def test_a_definition_of_other_types_is_refused_by_the_tokenizers_name(kind, key, value, tmp_path):
    model = {"type": kind, "vocab": {"a": 0}, "merges": []}
    if kind == "Unigram":
        model = {"type": kind, "unk_id": 0, "vocab": [["a", 0.0]]}
    definition = {"version": "1.0", "added_tokens": [], "model": model}
    (model if key == "vocab" else definition)[key] = value
    (tmp_path / "damaged.json").write_text(json.dumps(definition))
    with pytest.raises(TokenizerError, match=r"damaged.*: not a tokenizer\.json: "):
        load_tokenizer(tmp_path / "damaged.json")
