"""Models with an encoder and a decoder generate what transformers generates, in batches of any make-up."""

from __future__ import annotations

import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

import headrace as hr
from headrace.errors import ConfigError
from headrace.generation import PrefixCacheOptions, load_engine
from headrace.generation.request import Request

TEXTS = ["ab", "hello there", "a", "the quick brown fox", "", "zz z", "one two three four five"]
SIZES = {"vocab_size": 64, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
SIZES["tie_word_embeddings"] = False


def save_tokenizer(path):
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocab += [(chr(97 + i), -3.0) for i in range(26)] + [(f"▁{chr(97 + i)}", -2.5) for i in range(26)]
    made = Tokenizer(models.Unigram(vocab, unk_id=2))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.add_special_tokens(["<pad>", "</s>", "<unk>"])
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    made.save(str(path / "tokenizer.json"))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "pad_token": "<pad>"}
    (path / "tokenizer_config.json").write_text(json.dumps(named))


def make(kind):
    from transformers import (
        BartConfig,
        BartForConditionalGeneration,
        MarianConfig,
        MarianMTModel,
        MBartConfig,
        MBartForConditionalGeneration,
        MT5Config,
        MT5ForConditionalGeneration,
        T5Config,
        T5ForConditionalGeneration,
    )

    torch.manual_seed(3)
    if kind in ("t5", "mt5"):
        sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
        if kind == "mt5":
            return MT5ForConditionalGeneration(MT5Config(**SIZES, **sizes))
        return T5ForConditionalGeneration(T5Config(**SIZES, **sizes))
    config, model = {
        "bart": (BartConfig, BartForConditionalGeneration),
        "marian": (MarianConfig, MarianMTModel),
        "mbart": (MBartConfig, MBartForConditionalGeneration),
    }[kind]
    layers = {
        f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in (("layers", 2), ("ffn_dim", 64))
    }
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 40}
    made = model(config(**SIZES, **layers, **heads, d_model=32, init_std=0.3, forced_eos_token_id=None))
    if kind in ("bart", "mbart"):  # of mBART the language to translate into
        made.generation_config.forced_bos_token_id, made.generation_config.forced_eos_token_id = 7, 1
    else:
        made.generation_config.bad_words_ids = [[0]]
    return made


@pytest.fixture(scope="module", params=["t5", "mt5", "bart", "mbart", "marian"])
def directory(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param)
    model = make(request.param).eval()
    with torch.no_grad():  # so that greedy outputs differ from prompt to prompt, and some of them end
        for name, parameter in model.named_parameters():
            if "embed" not in name and "shared" not in name and parameter.dim() > 1:
                parameter.normal_(0, 0.7)
    model.save_pretrained(path)
    save_tokenizer(path)
    return path


def by_transformers(directory, text, **options):
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForSeq2SeqLM.from_pretrained(directory).eval()
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    out = model.generate(input_ids=ids, do_sample=False, num_beams=1, max_new_tokens=12, **options)[0, 1:]
    return out.tolist(), tokenizer.decode(out, skip_special_tokens=True)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_greedy_output_is_that_of_transformers(directory, tmp_path, batch_size):
    (tmp_path / "prompts.jsonl").write_text(
        "".join(json.dumps({"id": str(i), "prompt": text}) + "\n" for i, text in enumerate(TEXTS))
    )
    engine = hr.EngineOptions(batch_size=batch_size, device="cpu")
    sampling = {"temperature": 0.0, "max_new_tokens": 12}
    hr.generate(str(directory), tmp_path / "prompts.jsonl", tmp_path / "out", engine=engine, **sampling)
    rows = {row["prompt_id"]: row for row in hr.read_predictions(tmp_path / "out").to_pylist()}
    outputs = set()
    for i, text in enumerate(TEXTS):
        ids, decoded = by_transformers(directory, text)
        row = rows[str(i)]
        assert row["token_ids"] == ids
        assert row["text"] == decoded
        outputs.add(tuple(ids))
    assert len(outputs) > 1


