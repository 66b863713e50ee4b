"""Prompts are read as transformers reads them: special tokens in the text are special, unless they are split."""

import json

import pytest
import tokenizers
from tokenizers import decoders, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from headrace.errors import ConfigError
from headrace.generation.model_directory import SpecialIds, special_ids_of
from headrace.generation.prompts.tokenizer import PromptTokenizer
from headrace.tokens import load_tokenizer

TEXTS = [
    "plain text", "a<|im_end|>b", "<|im_end|>", " <|im_start|> x", "<s>a</s><s>b", "<|im_start|>user\nhi<|im_end|>\n",
    "half <|im_en", "<|IM_END|>", "é<|im_end|>ü", "<|im_end|><|im_end|>", "<|end|> named beside the file",
]  # fmt: skip


def byte_level():
    made = tokenizers.Tokenizer(
        tokenizers.models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    )
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<s>", "</s>", "<|im_start|>", "<|im_end|>"])
    made.add_tokens(["<|end|>"])
    return made


def unigram():
    """Special tokens are pieces of the vocabulary, as in Llama 2."""
    letters = [chr(i) for i in range(32, 127)] + ["▁", "é", "ü", "\n"]
    vocab = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("<|im_start|>", 0.0), ("<|im_end|>", 0.0)]
    made = tokenizers.Tokenizer(
        tokenizers.models.Unigram(vocab + [(x, -2.0) for x in letters] + [("<|end|>", -1.0)], 0)
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.decoder = decoders.Metaspace(prepend_scheme="first")
    made.add_special_tokens(["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"])
    return made


def lower_case():
    """A special token that is matched after the text is normalized."""
    made = byte_level()
    made.normalizer = normalizers.Lowercase()
    made.add_special_tokens([tokenizers.AddedToken("<|im_end|>", normalized=True, special=True)])
    return made


KINDS = {"byte_level": byte_level, "unigram": unigram, "lower_case": lower_case}


def save(made, folder, *, around=None):
    if around:
        names = ["<s>", "</s>"]
        made.post_processor = TemplateProcessing(
            single=around, special_tokens=[(name, made.token_to_id(name)) for name in names]
        )
    made.save(str(folder / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "bos_token": "<s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "bos_token_id": 1}))
    tokenizer = load_tokenizer(folder)
    return PromptTokenizer(tokenizer, special_ids_of(folder, tokenizer))


@pytest.mark.parametrize("split_special_tokens", [False, True])
@pytest.mark.parametrize("add_special_tokens", [True, False])
@pytest.mark.parametrize("around", [None, "<s> $A", "<s> $A </s>", "<s> <s> $A"])
@pytest.mark.parametrize("kind", KINDS)
def test_ids_equal_those_of_transformers(tmp_path, kind, around, add_special_tokens, split_special_tokens):
    ours = save(KINDS[kind](), tmp_path, around=around)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    options = {"add_special_tokens": add_special_tokens, "split_special_tokens": split_special_tokens}
    for text in TEXTS:
        assert ours.encode(text, **options) == theirs(text, **options).input_ids, text


def test_a_runs_end_of_text_is_read_as_its_export_reads_it():
    tokenizer = load_tokenizer("byte")
    prompts = PromptTokenizer(tokenizer, SpecialIds(start=256, eos=(256,)))
    assert prompts.encode("a<|endoftext|>b") == [97, 256, 98]
    assert prompts.encode("a<|endoftext|>b", split_special_tokens=True) == list(b"a<|endoftext|>b")


def test_an_id_that_the_model_does_not_have_is_not_read_into_its_prompts():
    """The tokenizer's end of text was added above the vocabulary; this model was trained without it."""
    prompts = PromptTokenizer(load_tokenizer("byte"), SpecialIds(start=None, eos=()))
    assert prompts.encode("a<|endoftext|>b") == list(b"a<|endoftext|>b")


def test_an_empty_prompt_is_what_begins_a_text_or_is_refused():
    tokenizer = load_tokenizer("byte")
    assert PromptTokenizer(tokenizer, SpecialIds(start=256, eos=())).encode("") == [256]
    assert PromptTokenizer(tokenizer, SpecialIds(start=7, eos=(), prefix=(1,))).encode("") == [1]
    assert PromptTokenizer(tokenizer, SpecialIds(start=7, eos=())).encode("", add_special_tokens=False) == []
    with pytest.raises(ConfigError, match="empty, and this model has no token that begins a text"):
        PromptTokenizer(tokenizer, SpecialIds(start=None, eos=())).encode("")
