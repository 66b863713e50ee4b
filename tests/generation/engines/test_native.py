"""Tests native.py, request_loop.py and row.py, and through them request.py."""

import math
import random
from dataclasses import replace

import pytest
import torch

from headrace.errors import ConfigError
from headrace.generation import NativeEngine, Request, SamplingOptions
from headrace.generation.decoding.gpt_runner import GPTRunner


@torch.inference_mode()
def by_hand(model, request, *, eos=None):
    """Greedy generation by a full forward pass for every token: no cache, no batch."""
    ids, start, logprobs = list(request.token_ids), len(request.token_ids), []
    while (
        len(ids) - start < request.sampling.max_new_tokens and len(ids) < model.config.max_position_embeddings
    ):
        logits = model(torch.tensor([ids]))[0, -1]
        ids.append(int(logits.argmax()))
        logprobs.append(float(logits.log_softmax(-1)[ids[-1]]))
        if ids[-1] == eos:
            break
    return tuple(ids[start:]), logprobs


def results(engine, requests):
    return {row.prompt_id: row for row in engine.run(requests)}


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_greedy_tokens_and_logprobs_equal_a_full_forward_pass_without_cache(
    gpt, runner, table, make_requests, batch_size
):
    requests = make_requests(24, own=lambda i: {"logprobs": True, "prompt_logprobs": i % 2 == 0})
    got = results(NativeEngine(runner, table, batch_size=batch_size), requests)
    for request in requests:
        row = got[request.prompt_id]
        tokens, logprobs = by_hand(gpt, request)
        assert row.token_ids == tokens
        assert row.logprobs == pytest.approx(logprobs, abs=1e-3)
        assert row.finish_reason == "length"
        assert (row.prompt_tokens, row.completion_tokens) == (len(request.token_ids), len(tokens))
        if request.sampling.prompt_logprobs:
            with torch.inference_mode():
                all_TV = gpt(torch.tensor([request.token_ids]))[0].log_softmax(-1)
            expected = [float(all_TV[t, token]) for t, token in enumerate(request.token_ids[1:])]
            assert row.prompt_logprobs[0] is None
            assert row.prompt_logprobs[1:] == pytest.approx(expected, abs=1e-3)
        else:
            assert row.prompt_logprobs is None


def test_banded_layers_equal_a_full_forward_pass(banded_gpt, table, make_requests):
    requests = make_requests(10)
    got = results(NativeEngine(GPTRunner(banded_gpt), table, batch_size=4), requests)
    for request in requests:
        assert got[request.prompt_id].token_ids == by_hand(banded_gpt, request)[0]


def test_a_rows_sample_does_not_depend_on_the_rows_beside_it(runner, table, make_requests):
    """The same tokens alone, in small and large batches, and in another order."""
    requests = make_requests(
        20, own=lambda i: {"temperature": 0.5 + i / 20, "top_p": (None, 0.9)[i % 2], "seed": 3}
    )
    alone = results(NativeEngine(runner, table, batch_size=1), requests)
    for batch_size, order in ((4, requests), (16, requests), (16, requests[::-1])):
        assert results(NativeEngine(runner, table, batch_size=batch_size), order) == alone


def test_seeds_and_sample_indices_give_different_texts(runner, table, make_requests):
    (request,) = make_requests(1, own=lambda _: {"temperature": 1.0, "max_new_tokens": 20})
    texts = {
        next(iter(NativeEngine(runner, table).run([one]))).token_ids
        for seed in range(3)
        for one in (
            replace(request, sample_index=index, sampling=replace(request.sampling, seed=seed))
            for index in range(3)
        )
    }
    assert len(texts) == 9


def test_finished_rows_leave_at_once_and_waiting_rows_take_their_places(runner, table, make_requests):
    """Decode steps are those of a batch that is always full, not those of its longest rows."""
    requests = make_requests(40, max_new_tokens=30)
    engine = NativeEngine(runner, table, batch_size=8)
    for request in requests:
        engine.add(request)
    steps = 0
    while engine.running or engine.waiting:
        entered = engine.running
        engine.step()
        assert engine.running <= 8
        assert entered <= 8
        steps += 1
    tokens = sum(request.sampling.max_new_tokens for request in requests)
    assert math.ceil(tokens / 8) <= steps <= math.ceil(tokens / 8) + 30


def test_requests_are_read_only_as_a_batch_needs_them(runner, table, make_requests):
    read = 0

    def source():
        nonlocal read
        for request in make_requests(50):
            read += 1
            yield request

    rows = NativeEngine(runner, table, batch_size=4).run(source())
    next(rows)
    assert read <= 3 * 4


