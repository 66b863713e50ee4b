from collections import Counter

import numpy as np
import pytest
import torch

from headrace.errors import ConfigError
from headrace.generation import SamplingOptions
from headrace.generation.sampling import sampler as sampling_module
from headrace.generation.sampling.sampler import SamplerState, sample


def rows(sampling, count=1, **more):
    return [SamplerState(sampling=sampling, key=1000 + i, **more) for i in range(count)]


def logits_of(count, vocab=50, seed=0, spread=2.0):
    return torch.randn(count, vocab, generator=torch.Generator().manual_seed(seed)) * spread


def drawn_often(logits_V, sampling, times=20_000):
    """Shares of the tokens that a row draws over its random stream."""
    many = [SamplerState(sampling=sampling, key=5, index=i) for i in range(times)]
    tokens = [one.token_id for one in sample(logits_V.expand(times, -1), many)]
    return np.bincount(tokens, minlength=len(logits_V)) / times


def kept_by_hand(logits_V, sampling):
    """Probabilities after temperature, top-k, top-p, min-p, in float64."""
    p = torch.softmax(logits_V.double() / sampling.temperature, -1).numpy()
    order = np.argsort(-p, kind="stable")
    kept = p[order].copy()
    if sampling.top_k is not None:
        kept[sampling.top_k :] = 0
        kept /= kept.sum()
    if sampling.top_p is not None:
        before = np.cumsum(kept) - kept
        kept[(before >= sampling.top_p) & (np.arange(len(kept)) > 0)] = 0
    if sampling.min_p is not None:
        kept[kept < sampling.min_p * kept[0]] = 0
    out = np.zeros_like(p)
    out[order] = kept / kept.sum()
    return out


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.3},
        {"temperature": 2.0},
        {"top_k": 5},
        {"top_k": 1000},
        {"top_p": 0.8},
        {"min_p": 0.1},
        {"top_k": 20, "top_p": 0.7, "min_p": 0.02, "temperature": 1.3},
    ],
)
def test_tokens_are_drawn_with_the_probabilities_of_the_truncated_softmax(options):
    sampling = SamplingOptions(**({"temperature": 1.0} | options))
    logits_V = logits_of(1)[0]
    expected, got = kept_by_hand(logits_V, sampling), drawn_often(logits_V, sampling)
    assert set(np.flatnonzero(got)) <= set(np.flatnonzero(expected))
    error = np.abs(got - expected)
    assert (error <= 5 * np.sqrt(expected * (1 - expected) / 20_000) + 1e-4).all()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize(
    "options",
    [
        {}, {"top_k": 1}, {"top_k": 7}, {"top_k": 500}, {"top_p": 1e-6}, {"top_p": 0.5}, {"top_p": 0.999},
        {"min_p": 1e-4}, {"min_p": 0.2}, {"min_p": 1.0}, {"top_k": 9, "top_p": 0.8},
        {"top_k": 30, "top_p": 0.95, "min_p": 0.05},
    ],
)  # fmt: skip
def test_probabilities_equal_those_of_transformers_warpers(temperature, options):
    """Temperature, then top-k, top-p, min-p, each as transformers cuts, on logits of several spreads."""
    from transformers.generation import logits_process as field

    logits_NV = torch.cat(
        [logits_of(4, vocab=300, seed=n, spread=spread) for n, spread in enumerate((0.1, 2, 8))]
    )
    warpers = [field.TemperatureLogitsWarper(temperature)] if temperature != 1.0 else []
    if "top_k" in options:
        warpers.append(field.TopKLogitsWarper(options["top_k"]))
    if "top_p" in options:
        warpers.append(field.TopPLogitsWarper(options["top_p"]))
    if "min_p" in options:
        warpers.append(field.MinPLogitsWarper(options["min_p"]))
    expected_NV = logits_NV
    for warper in warpers:
        expected_NV = warper(None, expected_NV)
    sampling = SamplingOptions(temperature=temperature, **options)
    kept_NK, ids_NK, _ = sampling_module._candidates(
        logits_NV / temperature, [sampling] * len(logits_NV), 300
    )
    got_NV = torch.zeros_like(logits_NV).scatter(1, ids_NK, kept_NK / kept_NK.sum(-1, keepdim=True))
    torch.testing.assert_close(got_NV, torch.softmax(expected_NV, dim=-1), atol=1e-5, rtol=1e-4)


def test_among_equals_top_k_keeps_k():
    """Transformers keeps every token that is as likely as the k-th; here k is k."""
    kept_1K, _, _ = sampling_module._candidates(
        torch.zeros(1, 20), [SamplingOptions(temperature=1.0, top_k=3)], 20
    )
    assert int((kept_1K > 0).sum()) == 3
    assert kept_1K[kept_1K > 0].tolist() == pytest.approx([1 / 3] * 3)


def test_penalties_equal_openais_definition():
    """mu[j] - c[j] * frequency - (c[j] > 0) * presence, c counting the output only."""
    logits_V = logits_of(1, vocab=30)[0]
    counts = Counter({3: 5, 8: 1})
    for presence, frequency in ((0.6, 0.0), (0.0, -1.5), (2.0, 2.0), (-2.0, 0.25)):
        sampling = SamplingOptions(presence_penalty=presence, frequency_penalty=frequency)
        changed = logits_V.clone()
        row = SamplerState(sampling=sampling, key=0, prompt_ids=[3, 4], counts=counts)
        sampling_module._penalize(changed, row)
        expected = [
            float(mu) - counts[j] * frequency - (counts[j] > 0) * presence for j, mu in enumerate(logits_V)
        ]
        assert changed.tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("options", [{"top_p": 0.95}, {"min_p": 0.001}, {"top_p": 1e-6}])
