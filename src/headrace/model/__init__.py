"""Token ids -> logits: GPT-3's decoder and Llama's family, sizes by name, weights in and out.

gpt/          GPT-3's decoder, its sizes, GPT-2's files
llama/        the decoder of Llama, Mistral, Qwen, Gemma, OLMo 2, SmolLM, its sizes and files
lora/         low-rank matrices beside frozen weights
weights/      paths and URLs -> weights in a model's tensors, and back
tensor_files  safetensors files -> tensors that exist, by large reads in flight
families      a shape of either family -> its model
initialize    name, shape and seed -> a parameter's first values
loss          hidden states and labels -> cross-entropy
products      matrix products, by oneDNN where that is faster
kv            keys and values of earlier tokens
threads       processor time that may be used -> torch's threads
embed         word vectors -> a first token table
"""

from headrace.model.embed import TokenTable, WordVectors, read_vectors, token_table
from headrace.model.families import Model, ModelConfig, build_model, config_from_json, meta_model
from headrace.model.gpt.gpt import (
    GPT,
    Attention,
    GPTConfig,
    TransformerBlock,
    attention_masks,
)
from headrace.model.gpt.sizes import GPT3_CONTEXT, SIZES, Size, gpt_config
from headrace.model.initialize import fresh_weight, init_weights, sharded_like
from headrace.model.kv import KVCache
from headrace.model.llama.decoder import Decoder
from headrace.model.llama.decoder_config import DecoderConfig
from headrace.model.llama.decoder_format import read_decoder_config
from headrace.model.llama.decoder_sizes import DECODER_SIZES, decoder_size
from headrace.model.llama.rope import RopeParameters
from headrace.model.lora.adapter_format import adapter_base, is_adapter, read_adapter, read_adapter_config
from headrace.model.lora.layers import (
    LoraConfig,
    LoraLinear,
    add_lora,
    default_targets,
    freeze,
    is_lora_name,
    merge_lora,
    meta_lora_model,
    target_names,
)
from headrace.model.loss import IGNORED, linear_cross_entropy
from headrace.model.tensor_files import TensorEntry, fill_tensors, read_headers
from headrace.model.threads import limit_threads
from headrace.model.weights.adapter import export_adapter
from headrace.model.weights.checkpoint import (
    CHECKPOINT_FORMAT,
    MANIFEST,
    STATE,
    encode_manifest,
    find_checkpoint,
    hash_file,
    latest_checkpoint,
    list_checkpoints,
    manifest_files,
    parse_manifest,
    read_tensors,
    step_dir,
    verify_checkpoint,
)
from headrace.model.weights.finite import check_finite, check_finite_model
from headrace.model.weights.hf_directory import HF_CONFIG, hf_config, hf_weight_files
from headrace.model.weights.hf_tokenizer import load_hf_tokenizer
from headrace.model.weights.identity import (
    BASE,
    adapter_identity,
    base_checkpoint,
    check_base,
    hf_identity,
    verify_base,
    weights_identity,
)
from headrace.model.weights.load import (
    PRETRAINED,
    from_hf,
    load_base,
    load_model,
    load_weights,
    pretrained_files,
    read_side_files,
    save_weights,
    to_hf,
    to_transformers,
)
from headrace.model.weights.location import cache_directory, fetch_checkpoint, fetch_model

__all__ = [
    "BASE",
    "CHECKPOINT_FORMAT",
    "DECODER_SIZES",
    "GPT",
    "GPT3_CONTEXT",
    "HF_CONFIG",
    "IGNORED",
    "MANIFEST",
    "PRETRAINED",
    "SIZES",
    "STATE",
    "Attention",
    "Decoder",
    "DecoderConfig",
    "GPTConfig",
    "KVCache",
    "LoraConfig",
    "LoraLinear",
    "Model",
    "ModelConfig",
    "RopeParameters",
    "Size",
    "TensorEntry",
    "TokenTable",
    "TransformerBlock",
    "WordVectors",
    "adapter_base",
    "adapter_identity",
    "add_lora",
    "attention_masks",
    "base_checkpoint",
    "build_model",
    "cache_directory",
    "check_base",
    "check_finite",
    "check_finite_model",
    "config_from_json",
    "decoder_size",
    "default_targets",
    "encode_manifest",
    "export_adapter",
    "fetch_checkpoint",
    "fetch_model",
    "fill_tensors",
    "find_checkpoint",
    "freeze",
    "fresh_weight",
    "from_hf",
    "gpt_config",
    "hash_file",
    "hf_config",
    "hf_identity",
    "hf_weight_files",
    "init_weights",
    "is_adapter",
    "is_lora_name",
    "latest_checkpoint",
    "limit_threads",
    "linear_cross_entropy",
    "list_checkpoints",
    "load_base",
    "load_hf_tokenizer",
    "load_model",
    "load_weights",
    "manifest_files",
    "merge_lora",
    "meta_lora_model",
    "meta_model",
    "parse_manifest",
    "pretrained_files",
    "read_adapter",
    "read_adapter_config",
    "read_decoder_config",
    "read_headers",
    "read_side_files",
    "read_tensors",
    "read_vectors",
    "save_weights",
    "sharded_like",
    "step_dir",
    "target_names",
    "to_hf",
    "to_transformers",
    "token_table",
    "verify_base",
    "verify_checkpoint",
    "weights_identity",
]
