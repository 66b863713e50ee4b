"""A model and a LoRA configuration -> the model with low-rank matrices beside some linear layers; and merged again.

Shapes: K inputs and N outputs of a linear layer, r rank. The layer gives x W' + scaling * (x A') B', with W frozen.
Source: Hu et al. 2021 (LoRA); Kalajdzievski 2023 for the scaling of use_rslora. Names are those of the peft library.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812  # the name that every reader of torch code knows
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from headrace.errors import CheckpointError, ConfigError
from headrace.model.families import Model, ModelConfig, meta_model
from headrace.model.gpt.gpt import GPTConfig
from headrace.model.gpt.gpt2_format import gpt2_name
from headrace.model.llama.decoder_tensors import decoder_tensor_name
from headrace.model.products import Linear, product

ALL_LINEAR = "all-linear"
"""peft's name for every linear layer but the head."""
_GPT_LINEAR = ("attn.qkv", "attn.out", "mlp.up", "mlp.down")
_DECODER_LINEAR = ("attn.q", "attn.k", "attn.v", "attn.out", "mlp.gate", "mlp.up", "mlp.down")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """Which linear layers get low-rank matrices, and how these are scaled."""

    r: int
    """Rank."""
    lora_alpha: float
    target_modules: tuple[str, ...]
    """peft's names within a block, as `target_names` writes them."""
    lora_dropout: float = 0.0
    """Of the input of A, in training."""
    use_rslora: bool = False

    @property
    def scaling(self) -> float:
        """Factor of B A.

        >>> LoraConfig(r=16, lora_alpha=32, target_modules=("q_proj",)).scaling
        2.0
        """
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: object) -> LoraConfig:
        """The configuration that a recipe in run.json holds.

        Raises:
            CheckpointError: it holds something else.
        """
        try:
            return cls(**{**values, "target_modules": tuple(values["target_modules"])})
        except (TypeError, KeyError) as error:
            raise CheckpointError(
                f"{where}: its lora is no LoRA configuration ({error}). Damaged?"
            ) from error


class LoraLinear(Linear):
    """A linear layer whose own weights are frozen, and the low-rank matrices beside it that learn."""

    def __init__(self, linear: nn.Linear, lora: LoraConfig) -> None:
        """Put matrices beside a layer, which is taken over: its parameters keep their names.

        Args:
            linear: the layer.
            lora: rank, scaling and dropout.
        """
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.lora_A = nn.Parameter(linear.weight.new_zeros(lora.r, linear.in_features))
        self.lora_B = nn.Parameter(linear.weight.new_zeros(linear.out_features, lora.r))
        self.scaling, self.dropout = lora.scaling, lora.lora_dropout

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., N]."""
        # Held-out rows are evaluated without gradients, on a model in training mode.
        drops = self.dropout > 0 and self.training and torch.is_grad_enabled()
        plain = not isinstance(self.weight, DTensor) and not torch.compiler.is_compiling()
        if plain and not drops and torch.is_grad_enabled() and x.device.type == "cpu":
            flat = x.flatten(0, -2)
            out = _lora_linear(flat, self.weight, self.bias, self.lora_A, self.lora_B, self.scaling)
            return out.view(*x.shape[:-1], -1)
        low = F.linear(F.dropout(x, self.dropout) if drops else x, self.lora_A)
        return super().forward(x) + F.linear(low, self.lora_B) * self.scaling


class _LoraLinear(torch.autograd.Function):
    """The layer as one step: the low-rank products are added into the frozen one, without passes of their own."""

    @staticmethod
    def forward(
        ctx: Any,
        x_MK: Tensor,
        weight_NK: Tensor,
        bias_N: Tensor | None,
        a_RK: Tensor,
        b_NR: Tensor,
        scaling: float,
    ) -> Tensor:
        kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x_MK.dtype
        x_MK, weight_NK, a_RK, b_NR = (t.to(kind) for t in (x_MK, weight_NK, a_RK, b_NR))
        low_MR = x_MK @ a_RK.T
        out_MN = product(x_MK, weight_NK.T)
        if bias_N is not None:
            out_MN += bias_N.to(kind)
        ctx.save_for_backward(x_MK, weight_NK, a_RK, b_NR, low_MR)
        ctx.scaling = scaling
        return out_MN.addmm_(low_MR, b_NR.T, alpha=scaling)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_MK, weight_NK, a_RK, b_NR, low_MR = ctx.saved_tensors
        of_low_MR = (grads[0] @ b_NR) * ctx.scaling
        of_x = None
        if ctx.needs_input_grad[0]:  # not of the first layer: the embeddings are frozen
            of_x = product(grads[0], weight_NK).addmm_(of_low_MR, a_RK)
        of_b = (grads[0].T @ low_MR) * ctx.scaling
        return of_x, None, None, of_low_MR.T @ x_MK, of_b, None


_lora_linear: Callable[..., Tensor] = _LoraLinear.apply


def is_lora_name(name: str) -> bool:
    """Whether a parameter is one of the low-rank matrices.

    >>> is_lora_name("blocks.0.attn.q.lora_A"), is_lora_name("blocks.0.attn.q.weight")
    (True, False)
    """
    return name.endswith((".lora_A", ".lora_B"))


def hf_module_name(config: ModelConfig, name: str) -> str:
    """Our linear layer's name -> the one in transformers' model."""
    if isinstance(config, GPTConfig):
        return f"transformer.{gpt2_name(f'{name}.weight')}".removesuffix(".weight")
    return decoder_tensor_name(f"{name}.weight", config).removesuffix(".weight")


def linear_names(config: ModelConfig) -> tuple[str, ...]:
    """Names of a block's linear layers, within the block."""
    return _GPT_LINEAR if isinstance(config, GPTConfig) else _DECODER_LINEAR


