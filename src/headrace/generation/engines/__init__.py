"""Requests -> finished rows: one module for each engine.

native               continuous batching over one key/value cache
encoder_decoder      T5, BART, Marian: prompts encoded together, decoded step by step
request_loop         a stream of requests -> predictions, by either of the two
row                  the state of one row while it is generated
transformers_engine  transformers' continuous batching
vllm_engine          vLLM
results              another library's tokens -> a prediction by headrace's rules
"""

from headrace.generation.engines.encoder_decoder import EncoderDecoderEngine
from headrace.generation.engines.native import NativeEngine
from headrace.generation.engines.results import check_supported

__all__ = ["EncoderDecoderEngine", "NativeEngine", "check_supported"]
