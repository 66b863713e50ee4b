"""Steps of many rows by the extension in C: the numbers of a full forward pass, in every instruction set.

Tests decoding/many_rows.py, native_decoder.py and native_weights.py.
"""

import pytest
import torch

from headrace.generation.decoding.attention import plan_step
from headrace.generation.decoding.fused import FusedDecoder
from headrace.generation.decoding.gpt_runner import GPTRunner
from headrace.generation.decoding.native_step import NativeStepDecoder
from headrace.model import GPT, GPTConfig, KVCache
from headrace.native import available_targets, use_target

VOCABULARY = 101


def llama_like(kind, *, heads, groups, head_width, window=None):
    """A small random model of transformers; Qwen 3 normalises queries and keys, Mistral has a window."""
    import transformers

    torch.manual_seed(heads)
    more = {"sliding_window": window} if kind == "Mistral" else {}
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=heads * head_width, num_attention_heads=heads, num_key_value_heads=groups, head_dim=head_width,
        intermediate_size=73, num_hidden_layers=2, vocab_size=VOCABULARY, max_position_embeddings=256, **more,
    )  # fmt: skip
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def gpt_like(*, banded):
    config = GPTConfig(
        num_hidden_layers=2, hidden_size=42, num_attention_heads=3, vocab_size=VOCABULARY,
        max_position_embeddings=96, banded=banded, band_width=5,
    )  # fmt: skip
    model = GPT(config, seed=3).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


class LlamaRunner:
    """The fused decoder without the comparison that a directory's runner makes, which would hide a difference."""

    def __init__(self, model):
        self.fused, self.config = FusedDecoder.of(model), model.config
        self.decoder_name, self.dtype = self.fused.decoder_name, model.dtype

    def new_cache(self, *, num_rows, capacity):
        return KVCache(
            num_layers=self.config.num_hidden_layers, num_rows=num_rows, num_heads=self.fused.num_groups,
            capacity=capacity, head_dim=self.fused.head_width, dtype=self.dtype,
        )  # fmt: skip

    def hidden(self, step, kv):
        return self.fused(step, kv)

    def logits(self, x_KW):
        return self.fused.logits(x_KW)


MODELS = {
    "llama, 3 queries a key": lambda: llama_like("Llama", heads=9, groups=3, head_width=16),
    "llama, 5 queries a key": lambda: llama_like("Llama", heads=5, groups=1, head_width=16),
    "llama, wide heads": lambda: llama_like("Llama", heads=2, groups=2, head_width=80),
    "qwen3": lambda: llama_like("Qwen3", heads=4, groups=2, head_width=16),
    "mistral": lambda: llama_like("Mistral", heads=4, groups=2, head_width=16, window=6),
    "gpt": lambda: gpt_like(banded=False),
    "gpt, banded": lambda: gpt_like(banded=True),
}


def runner_of(model):
    return GPTRunner(model) if isinstance(model, GPT) else LlamaRunner(model)


def decoder_of(runner):
    return runner._native if isinstance(runner, GPTRunner) else runner.fused._native


def rows_of_ids(lengths):
    return [[(row * 31 + i * 37 + 5) % VOCABULARY for i in range(n)] for row, n in enumerate(lengths)]