def test_the_end_of_document_ends_a_row_and_is_not_text(gpt, runner, table, make_requests):
    requests = make_requests(12, own=lambda _: {"max_new_tokens": 30})
    free = results(NativeEngine(runner, table), requests)
    eos = next(row.token_ids[3] for row in free.values() if row.token_ids[3] not in row.token_ids[:3])
    got = results(NativeEngine(runner, table, eos_ids=[eos]), requests)
    ended = 0
    for request in requests:
        row = got[request.prompt_id]
        assert row.token_ids == by_hand(gpt, request, eos=eos)[0]
        if eos in row.token_ids:
            ended += 1
            assert row.finish_reason == "stop"
            assert row.token_ids.index(eos) == len(row.token_ids) - 1
            assert row.text == b"".join(table[i] for i in row.token_ids[:-1]).decode(errors="replace")
    assert ended
    ignoring = [replace(request, sampling=replace(request.sampling, ignore_eos=True)) for request in requests]
    again = results(NativeEngine(runner, table, eos_ids=[eos]), ignoring)
    assert {key: row.token_ids for key, row in again.items()} == {
        key: row.token_ids for key, row in free.items()
    }


def test_a_stop_string_across_tokens_ends_a_row_and_is_cut_off(runner, make_requests):
    """Every id is one letter here, so a stop of three letters stands across three tokens."""
    letters = [bytes([97 + i % 26]) for i in range(257)]
    requests = make_requests(8, own=lambda _: {"max_new_tokens": 30})
    free = results(NativeEngine(runner, letters), requests)
    for request in requests:
        whole = free[request.prompt_id].text
        stop = whole[9:12]
        stopping = replace(request, sampling=replace(request.sampling, stop=("nowhere9", stop)))
        (row,) = NativeEngine(runner, letters).run([stopping])
        assert row.finish_reason == "stop"
        assert row.text == whole[: whole.find(stop)]
        assert len(row.token_ids) == len(row.text) + 3


def test_no_new_tokens_scores_the_prompt_only(runner, table, make_requests):
    (request,) = make_requests(1, own=lambda _: {"max_new_tokens": 0, "prompt_logprobs": True})
    (row,) = NativeEngine(runner, table).run([request])
    assert row.token_ids == ()
    assert row.finish_reason == "length"
    assert len(row.prompt_logprobs) == len(request.token_ids)


def test_a_row_ends_where_the_models_positions_end(gpt, runner, table):
    long = Request(prompt_id="long", token_ids=tuple(range(90)), sampling=SamplingOptions(max_new_tokens=50))
    (row,) = NativeEngine(runner, table).run([long])
    assert row.token_ids == by_hand(gpt, long)[0]
    assert len(row.token_ids) == 96 - 90
    assert row.finish_reason == "length"


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ((), "no tokens"),
        ((5, 257), r"token id 257; the model's ids are in \[0, 257\)"),
        ((-1,), "token id -1"),
        ((1,) * 96, "96 tokens and one to generate; this model's maximum context length is 96 tokens"),
    ],
)
def test_a_request_that_cannot_be_made_is_an_error_row_and_the_others_are_made(
    runner, table, make_requests, ids, message
):
    good = make_requests(5)
    bad = Request(prompt_id="bad", token_ids=ids)
    with pytest.raises(ConfigError, match=message):
        NativeEngine(runner, table).add(bad)
    got = results(NativeEngine(runner, table, batch_size=2), [*good[:2], bad, *good[2:]])
    assert got.pop("bad").error["type"] == "ConfigError"
    assert got == results(NativeEngine(runner, table, batch_size=2), good)


class PoisonedRunner(GPTRunner):
    """A model whose logits are NaN after one certain token."""

    def hidden(self, step, kv):
        x_KW = super().hidden(step, kv).clone()
        x_KW[step.ids_N[step.keep_K] == 77] = float("nan")
        return x_KW


def test_a_row_whose_logits_are_not_numbers_is_an_error_row_and_the_others_are_made(
    gpt, runner, table, make_requests
):
    good = [
        request
        for request in make_requests(12)
        if 77 not in {request.token_ids[-1], *by_hand(gpt, request)[0]}
    ]
    assert len(good) > 4
    bad = replace(good[0], prompt_id="bad", token_ids=(1, 2, 77))
    got = results(NativeEngine(PoisonedRunner(gpt), table, batch_size=4), [good[0], bad, *good[1:]])
    row = got.pop("bad")
    assert row.finish_reason == "error"
    assert "not finite" in row.error["message"]
    assert {key: row.token_ids for key, row in got.items()} == {
        request.prompt_id: by_hand(gpt, request)[0] for request in good
    }