def test_a_flat_distribution_needs_the_whole_vocabulary_and_gets_it(monkeypatch, options):
    """More tokens are kept than are looked at first: the same tokens as when all are looked at."""
    sampling = SamplingOptions(temperature=1.0, **options)
    logits_NV = logits_of(40, vocab=3000, spread=0.1)
    some = [one.token_id for one in sample(logits_NV, rows(sampling, 40))]
    monkeypatch.setattr(sampling_module, "CANDIDATES", 3000)
    assert some == [one.token_id for one in sample(logits_NV, rows(sampling, 40))]


def test_a_row_draws_the_same_whatever_its_neighbours_ask_for():
    kinds = [
        SamplingOptions(),
        SamplingOptions(temperature=1.0),
        SamplingOptions(temperature=0.7, top_p=0.9),
        SamplingOptions(temperature=1.5, top_k=3, logprobs=True),
        SamplingOptions(repetition_penalty=1.3),
        SamplingOptions(temperature=1.0, presence_penalty=1.0, frequency_penalty=0.5),
    ]
    logits_NV = logits_of(60)
    mixed = [
        SamplerState(
            sampling=kinds[i % 6], key=i, index=i // 6, prompt_ids=(1, 2), counts=Counter({3: 2, i % 50: 1})
        )
        for i in range(60)
    ]
    together = sample(logits_NV, mixed)
    assert together == [sample(logits_NV[i : i + 1], [mixed[i]])[0] for i in range(60)]


def test_penalties_equal_those_of_the_field():
    from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

    logits_NV = logits_of(1)
    row = SamplerState(
        sampling=SamplingOptions(repetition_penalty=1.7),
        key=0,
        prompt_ids=[4, 9, 9],
        counts=Counter({7: 3, 4: 1}),
    )
    changed = logits_NV[0].clone()
    sampling_module._penalize(changed, row)
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([[4, 9, 9, 7, 7, 7, 4]]), logits_NV.clone())
    assert torch.equal(changed, expected[0])
    row.sampling = SamplingOptions(presence_penalty=0.5, frequency_penalty=0.25)
    changed = logits_NV[0].clone()
    sampling_module._penalize(changed, row)
    difference = logits_NV[0] - changed
    assert difference[[7, 4]].tolist() == pytest.approx([0.5 + 0.75, 0.5 + 0.25], abs=1e-6)
    assert int((difference.abs() > 1e-6).sum()) == 2


def test_a_penalty_changes_what_greedy_takes():
    logits_NV = torch.tensor([[3.0, 2.9, 0.0]])
    free, held = SamplingOptions(), SamplingOptions(presence_penalty=1.0)
    assert sample(logits_NV, rows(free, counts=Counter({0: 1})))[0].token_id == 0
    assert sample(logits_NV, rows(held, counts=Counter({0: 1})))[0].token_id == 1
    assert logits_NV.tolist() == [[3.0, pytest.approx(2.9), 0.0]]


def test_logprobs_are_those_before_temperature_and_penalties():
    logits_NV = logits_of(1)
    sampling = SamplingOptions(temperature=0.2, presence_penalty=2.0, logprobs=True, top_logprobs=3)
    (one,) = sample(logits_NV, rows(sampling, counts=Counter({0: 1})))
    expected_V = logits_NV[0].log_softmax(-1)
    assert one.logprob == pytest.approx(float(expected_V[one.token_id]))
    assert [token for token, _ in one.top] == expected_V.topk(3).indices.tolist()
    assert sample(logits_NV, rows(SamplingOptions()))[0].logprob is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_is_marked_and_its_neighbours_are_drawn(bad):
    logits_NV = logits_of(3)
    expected = [one.token_id for one in sample(logits_NV, rows(SamplingOptions(temperature=1.0), 3))]
    logits_NV[1, 7] = bad
    got = [one.token_id for one in sample(logits_NV, rows(SamplingOptions(temperature=1.0), 3))]
    assert got == [expected[0], -1, expected[2]]


def test_minus_infinity_is_a_token_that_is_never_drawn():
    logits_V = torch.full((10,), -torch.inf)
    logits_V[3] = 0.0
    for sampling in (
        SamplingOptions(),
        SamplingOptions(temperature=1.0),
        SamplingOptions(temperature=1.0, top_p=0.99),
    ):
        assert drawn_often(logits_V, sampling, 50)[3] == 1.0


def test_a_number_just_below_one_takes_the_last_token_that_can_be_drawn():
    weights = torch.tensor([[0.3, 0.7, 0.0, 0.0]])
    assert sampling_module._invert(weights, torch.tensor([1.0 - 2**-53], dtype=torch.float64)) == [1]
    assert sampling_module._invert(weights, torch.tensor([0.0], dtype=torch.float64)) == [0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_new_tokens", -1),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_k", 0),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("repetition_penalty", 0.0),
        ("presence_penalty", float("inf")),
        ("stop", ("",)),
        ("top_logprobs", -1),
    ],
)
def test_sampling_without_meaning_is_refused_by_the_fields_name(field, value):
    with pytest.raises(ConfigError, match=f"sampling: {field} is"):
        SamplingOptions(**{field: value})
