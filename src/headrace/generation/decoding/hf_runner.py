"""Any Hugging Face causal language model and the tokens of one step -> logits, by headrace's key/value cache.

The model runs as transformers implements it, on one row that holds all tokens of a step with their own positions. Only
its attention is replaced, by transformers' attention interface. When a model is loaded, it is run with and without the
replacement on a short text. Where the logits differ (state-space layers, chunked attention, attention sinks), the model
is refused.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headrace.errors import ConfigError
from headrace.generation.decoding.attention import StepPlan, attend, plan_step
from headrace.generation.decoding.fingerprint import fingerprint_of, fingerprint_of_cache
from headrace.generation.decoding.fused import FusedDecoder
from headrace.generation.decoding.hf_weights import load_transformers, transformers_of_decoder
from headrace.model import Decoder, KVCache
from headrace.storage import Progress

ATTENTION = "headrace"
PROBE_TOKENS = 24
# Layers whose attention is fully determined by the arguments of the call.
KNOWN_LAYERS = {"full_attention", "sliding_attention"}

_active = threading.local()
"""`step`: cache and step of the forward pass that runs on this thread; `called`: whether it called `_attention`."""


class HFRunner:
    """Runs a transformers model step by step; its only state is the weights."""

    name = "native"

    def __init__(self, model: Any, directory: Path, *, dtype: torch.dtype, device: torch.device) -> None:
        """Prepare a model for decoding.

        Args:
            model: of transformers, with its head.
            directory: where it came from, for messages.
            dtype: its type.
            device: where to run it.
        """
        text = _checked_config(model.config, directory)
        self.model: Any = model.to(device).eval().requires_grad_(requires_grad=False)
        self.dtype, self.device = dtype, device
        self.vocab_size = int(self.model.get_output_embeddings().weight.shape[0])
        self.context = context_of(text)
        self._layers = int(text.num_hidden_layers)
        self._kv_heads = int(getattr(text, "num_key_value_heads", None) or text.num_attention_heads)
        self._head_width = int(
            getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        )
        self.fingerprint = fingerprint_of(self.model.state_dict())
        self.kv_fingerprint = _cache_fingerprint(self.fingerprint, model.config)
        self._own_head = False
        self._fused: FusedDecoder | None = None
        self.decoder_name = "torch"
        """What decodes: "native" and its instruction set, or "torch" and why."""
        self._replace_attention(directory)

    @classmethod
    def of_directory(
        cls, directory: Path, *, dtype: torch.dtype, device: torch.device, progress: Progress | None = None
    ) -> HFRunner:
        """The runner of a Hugging Face directory."""
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(directory, local_files_only=True)
        _checked_config(config, directory)
        model = load_transformers(directory, config, dtype=dtype, progress=progress)
        return cls(model, directory, dtype=dtype, device=device)

    @classmethod
    def of_decoder(cls, decoder: Decoder, directory: Path) -> HFRunner:
        """The runner of a decoder that was trained here: transformers' class, with the decoder's own memory.

        Raises:
            ConfigError: transformers is not installed.
        """
        weight = decoder.norm.weight
        model = transformers_of_decoder(decoder, directory)
        return cls(model, directory, dtype=weight.dtype, device=weight.device)

    def new_cache(self, *, num_rows: int, capacity: int) -> KVCache:
        """An empty cache that fits this model."""
        return KVCache(
            num_layers=self._layers,
            num_rows=num_rows,
            num_heads=self._kv_heads,
            capacity=capacity,
            head_dim=self._head_width,
            dtype=self.dtype,
            device=self.device,
        )

    @torch.inference_mode()
    def hidden(self, step: StepPlan, kv: KVCache) -> Tensor:
        """Input of `logits` for the requested tokens: last hidden states [K, W], or logits [K, V]."""
        if self._fused is not None:
            return self._fused(step, kv)
        _active.step = (kv, step)
        ids_1N, positions_1N = step.ids_N[None], step.position_N[None]
        try:
            if self._own_head:
                whole = self.model(
                    input_ids=ids_1N, position_ids=positions_1N, use_cache=False, logits_to_keep=step.keep_K
                )
                x_KW: Tensor = whole.logits[0]
            else:
                body = self.model.base_model(input_ids=ids_1N, position_ids=positions_1N, use_cache=False)
                x_KW = body.last_hidden_state[0, step.keep_K]
        finally:
            _active.step = None
        return x_KW

    @torch.inference_mode()
    def logits(self, x_KW: Tensor) -> Tensor:
        """Next-token logits, [K, V]."""
        if self._own_head:
            return x_KW
        if self._fused is not None:
            return self._fused.logits(x_KW)
        out: Tensor = self.model.get_output_embeddings()(x_KW)
        return out

    @torch.inference_mode()
    def _replace_attention(self, directory: Path) -> None:
        """Replace the model's attention and check that its logits do not change."""
        from transformers import AttentionInterface

        ids = torch.arange(PROBE_TOKENS, dtype=torch.int64) * 7919 % self.vocab_size
        expected_TV = self.model(input_ids=ids[None].to(self.device), use_cache=False).logits[0].float()
        # The same sums in another order: SmolLM2-135M differs by 1e-5 in float32 and 0.06 in bfloat16.
        allowed = 1e-3 if self.dtype == torch.float32 else 0.15
        AttentionInterface.register(ATTENTION, _attention)
        _active.called = False
        try:
            self.model.set_attn_implementation(ATTENTION)
            # Some families scale or cap logits after their head: then the whole model is called.
            for self._own_head in (False, True):
                differs = _distance(self._probe_logits(ids.tolist()), expected_TV)
                if differs <= allowed:
                    self._try_fused(ids.tolist(), expected_TV, allowed=allowed)
                    return
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, KeyError) as error:
            raise _refused(directory, f"its attention cannot be replaced ({error})") from error
        if not _active.called:
            raise _refused(
                directory, "transformers runs it with attention of its own, which cannot be replaced"
            )
        raise _refused(
            directory, f"its logits differ by {differs:.2g} of their spread, {allowed:g} is rounding"
        )

    def _try_fused(self, tokens: list[int], expected_TV: Tensor, *, allowed: float) -> None:
        """Use the fused decoder where it gives the same logits."""
        if self._own_head:
            return
        self._fused = FusedDecoder.of(self.model)
        if self._fused is None:
            self.decoder_name = "torch: not of the Llama family"
        elif (
            max(_distance(self._probe_logits(tokens, alone=alone), expected_TV) for alone in (False, True))
            <= allowed
        ):
            self.decoder_name = self._fused.decoder_name
            self.model.base_model.layers = (
                torch.nn.ModuleList()
            )  # the fused decoder has a copy of their weights
        else:
            self._fused, self.decoder_name = None, "torch: the fused decoder gives other logits"

    def _probe_logits(self, tokens: list[int], *, alone: bool = False) -> Tensor:
        """Logits of a short text, half of it as a prompt, half token by token; as the second of two rows, or alone."""
        half, before = len(tokens) // 2, 0 if alone else 1
        kv = self.new_cache(num_rows=1 + before, capacity=len(tokens))
        prompts = [(0, tokens[: half - 3], True)] * before + [(before, tokens[:half], True)]
        step = plan_step([], prompts, device=self.device)
        got = [self.logits(self.hidden(step, kv))[-half:]]
        for i in range(half, len(tokens)):
            rows = [(tokens[i - 3], i - 3)] * before + [(tokens[i], i)]
            step = plan_step(rows, [], device=self.device)
            got.append(self.logits(self.hidden(step, kv))[before:])
        return torch.cat([logits.float() for logits in got])


