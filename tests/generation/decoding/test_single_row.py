"""The decoder in C beside torch's: the same numbers, in every instruction set that this processor has.

Tests decoding/single_row.py and gpt_runner.py.
"""

import copy
import sys

import pytest
import torch

from headrace.generation import NativeEngine
from headrace.generation.decoding import packed_linear
from headrace.generation.decoding.attention import plan_step
from headrace.generation.decoding.gpt_runner import GPTRunner
from headrace.model import GPT, GPTConfig
from headrace.native import available_targets, use_target
from headrace.native import decoder as native_decoder

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def logits_token_by_token(runner, ids, *, prompt=1, slot=0):
    """Next-token logits after each token behind the prompt, the row in any slot of the cache."""
    kv = runner.new_cache(num_rows=slot + 1, capacity=len(ids))
    got = [runner.hidden(plan_step([], [(slot, ids[:prompt], False)]), kv)]
    for position in range(prompt, len(ids)):
        step = plan_step([], [(slot, [ids[position]], False)])
        step.position_N.fill_(position)
        object.__setattr__(step, "only_token", (slot, position))
        got.append(runner.hidden(step, kv))
    return torch.cat([runner.logits(x).float() for x in got])


@pytest.mark.parametrize("prompt", [1, 7])
@pytest.mark.parametrize("slot", [0, 2])
@pytest.mark.parametrize("banded", [False, True])
def test_logits_equal_a_full_forward_pass(native_target, threads, prompt, slot, banded):
    """Odd sizes: 3 heads and 101 tokens are not to be divided evenly among threads."""
    config = GPTConfig(
        num_hidden_layers=2,
        hidden_size=42,
        num_attention_heads=3,
        vocab_size=101,
        max_position_embeddings=40,
        banded=banded,
        band_width=5,
    )
    model = GPT(config, seed=3).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)  # biases and norms that are not 0 and 1
    runner = GPTRunner(model)
    assert runner.decoder_name == f"native {native_target}"
    ids = [i * 37 % 101 for i in range(30)]
    with torch.inference_mode():
        expected = model(torch.tensor([ids]))[0, prompt - 1 :]
    torch.testing.assert_close(
        logits_token_by_token(runner, ids, prompt=prompt, slot=slot), expected, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("width", [128, 84, 63])
def test_bfloat16_is_nearer_to_float32_than_torchs_bfloat16(native_target, width):
    """Weights and cache are rounded, what is computed is not; heads of 21, and a width of 63, are odd."""
    config = GPTConfig(
        num_hidden_layers=4,
        hidden_size=width,
        num_attention_heads=7 if width == 63 else 4,
        vocab_size=300,
        max_position_embeddings=64,
    )
    whole = GPT(config, seed=5).eval()
    half = GPT(config, seed=5).eval().bfloat16()
    whole.load_state_dict(half.state_dict())  # the same rounded weights
    ids = [i * 37 % 300 for i in range(48)]
    with torch.inference_mode():
        expected, torchs = whole(torch.tensor([ids]))[0], half(torch.tensor([ids]))[0].float()
    got = logits_token_by_token(GPTRunner(half), ids)
    assert (got - expected).square().mean() < (torchs - expected).square().mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_not_numbers_give_logits_that_are_not(native_target, dtype):
    """Fast math may not hide them: the engine makes an error row of such logits."""
    config = GPTConfig(
        num_hidden_layers=1, hidden_size=8, num_attention_heads=1, vocab_size=257, max_position_embeddings=96
    )
    model = GPT(config).eval().to(dtype)
    with torch.no_grad():
        model.blocks[0].attn.qkv.weight[3, 5] = torch.nan
    assert logits_token_by_token(GPTRunner(model), [1, 2, 3]).isnan().all()


def test_activations_far_from_zero_are_those_of_torch(native_target):
    """Gelu of -1000 is 0: fast math's reciprocal of infinity is not a number."""
    model = GPT(
        GPTConfig(
            num_hidden_layers=1,
            hidden_size=32,
            num_attention_heads=2,
            vocab_size=257,
            max_position_embeddings=16,
        ),
        seed=1,
    ).eval()
    with torch.no_grad():
        model.blocks[0].mlp.up.weight.mul_(2000)
    ids = [3, 1, 4, 1, 5, 9]
    with torch.inference_mode():
        expected = model(torch.tensor([ids]))[0]
    torch.testing.assert_close(logits_token_by_token(GPTRunner(model), ids), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("absent", ["off", "not built", "no OpenMP"])
def test_without_the_extension_torch_decodes_the_same_tokens_and_the_reason_is_given(
    gpt, table, make_requests, monkeypatch, absent
):
    requests = make_requests(6)
    expected = {
        row.prompt_id: row.token_ids
        for row in NativeEngine(GPTRunner(gpt), table, batch_size=1).run(requests)
    }
    native_decoder._bound.cache_clear()
    if absent == "not built":
        monkeypatch.setitem(sys.modules, "headrace.native._decoder", None)
    if absent == "no OpenMP":
        monkeypatch.setattr(native_decoder, "FUNCTIONS", ("no_such_function",))
    with use_target("off" if absent == "off" else available_targets()[-1]):
        runner = GPTRunner(gpt)
    native_decoder._bound.cache_clear()
    assert runner.decoder_name.startswith("torch: ")
    if len(available_targets()) > 1:
        reason = {
            "off": "without the extension",
            "not built": "installed without",
            "no OpenMP": "no_such_function",
        }
        assert reason[absent] in runner.decoder_name
    got = {row.prompt_id: row.token_ids for row in NativeEngine(runner, table, batch_size=1).run(requests)}
    assert got == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["blocks", "rows"])
def test_every_instruction_set_gives_the_same_bits(monkeypatch, dtype, layout):
    """Odd sizes, so that every loop has a rest; no fused multiply-add, and sums in one order."""
    config = GPTConfig(
        num_hidden_layers=2,
        hidden_size=117,
        num_attention_heads=9,
        vocab_size=203,
        max_position_embeddings=70,
    )
    model = GPT(config, seed=4).eval().to(dtype)
    if layout == "rows":
        monkeypatch.setattr(packed_linear, "_lay_out", None)
    ids = [i * 37 % 203 for i in range(60)]
    logits = []
    for target in available_targets()[1:]:
        with use_target(target):
            runner = GPTRunner(model)
            assert runner.decoder_name == f"native {target}"
            logits.append(logits_token_by_token(runner, ids)[1:])  # torch reads the prompt
    for other in logits[1:]:
        assert torch.equal(other, logits[0])


def test_loading_changes_no_rounding_of_the_process(native_target):
    """Fast math at the link would flush tiny numbers to zero everywhere."""
    tiny = torch.tensor([1e-40])
    assert float(tiny * 1) > 0


def test_a_type_that_the_extension_does_not_have_is_torchs(gpt):
    runner = GPTRunner(copy.deepcopy(gpt).half())
    assert runner.decoder_name == "torch: torch.float16 on cpu"


def test_a_layout_that_is_not_known_is_torchs(gpt, monkeypatch):
    monkeypatch.setattr(packed_linear, "_in_blocks", lambda *_: False)
    assert GPTRunner(gpt).decoder_name == "torch: oneDNN lays out weights in a way that is not known here"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_in_rows_and_in_blocks_give_the_same_logits(native_target, monkeypatch, dtype):
    """The form for CPUs whose oneDNN has no instructions for the type."""
    config = GPTConfig(
        num_hidden_layers=2, hidden_size=63, num_attention_heads=7, vocab_size=101, max_position_embeddings=40
    )
    model = GPT(config, seed=3).eval().to(dtype)
    ids = [i * 37 % 101 for i in range(20)]
    blocks = logits_token_by_token(GPTRunner(model), ids)
    monkeypatch.setattr(packed_linear, "_lay_out", None)
    in_rows = GPTRunner(model)
    assert in_rows._head.layout == "rows"
    assert in_rows.decoder_name == f"native {native_target}"
    close = {"atol": 1e-4, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 2e-2, "rtol": 2e-2}
    torch.testing.assert_close(logits_token_by_token(in_rows, ids), blocks, **close)


def test_a_row_that_is_left_alone_goes_on_in_c_and_back_when_others_come(
    native_target, gpt, table, make_requests
):
    """Same cache, same greedy text, whichever rows are decoded with it and when."""
    requests = make_requests(5, own=lambda i: {"max_new_tokens": 12 + 4 * i})
    expected = {
        r.prompt_id: r.token_ids for r in NativeEngine(GPTRunner(gpt), table, batch_size=1).run(requests)
    }
    engine = NativeEngine(GPTRunner(gpt), table, batch_size=4)
    got, steps, alone = {}, 0, 0
    while len(got) < len(requests):
        if steps in (0, 5, 9, 12, 30):  # one after another, some while one is alone
            engine.add(requests[(0, 5, 9, 12, 30).index(steps)])
        alone += engine.running == 1 and not engine.waiting
        for token in engine.step():
            if token.prediction is not None:
                got[token.prediction.prompt_id] = token.prediction.token_ids
        steps += 1
    assert got == expected
    assert alone
