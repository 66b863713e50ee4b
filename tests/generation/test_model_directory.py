"""The ids around a text are those that the model's directory names, and none is made up."""

import json

import pytest
import tokenizers
import torch
import transformers
from tokenizers import decoders, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from headrace.errors import ConfigError
from headrace.generation import EngineOptions, generate
from headrace.generation.loading import load_engine
from headrace.generation.model_directory import SpecialIds, special_ids_of
from headrace.sink import read_predictions
from headrace.tokens import load_tokenizer

SPECIALS = ["<s>", "</s>"]


def write_tokenizer(folder, *, specials=(), prefix=False):
    """An id a byte, the special tokens behind them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(tokenizers.models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(specials))
    if prefix:
        made.post_processor = TemplateProcessing(
            single="<s> $A </s>", special_tokens=[(one, made.token_to_id(one)) for one in SPECIALS]
        )
    made.save(str(folder / "tokenizer.json"))


def bounds(folder, **config):
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    return special_ids_of(folder, load_tokenizer(folder))


def test_ids_that_end_a_text_are_the_directorys(tmp_path):
    write_tokenizer(tmp_path, specials=SPECIALS)
    assert bounds(tmp_path).eos == (257,)
    assert bounds(tmp_path, eos_token_id=5).eos == (5,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 8]}')
    assert bounds(tmp_path, eos_token_id=5).eos == (7, 8)


def test_the_beginning_of_sequence_is_put_in_front_where_the_tokenizer_does(tmp_path):
    write_tokenizer(tmp_path, specials=SPECIALS)
    assert bounds(tmp_path).prefix == ()
    write_tokenizer(tmp_path, specials=SPECIALS, prefix=True)
    assert bounds(tmp_path).prefix == (256,)


def test_an_empty_prompt_is_what_begins_a_text_else_what_ends_one(tmp_path):
    write_tokenizer(tmp_path, specials=SPECIALS)
    assert bounds(tmp_path, bos_token_id=256, eos_token_id=257).start == 256
    assert bounds(tmp_path, vocab_size=258, bos_token_id=50256).start == 257, (
        "a default of another vocabulary"
    )
    write_tokenizer(tmp_path)
    assert bounds(tmp_path, eos_token_id=[9, 3]).start == 9


@pytest.mark.parametrize("vocab_size", [256, 320])
def test_a_tokenizer_without_special_tokens_bounds_nothing(tmp_path, vocab_size):
    """320: padded, so that the id above the tokenizer's vocabulary is a row that was never trained."""
    write_tokenizer(tmp_path)
    nothing = SpecialIds(prefix=(), start=None, eos=())
    assert bounds(tmp_path, vocab_size=vocab_size, bos_token_id=None, eos_token_id=None) == nothing


@pytest.fixture(scope="module", params=[256, 320])
def bare(request, tmp_path_factory):
    """A Llama whose tokenizer has no special token, its vocabulary padded or not."""
    out = tmp_path_factory.mktemp("bare")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=request.param, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.3,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(out)
    write_tokenizer(out)
    return out


@pytest.mark.parametrize("engine", ["native", "transformers"])
def test_without_special_tokens_a_prompt_goes_to_its_limit_as_transformers_does(bare, tmp_path, engine):
    prompts = [{"prompt": "hello"}, {"prompt": ""}, {"prompt_token_ids": []}]
    generate(bare, prompts, tmp_path, max_new_tokens=100, engine=EngineOptions(name=engine, dtype="float32"))
    row, empty, no_ids = read_predictions(tmp_path, sort=True).to_pylist()
    ids = load_tokenizer(bare).encode("hello").tolist()
    model = transformers.LlamaForCausalLM.from_pretrained(bare)
    expected = model.generate(torch.tensor([ids]), max_new_tokens=100, do_sample=False)[0].tolist()
    assert (ids + row["token_ids"], row["finish_reason"]) == (expected, "length")
    assert "empty, and this model has no token that begins a text" in empty["error"]["message"]
    assert "no tokens" in no_ids["error"]["message"]


def test_an_empty_prompt_without_special_tokens_is_refused_with_a_cure(bare):
    with pytest.raises(ConfigError, match="Give some text, or token ids"):
        load_engine(bare).prompt_tokenizer.encode("")
