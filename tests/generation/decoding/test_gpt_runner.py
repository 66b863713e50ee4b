"""What a row's logits are does not depend on its batch, up to rounding; with samples, rounding can decide a token."""

import pytest
import torch

from headrace.generation.decoding import plan_step


@pytest.mark.parametrize("batch_size", [2, 5, 16])
def test_logits_of_a_row_differ_between_batch_sizes_by_rounding_only(runner, batch_size):
    """Prompts and decoded tokens, alone and in a batch: within 1e-4 of the logits' spread in float32."""
    prompts = [tuple((7 * i + 3 * j) % 256 for j in range(5 + i)) for i in range(batch_size)]
    together = runner.new_cache(num_rows=batch_size, capacity=64)
    step = plan_step([], [(i, ids, False) for i, ids in enumerate(prompts)])
    first_BV = runner.logits(runner.hidden(step, together))
    tokens = first_BV.argmax(-1).tolist()
    step = plan_step([(token, len(ids)) for token, ids in zip(tokens, prompts, strict=True)], [])
    second_BV = runner.logits(runner.hidden(step, together))
    for i, (token, ids) in enumerate(zip(tokens, prompts, strict=True)):
        alone = runner.new_cache(num_rows=1, capacity=64)
        first_1V = runner.logits(runner.hidden(plan_step([], [(0, ids, False)]), alone))
        second_1V = runner.logits(runner.hidden(plan_step([(token, len(ids))], []), alone))
        for got_BV, expected_1V in ((first_BV, first_1V), (second_BV, second_1V)):
            spread = float(expected_1V.std())
            torch.testing.assert_close(got_BV[i], expected_1V[0], atol=1e-4 * spread, rtol=0)