def test_a_cancelled_request_leaves_and_the_others_do_not_notice(runner, table, make_requests):
    requests = make_requests(6, own=lambda _: {"max_new_tokens": 15})
    alone = results(NativeEngine(runner, table), requests)
    engine = NativeEngine(runner, table, batch_size=3)
    for request in requests:
        engine.add(request)
    rows = {}

    def step(times):
        for _ in range(times):
            rows.update(
                {token.request.prompt_id: token.prediction for token in engine.step() if token.prediction}
            )

    step(4)
    assert engine.cancel(requests[0].key)  # running, first slot: another row moves there
    assert engine.cancel(requests[5].key)  # waiting
    assert not engine.cancel(("unknown", 0))
    while engine.running or engine.waiting:
        step(1)
    kept = [request.prompt_id for request in requests[1:5]]
    assert rows == {key: alone[key] for key in kept}


def test_a_small_cache_runs_fewer_rows_and_gives_the_same(gpt, runner, table, make_requests):
    requests = make_requests(16, longest=60)
    expected = results(NativeEngine(runner, table, batch_size=8), requests)
    row_bytes = runner.new_cache(num_rows=1, capacity=1).nbytes
    engine = NativeEngine(runner, table, batch_size=8, cache_bytes=200 * row_bytes)
    most = 0
    for request in requests:
        engine.add(request)
    got = {}
    while engine.running or engine.waiting:
        got.update({t.request.prompt_id: t.prediction for t in engine.step() if t.prediction})
        most = max(most, engine.running)
        assert engine._kv.nbytes <= 200 * row_bytes
    assert got == expected
    assert most < 8


def test_a_prompt_larger_than_a_steps_budget_still_enters(runner, table, make_requests):
    requests = make_requests(10)
    got = results(NativeEngine(runner, table, prefill_tokens=1), requests)
    assert got == results(NativeEngine(runner, table), requests)


def test_tokens_stream_as_they_are_made(runner, table, make_requests):
    """The pieces of text, in order, are the text of the whole row."""
    engine = NativeEngine(runner, table)
    for request in make_requests(5, own=lambda _: {"logprobs": True}):
        engine.add(request)
    text, tokens, logprobs = {}, {}, {}
    while engine.running or engine.waiting:
        for token in engine.step():
            key = token.request.prompt_id
            text[key] = text.get(key, "") + token.text
            tokens.setdefault(key, []).append(token.token_id)
            logprobs.setdefault(key, []).append(token.logprob)
            if token.prediction:
                assert text[key] == token.prediction.text
                assert tuple(tokens[key]) == token.prediction.token_ids
                assert tuple(logprobs[key]) == token.prediction.logprobs


def test_bfloat16_weights_run_in_bfloat16(gpt, table, make_requests):
    import copy

    runner = GPTRunner(copy.deepcopy(gpt).to(torch.bfloat16))
    rows = results(NativeEngine(runner, table), make_requests(6))
    assert all(row.error is None and row.token_ids for row in rows.values())
    assert runner.new_cache(num_rows=1, capacity=1).k_LBHSD.dtype == torch.bfloat16


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"prefill_tokens": 0}])
def test_an_engine_without_room_is_refused(runner, table, options):
    with pytest.raises(ConfigError):
        NativeEngine(runner, table, **options)


def with_heads(requests, *, heads=2, length=30):
    """The requests behind a few common heads, in turn."""
    rng = random.Random(5)
    texts = [tuple(rng.randrange(256) for _ in range(length)) for _ in range(heads)]
    return [
        replace(request, token_ids=(texts[i % heads] + request.token_ids)[: length + 20])
        for i, request in enumerate(requests)
    ]