def logits_in_steps(runner, rows):
    """Logits after each token of each row, until the first row ends.

    Rows enter one after the other, the first half of each as a prompt, and are decoded beside each other.
    """
    kv = runner.new_cache(num_rows=len(rows), capacity=max(map(len, rows)))
    got = [[] for _ in rows]
    done = [0] * len(rows)
    entered = 0
    while all(
        count < len(ids) for count, ids in zip(done, rows, strict=True)
    ):  # slots of decoded rows stay 0 to n - 1
        decoded = [(rows[r][done[r]], done[r]) for r in range(entered)]
        prompts = []
        if entered < len(rows):
            prompts = [(entered, rows[entered][: len(rows[entered]) // 2], True)]
        logits = runner.logits(runner.hidden(plan_step(decoded, prompts), kv)).float()
        for r in range(entered):
            got[r].append(logits[r : r + 1])
            done[r] += 1
        for _, tokens, _ in prompts:
            got[entered].append(logits[entered:])
            done[entered] = len(tokens)
            entered += 1
    return [torch.cat(row) for row in got]


def full_pass(model, ids):
    with torch.inference_mode():
        out = model(torch.tensor([ids]))
    return (out[0] if isinstance(model, GPT) else out.logits[0]).float()


@pytest.mark.parametrize("name", MODELS)
def test_logits_of_mixed_steps_equal_a_full_forward_pass(native_target, name):
    model = MODELS[name]()
    runner = runner_of(model)
    assert runner.decoder_name == f"native {native_target}"
    rows = rows_of_ids([40, 38, 33])  # the first is the longest, so that slots stay dense
    with torch.inference_mode():
        got = logits_in_steps(runner, rows)
    for ids, logits in zip(rows, got, strict=True):
        assert len(logits) > len(ids) // 2
        torch.testing.assert_close(logits, full_pass(model, ids)[: len(logits)], atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("name", ["llama, 3 queries a key", "gpt, banded", "mistral"])
def test_a_prompt_behind_a_cached_prefix_goes_on_from_it(native_target, name):
    model = MODELS[name]()
    runner = runner_of(model)
    (ids,) = rows_of_ids([30])
    with torch.inference_mode():
        kv = runner.new_cache(num_rows=2, capacity=40)
        runner.hidden(plan_step([], [(0, ids[:11], False)]), kv)
        kv.move(0, 1, length=11)
        x_KW = runner.hidden(plan_step([], [(1, ids[11:], True)], cached=[11]), kv)
        got = runner.logits(x_KW).float()
    torch.testing.assert_close(got, full_pass(model, ids)[11:], atol=2e-4, rtol=2e-4)


def test_bfloat16_is_nearer_to_float32_than_torchs_bfloat16(native_target):
    """Weights, cache and products are rounded; the residual and what is between the products are not."""
    half = MODELS["llama, 3 queries a key"]().bfloat16()
    whole = MODELS["llama, 3 queries a key"]()
    whole.load_state_dict(half.state_dict())
    rows = rows_of_ids([48, 46])
    with torch.inference_mode():
        got = logits_in_steps(LlamaRunner(half), rows)
    for ids, logits in zip(rows, got, strict=True):
        expected, torchs = (full_pass(model, ids)[: len(logits)] for model in (whole, half))
        assert (logits - expected).square().mean() < (torchs - expected).square().mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["llama, 5 queries a key", "qwen3", "gpt, banded"])
def test_every_instruction_set_and_number_of_threads_gives_the_same_bits(name, dtype):
    """Odd sizes, so that every loop has a rest; sums in one order.

    Where the products are torch's, their order depends on the number of threads: they are computed by one.
    """
    model = MODELS[name]().to(dtype)
    rows = rows_of_ids([37, 35])
    logits = {"torch": [], "native": []}
    before = torch.get_num_threads()
    try:
        for threads, target in enumerate(available_targets()[1:], start=1):
            with use_target(target), torch.inference_mode():
                runner = runner_of(model)
                ours = isinstance(decoder_of(runner)._many, NativeStepDecoder)
                torch.set_num_threads(threads if ours else 1)
                logits["native" if ours else "torch"].append(torch.cat(logits_in_steps(runner, rows)))
    finally:
        torch.set_num_threads(before)
    for same in logits.values():
        for other in same[1:]:
            assert torch.equal(other, same[0])


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_share_the_rows_of_a_step(native_target, threads):
    model = MODELS["llama, 3 queries a key"]()
    rows = rows_of_ids([30] * 7)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            got = logits_in_steps(LlamaRunner(model), rows)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for ids, logits in zip(rows, got, strict=True):
        torch.testing.assert_close(logits, full_pass(model, ids)[: len(logits)], atol=2e-4, rtol=2e-4)


def test_a_row_that_is_not_numbers_spoils_no_other_row(native_target):
    model = MODELS["llama, 3 queries a key"]()
    ids = rows_of_ids([10, 10])
    with torch.no_grad():
        model.model.embed_tokens.weight[ids[0][0]] = torch.nan
    assert ids[0][0] not in ids[1]
    with torch.inference_mode():
        spoiled, whole = logits_in_steps(LlamaRunner(model), ids)
    assert spoiled.isnan().all()
    assert whole.isfinite().all()
