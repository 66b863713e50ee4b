"""A step's tokens -> logits, for each kind of model.

attention      queries, keys and values of a step -> attention over the key/value cache
gpt_runner     headrace's GPT
hf_runner      any Hugging Face causal language model
fused          Llama-like models with fewer operations a layer
native_decoder their steps by the extension in C, where it can be used
native_weights weights and their addresses, for it
single_row     one token of one row, by it
native_step    the tokens of many rows, by it alone
many_rows      the tokens of many rows, by torch's products and it
thread_count   the number of threads that was fastest lately
packed_linear  a linear layer whose weight is laid out once for the CPU
fingerprint    weights -> the hash that identifies a model
"""

from headrace.generation.decoding.attention import StepPlan, plan_step
from headrace.generation.decoding.fingerprint import fingerprint_of, fingerprint_of_files
from headrace.generation.decoding.gpt_runner import GPTRunner
from headrace.generation.decoding.hf_runner import HFRunner

__all__ = ["GPTRunner", "HFRunner", "StepPlan", "fingerprint_of", "fingerprint_of_files", "plan_step"]