def default_targets(config: ModelConfig) -> tuple[str, ...]:
    """Defaults of peft: queries and values, or GPT-2's one matrix for queries, keys and values."""
    return ("c_attn",) if isinstance(config, GPTConfig) else ("q_proj", "v_proj")


def matching_layers(config: ModelConfig, targets: Sequence[str]) -> tuple[str, ...]:
    """Linear layers of a block that peft's names mean; a name means all layers whose name ends with it."""
    if ALL_LINEAR in targets:
        return linear_names(config)
    full = {name: hf_module_name(config, f"blocks.0.{name}") for name in linear_names(config)}
    return tuple(name for name, theirs in full.items() if any(theirs.endswith(f".{one}") for one in targets))


def target_names(config: ModelConfig, targets: Sequence[str]) -> tuple[str, ...]:
    """Names, as peft has them, of the layers that are meant: each once and in the order of the block.

    Args:
        config: of the model.
        targets: such as "q_proj", "mlp.down_proj", or "all-linear".

    Raises:
        ConfigError: a name that no linear layer of a block has; says which there are.
    """
    full = {name: hf_module_name(config, f"blocks.0.{name}") for name in linear_names(config)}
    leaves = [theirs.rpartition(".")[2] for theirs in full.values()]
    # GPT-2 has two matrices named c_proj: those are named with their layer.
    short = {
        name: leaf if leaves.count(leaf) == 1 else ".".join(theirs.split(".")[-2:])
        for (name, theirs), leaf in zip(full.items(), leaves, strict=True)
    }
    for target in targets:
        has_digits = any(part.isdecimal() for part in target.split("."))
        if target != ALL_LINEAR and (has_digits or not matching_layers(config, [target])):
            raise ConfigError(
                f"train: target_modules has {target!r}; expected names of linear layers within a block: "
                f"{', '.join(short.values())}, or {ALL_LINEAR}. The head, embeddings and norms are not tuned by LoRA."
            )
    return tuple(short[name] for name in matching_layers(config, targets))


def add_lora(part: nn.Module, config: ModelConfig, lora: LoraConfig) -> None:
    """Put low-rank matrices beside the targets of a model or a pipeline stage, in place; all else is frozen."""
    for block in part.get_submodule("blocks").children():
        for name in matching_layers(config, lora.target_modules):
            parent, _, child = name.rpartition(".")
            linear = cast("nn.Linear", block.get_submodule(name))
            setattr(block.get_submodule(parent), child, LoraLinear(linear, lora))
    freeze(part)


def freeze(part: nn.Module) -> None:
    """Let the low-rank matrices learn, and nothing else."""
    for name, parameter in part.named_parameters():
        parameter.requires_grad_(is_lora_name(name))


def meta_lora_model(config: ModelConfig, lora: LoraConfig | None) -> Model:
    """The model with its low-rank matrices, if there are any, without memory."""
    model = meta_model(config)
    if lora is not None:
        add_lora(model, config, lora)
    return model


def empty_lora_tensors(config: ModelConfig, lora: LoraConfig) -> dict[str, Tensor]:
    """Low-rank matrices by our names, in float32, whose values are not set."""
    named = meta_lora_model(config, lora).named_parameters()
    return {name: torch.empty(parameter.shape) for name, parameter in named if is_lora_name(name)}


@torch.no_grad()
def merge_lora(model: Model, tensors: Mapping[str, Tensor], scaling: float) -> None:
    """Add scaling * B A to the weights, in place; computed in float32."""
    weights = dict(model.named_parameters())
    for name, a_RK in tensors.items():
        if not name.endswith(".lora_A"):
            continue
        module = name.removesuffix(".lora_A")
        weight = weights[f"{module}.weight"]
        change = (tensors[f"{module}.lora_B"].float() @ a_RK.float()) * scaling
        weight.copy_((weight.float() + change.to(weight.device)).to(weight.dtype))
