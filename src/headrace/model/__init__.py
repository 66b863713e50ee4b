"""Token ids -> logits: GPT-3's decoder, its sizes by name, its weights in and out.

gpt           the decoder
initialize    name, shape and seed -> a parameter's first values
sizes         names of the GPT-3 paper -> shapes
loss          hidden states and labels -> cross-entropy
products      matrix products, by oneDNN where that is faster
kv            keys and values of earlier tokens
weights       run, Hugging Face directory or file <-> model
tensor_files  safetensors files -> tensors that exist, by large reads in flight
gpt2_format   GPT-2's names, layouts and config keys
hf_tokenizer  tokenizer <-> files of transformers
embed         word vectors -> a first token table
checkpoint    a run's checkpoint directories -> state and tensors
"""

from headrace.model.checkpoint import (
    CHECKPOINT_FORMAT,
    MANIFEST,
    STATE,
    encode_manifest,
    find_checkpoint,
    hash_file,
    latest_checkpoint,
    list_checkpoints,
    manifest_files,
    read_tensors,
    split_checkpoint_name,
    step_dir,
    verify_checkpoint,
)
from headrace.model.embed import TokenTable, WordVectors, read_vectors, token_table
from headrace.model.gpt import (
    GPT,
    Attention,
    GPTConfig,
    TransformerBlock,
    attention_masks,
)
from headrace.model.gpt2_format import HF_CONFIG, hf_config
from headrace.model.hf_tokenizer import load_hf_tokenizer
from headrace.model.initialize import fresh_weight, init_weights, sharded_like
from headrace.model.kv import KVCache
from headrace.model.loss import IGNORED, linear_cross_entropy
from headrace.model.sizes import SIZES, Size, gpt_config
from headrace.model.tensor_files import Progress, TensorEntry, fill_tensors, read_headers
from headrace.model.weights import (
    config_from_json,
    from_hf,
    hf_weight_files,
    load_model,
    load_weights,
    save_weights,
    to_hf,
)

__all__ = [
    "CHECKPOINT_FORMAT",
    "GPT",
    "HF_CONFIG",
    "IGNORED",
    "MANIFEST",
    "SIZES",
    "STATE",
    "Attention",
    "GPTConfig",
    "KVCache",
    "Progress",
    "Size",
    "TensorEntry",
    "TokenTable",
    "TransformerBlock",
    "WordVectors",
    "attention_masks",
    "config_from_json",
    "encode_manifest",
    "fill_tensors",
    "find_checkpoint",
    "fresh_weight",
    "from_hf",
    "gpt_config",
    "hash_file",
    "hf_config",
    "hf_weight_files",
    "init_weights",
    "latest_checkpoint",
    "linear_cross_entropy",
    "list_checkpoints",
    "load_hf_tokenizer",
    "load_model",
    "load_weights",
    "manifest_files",
    "read_headers",
    "read_tensors",
    "read_vectors",
    "save_weights",
    "sharded_like",
    "split_checkpoint_name",
    "step_dir",
    "to_hf",
    "token_table",
    "verify_checkpoint",
]