def test_requests_enter_and_leave_while_others_decode(directory):
    loaded = load_engine(str(directory), device="cpu", batch_size=2)
    engine, prompts = loaded.engine, loaded.prompt_tokenizer
    sampling = [
        hr.SamplingOptions(max_new_tokens=n, temperature=t) for n, t in ((2, 0), (9, 0), (5, 1.0), (4, 0))
    ]
    requests = [
        Request(prompt_id=str(i), token_ids=tuple(prompts.encode(text)), sampling=one)
        for i, (text, one) in enumerate(zip(TEXTS, sampling, strict=False))
    ]
    alone = {r.prompt_id: next(engine.run([r])).token_ids for r in requests}
    together = {row.prompt_id: row.token_ids for row in engine.run(requests)}
    assert together == alone
    for request in requests[:3]:
        engine.add(request)
    engine.step()
    assert (engine.running, engine.waiting) == (2, 1)
    assert engine.cancel(("1", 0))
    assert engine.cancel(("2", 0))
    assert not engine.cancel(("1", 0))
    assert (engine.running, engine.waiting) == (1, 0)


def test_what_is_not_supported_is_refused_by_name(directory, tmp_path):
    for engine in ("transformers", "vllm"):
        with pytest.raises(ConfigError, match=f"engine {engine} generates with decoders"):
            load_engine(str(directory), engine=engine, device="cpu")
    prefixes = PrefixCacheOptions(directory=str(tmp_path / "prefixes"))
    with pytest.raises(ConfigError, match="prefix_cache is for decoders"):
        load_engine(str(directory), device="cpu", prefix_cache=prefixes)
    loaded = load_engine(str(directory), device="cpu")
    with pytest.raises(ConfigError, match="no prompt_logprobs"):
        loaded.check_supported(hr.SamplingOptions(prompt_logprobs=True))
    for ids, message in (
        ((), "no tokens"),
        ((99,), "token id 99"),
        ((5,) * (1 << 17), "maximum context length"),
    ):
        with pytest.raises(ConfigError, match=message):
            loaded.engine.check(Request(prompt_id="a", token_ids=ids))
    config = json.loads((directory / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "pegasus"}))
    save_tokenizer(tmp_path)
    with pytest.raises(
        ConfigError, match="of type 'pegasus'; headrace generates with bart, marian, mbart, mt5, t5"
    ):
        load_engine(str(tmp_path), device="cpu")
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "source.spm").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"source\.spm and target\.spm, which headrace does not read"):
        load_engine(str(tmp_path), device="cpu")
    for sampling, message in (
        (hr.SamplingOptions(max_new_tokens=0), "max_new_tokens: 0"),
        (hr.SamplingOptions(prompt_logprobs=True), "no prompt_logprobs"),
    ):
        row = next(loaded.engine.run([Request(prompt_id="a", token_ids=(5,), sampling=sampling)]))
        assert row.finish_reason == "error"
        assert message in row.error["message"]


def test_defaults_of_a_model_that_are_not_obeyed_are_named(tmp_path, caplog):
    """What is in the directories of BART for summaries: beams, a least length, no trigram twice."""
    model = make("bart").eval()
    model.generation_config.num_beams = 4
    model.generation_config.min_length, model.generation_config.no_repeat_ngram_size = 56, 3
    model.generation_config.bad_words_ids = [[5, 6]]
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    load_engine(tmp_path)
    (said,) = [record.getMessage() for record in caplog.records if "does not obey" in record.getMessage()]
    assert "num_beams 4, min_length 56, no_repeat_ngram_size 3, bad_words_ids of 2 tokens" in said
    caplog.clear()
    model.generation_config = type(model.generation_config)(
        decoder_start_token_id=0, eos_token_id=1, pad_token_id=0
    )
    model.save_pretrained(tmp_path)
    load_engine(tmp_path)
    assert not [record for record in caplog.records if "does not obey" in record.getMessage()]