@pytest.mark.parametrize("batch_size", [1, 2, 16])
@pytest.mark.parametrize("banded", [False, True])
def test_rows_are_the_same_with_a_prefix_cache(
    gpt, banded_gpt, table, make_requests, new_prefix_cache, batch_size, banded
):
    """Greedy and sampled, tokens and scores, by the row alone and in a batch; the second time all from the cache."""
    runner = GPTRunner(banded_gpt if banded else gpt)
    requests = with_heads(
        make_requests(
            16,
            own=lambda i: {
                "temperature": (0.0, 0.7)[i % 2], "logprobs": True, "prompt_logprobs": i % 5 == 0,
            },
        )
    )  # fmt: skip
    expected = results(NativeEngine(runner, table, batch_size=batch_size), requests)
    cache = new_prefix_cache(runner)
    for _ in range(2):
        engine = NativeEngine(runner, table, batch_size=batch_size, prefix_cache=cache)
        got = results(engine, requests)
        for key, row in got.items():
            assert row.logprobs == pytest.approx(expected[key].logprobs, abs=1e-3)
            assert replace(row, logprobs=None, prompt_logprobs=None) == replace(
                expected[key], logprobs=None, prompt_logprobs=None
            )
            if row.prompt_logprobs is not None:
                assert row.prompt_logprobs[1:] == pytest.approx(expected[key].prompt_logprobs[1:], abs=1e-3)
    whole = sum(
        (len(request.token_ids) - 1) // 4 * 4 for request in requests if not request.sampling.prompt_logprobs
    )
    assert engine.cached_tokens == whole


class RecordingRunner:
    """A runner that records how many tokens each step computes."""

    def __init__(self, runner):
        self._runner, self.tokens = runner, []

    def __getattr__(self, name):
        return getattr(self._runner, name)

    def hidden(self, step, kv):
        self.tokens.append(len(step.ids_N))
        return self._runner.hidden(step, kv)


def test_a_head_that_many_prompts_have_is_computed_once(runner, table, make_requests, new_prefix_cache):
    """The first prompt of each head enters in the first step, all others in the second, though all had space."""
    requests = with_heads(make_requests(16, longest=3, own=lambda _: {"max_new_tokens": 1}), length=40)
    recorded = RecordingRunner(runner)
    engine = NativeEngine(recorded, table, batch_size=16, prefix_cache=new_prefix_cache(runner))
    assert len(results(engine, requests)) == 16
    total = sum(len(request.token_ids) for request in requests)
    first = sum(len(request.token_ids) for request in requests[:2])
    assert recorded.tokens == [first, total - first - 14 * 40]
    assert engine.cached_tokens == 14 * 40


def test_samples_of_one_prompt_compute_it_once(runner, table, make_requests, new_prefix_cache):
    (request,) = make_requests(1, own=lambda _: {"temperature": 1.0, "max_new_tokens": 5})
    request = replace(request, token_ids=tuple(range(41)))
    samples = [replace(request, prompt_id=str(i), sample_index=i, stream="") for i in range(6)]
    expected = results(NativeEngine(runner, table, batch_size=8), samples)
    engine = NativeEngine(runner, table, batch_size=8, prefix_cache=new_prefix_cache(runner))
    assert results(engine, samples) == expected
    assert engine.cached_tokens == 5 * 40


def test_requests_of_other_scopes_find_nothing(runner, table, make_requests, new_prefix_cache):
    requests = with_heads(make_requests(4, longest=3), heads=1)
    requests = [replace(request, cache_scope=str(i % 2)) for i, request in enumerate(requests)]
    engine = NativeEngine(runner, table, prefix_cache=new_prefix_cache(runner))
    results(engine, requests[:2])
    assert engine.cached_tokens == 0
    results(engine, requests[2:])
    assert engine.cached_tokens == 2 * 28


def test_the_next_turn_of_a_conversation_continues_the_answer(runner, table, make_requests, new_prefix_cache):
    """Keys and values of generated tokens are kept where that is set."""
    (first,) = make_requests(1, longest=2, own=lambda _: {"max_new_tokens": 30})
    for keep_answers, found in ((False, 0), (True, 28)):
        cache = new_prefix_cache(runner, keep_answers=keep_answers)
        engine = NativeEngine(runner, table, prefix_cache=cache)
        (row,) = engine.run([first])
        ids = (*first.token_ids, *row.token_ids, 5)
        second = replace(first, token_ids=ids, prompt_id="2")
        assert results(engine, [second]) == results(NativeEngine(runner, table), [second])
        assert engine.cached_tokens == found


def test_a_prefix_cache_too_small_for_a_head_changes_nothing(runner, table, make_requests, new_prefix_cache):
    requests = with_heads(make_requests(12), heads=3)
    expected = results(NativeEngine(runner, table, batch_size=4), requests)
    probe = new_prefix_cache(runner)
    cache = new_prefix_cache(runner, memory_bytes=3 * probe.block_nbytes)
    assert results(NativeEngine(runner, table, batch_size=4, prefix_cache=cache), requests) == expected
    assert cache.num_blocks == 3