def _cache_fingerprint(weights: str, config: Any) -> str:
    import transformers

    ignored = {"_name_or_path", "transformers_version", "_attn_implementation", "attn_implementation"}
    content = {name: value for name, value in config.to_dict().items() if name not in ignored}
    return fingerprint_of_cache(weights, content, library=f"transformers {transformers.__version__}")


def _checked_config(config: Any, directory: Path) -> Any:
    """The part of a config that describes the text model, if its layers can be run here.

    Raises:
        ConfigError: a kind of attention that `attend` does not have.
    """
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    if getattr(text, "attention_chunk_size", None) or not kinds <= KNOWN_LAYERS:
        raise _refused(directory, "it has layers that are not plain or sliding attention")
    return text


def _attention(
    module: Any,
    query_1HND: Tensor,
    key_1GND: Tensor,
    value_1GND: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001  # transformers makes none for a registered attention
    scaling: float | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attention with transformers' signature, over the cache of the step that runs."""
    for name in ("s_aux", "position_bias"):
        if more.get(name) is not None:
            raise ValueError(f"attention with {name}")
    kv, step = _active.step
    _active.called = True
    out_NHD = attend(
        kv,
        step,
        module.layer_idx,
        query_1HND[0].transpose(0, 1),
        key_1GND[0].transpose(0, 1),
        value_1GND[0].transpose(0, 1),
        scale=scaling,
        window=sliding_window,
        softcap=more.get("softcap"),
    )
    return out_NHD[None], None


def _distance(got_TV: Tensor, expected_TV: Tensor) -> float:
    """Root mean square of a token's differences, relative to the spread of the expected logits: the median token's.

    Not the worst token's: in bfloat16 a single token of SmolLM2-135M is 1.3 away from its own float32 logits. What is
    computed differently changes most tokens, since each depends on those before it.
    """
    spread = (expected_TV - expected_TV.mean(-1, keepdim=True)).square().mean().sqrt()
    return float((got_TV - expected_TV).square().mean(-1).sqrt().median() / spread)


def _refused(directory: Path, why: str) -> ConfigError:
    return ConfigError(
        f"{directory}: the native engine cannot run this model: {why}. "
        f"Choose engine vllm, which implements most families itself."
    )


def context_of(config: Any) -> int:
    """Maximum length of a row, prompt included.

    Rotary positions of the kinds "dynamic" and "longrope" change for all tokens when a text grows longer than the
    training context, so that the cached keys would be wrong: such models run up to that length.
    """
    longest = int(getattr(config, "max_position_embeddings", 0) or 1 << 20)
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") not in ("dynamic", "longrope"):
        return longest
    original = rope.get("original_max_position_embeddings") or getattr(
        config, "original_max_position_embeddings", None
    )
    return min(longest, int(original or longest))
