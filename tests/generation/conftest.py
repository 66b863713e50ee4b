"""A tiny model with clear opinions, requests of mixed length, and a model-free engine."""

import random

import pytest
import torch

from headrace.generation import Request, SamplingOptions
from headrace.generation.decoding.gpt_runner import GPTRunner
from headrace.generation.prefix_cache import PrefixCache
from headrace.model import GPT, GPTConfig
from headrace.types import Prediction


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Threads cost tiny models more than they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def gpt():
    """Weights scaled up: logits far apart, so that rounding decides no token."""
    return build_gpt()


@pytest.fixture(scope="session")
def banded_gpt():
    return build_gpt(banded=True, band_width=5)


def build_gpt(**more):
    config = GPTConfig(
        num_hidden_layers=3,
        hidden_size=64,
        num_attention_heads=4,
        vocab_size=257,
        max_position_embeddings=96,
        **more,
    )
    model = GPT(config, seed=1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.requires_grad_(requires_grad=False)
            if parameter.ndim == 2:
                parameter.mul_(4)
    return model


@pytest.fixture(scope="session")
def table():
    """Bytes of each id of the byte tokenizer."""
    return [bytes([i]) for i in range(256)] + [b""]


@pytest.fixture
def runner(gpt):
    return GPTRunner(gpt)


@pytest.fixture
def new_prefix_cache():
    """A prefix cache with blocks of four tokens, for a runner."""

    def new(runner, **more):
        shape = PrefixCache.shape_for(runner.new_cache(num_rows=1, capacity=1), block_tokens=4)
        return PrefixCache(
            **{"model": runner.kv_fingerprint, "dtype": runner.dtype, "shape": shape, "memory_bytes": 1 << 24}
            | more
        )

    return new


@pytest.fixture
def make_requests():
    """Requests of mixed length; `own(i)` gives a request's own sampling fields."""

    def make(count, *, seed=0, longest=50, max_new_tokens=20, own=lambda _: {}):
        rng = random.Random(seed)
        return [
            Request(
                prompt_id=f"{i:09d}",
                token_ids=tuple(rng.randrange(256) for _ in range(rng.randrange(1, longest))),
                sampling=SamplingOptions(
                    **({"max_new_tokens": rng.randrange(1, max_new_tokens + 1)} | own(i))
                ),
            )
            for i in range(count)
        ]

    return make


class EchoEngine:
    """Answers with the prompt's number of tokens, in batches, out of order; counts how far it reads ahead."""

    def __init__(self, *, batch_size=8, poison=None):
        self.batch_size, self.poison, self.read, self.most_ahead = batch_size, poison, 0, 0

    def run(self, requests):
        held = []
        for request in requests:
            self.read += 1
            held.append(request)
            self.most_ahead = max(self.most_ahead, len(held))
            if len(held) == self.batch_size:
                yield self.answer(held.pop(len(held) // 2))
        while held:
            yield self.answer(held.pop())

    def answer(self, request):
        if request.prompt_id == self.poison:
            raise RuntimeError("the device fell off")
        return Prediction(
            prompt_id=request.prompt_id,
            sample_index=request.sample_index,
            prompt=request.prompt,
            text=f"{len(request.token_ids)}",
            token_ids=(1, 2),
            finish_reason="stop",
            prompt_tokens=len(request.token_ids),
            completion_tokens=2,
        )


@pytest.fixture
def echo_engine():
    return EchoEngine
