"""Logits of a row -> its next token.

sampler    penalties, temperature, truncation, and the choice of a token
likeliest  the highest logit of each row
rng        random numbers that depend on the run's seed, the prompt's id and the token's index only
"""

from headrace.generation.sampling.rng import stream_key, uniforms
from headrace.generation.sampling.sampler import SampledToken, SamplerState, sample

__all__ = ["SampledToken", "SamplerState", "sample", "stream_key", "uniforms"]
