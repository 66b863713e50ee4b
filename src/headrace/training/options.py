"""Options of `train`: one frozen dataclass a group, one field an option, for the API and the command line alike."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from typing_extensions import Doc

from headrace.errors import ConfigError
from headrace.load import BatchOptions, ReadOptions
from headrace.training.lora_options import LoraOptions
from headrace.training.option_checks import check_choice, check_integer, check_number

Packing = Literal["none", "best_fit"]
Shuffle = Literal["auto", "global", "blocks", "none"]
Sharding = Literal["none", "zero2", "zero3"]
PipelineScheduleName = Literal["1f1b", "gpipe", "interleaved"]
Dtype = Literal["auto", "float32", "bfloat16"]
LayoutMode = Literal["given", "auto"]
LearningRateSchedule = Literal["cosine", "linear", "constant", "wsd"]
OptimizerName = Literal["adamw", "muon"]
OptimizerImplementation = Literal["auto", "fused", "foreach"]
DivergenceAction = Literal["stop", "skip", "rollback"]
InitialState = Literal["weights", "full"]
TrackerName = Literal["tensorboard", "wandb", "mlflow"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataOptions:
    """Data."""

    seq_len: Annotated[int | None, Doc("Tokens of a row. Default: the model's max_position_embeddings.")] = (
        None
    )
    batch_size: Annotated[
        int | None, Doc("Rows of an optimizer step, over all ranks. Default: the paper's tokens.")
    ] = None
    packing: Annotated[
        Packing, Doc("none: cut the token stream every seq_len tokens | best_fit: whole documents in a row.")
    ] = "none"
    separate_documents: Annotated[
        bool, Doc("Keep attention within documents, and count positions from the begin of each.")
    ] = False
    shuffle: Annotated[
        Shuffle,
        Doc("Order of rows: global | blocks (each block fetched once) | none | auto: by where the store is."),
    ] = "auto"
    tokenizer: Annotated[
        str | None,
        Doc("Tokenizer of Megatron files, which have none: a name or a path. Default: the store's own."),
    ] = None
    output: BatchOptions[Any] = field(default_factory=BatchOptions)
    """document_ids and position_ids keep attention within documents; masks of labels."""
    reading: ReadOptions = field(default_factory=ReadOptions)
    """Threads, prefetch, and the window of a block shuffle."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        check_integer("seq_len", self.seq_len, 1)
        check_integer("batch_size", self.batch_size, 1)
        check_choice("packing", self.packing, Packing)
        check_choice("shuffle", self.shuffle, Shuffle)
        if self.output.padding_free or self.output.framework == "numpy":
            raise ConfigError(
                "train: data.output has padding_free or framework='numpy'; training takes rows of one length "
                "as torch tensors. Leave them out."
            )

    def identity(self) -> dict[str, Any]:
        """The options that decide which rows there are, and their order, where they are not the default."""
        mask = self.output.label_mask
        values = {
            "packing": (self.packing, "none"),
            "shuffle": (self.shuffle, "auto"),
            "window": (self.reading.window, None),
            "document_ids": (self.output.document_ids or self.separate_documents, False),
            "position_ids": (self.output.position_ids or self.separate_documents, False),
            "mask_document_starts": (self.output.mask_document_starts, False),
            "label_mask": (getattr(mask, "__qualname__", mask and repr(mask)), None),
        }
        return {name: value for name, (value, default) in values.items() if value != default}


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerOptions:
    """Optimizer, free to change between starts.

    What is not given (None) keeps the value that a run has; a new run takes the default.
    """

    lr: Annotated[float | None, Doc("Peak learning rate. Default: the paper's for the size.")] = None
    lr_schedule: Annotated[
        LearningRateSchedule | None,
        Doc(
            "After the warm-up: cosine | linear | constant | wsd (constant, then linear over cooldown_steps). "
            "Default: cosine."
        ),
    ] = None
    warmup_steps: Annotated[
        int | None,
        Doc("Steps of linear warm-up. Default: the paper's 375 M tokens, at most a tenth of the steps."),
    ] = None
    decay_steps: Annotated[
        int | None,
        Doc(
            "Step at which the decay ends. Default: the last; of a cosine, the paper's 260 G tokens at most."
        ),
    ] = None
    cooldown_steps: Annotated[
        int | None, Doc("Steps of wsd's decay, up to decay_steps. Default: a fifth of the steps.")
    ] = None
    optimizer: Annotated[
        OptimizerName | None,
        Doc("adamw | muon (matrices by Muon; embeddings, head, biases, norms by AdamW). Default: adamw."),
    ] = None
    optimizer_implementation: Annotated[
        OptimizerImplementation | None, Doc("AdamW's: auto (fused where there is one) | fused | foreach.")
    ] = None
    momentum: Annotated[float | None, Doc("Muon's. Default: 0.95.")] = None
    min_lr_ratio: Annotated[float | None, Doc("Share of lr at which the decay ends. Default: 0.1.")] = None
    weight_decay: Annotated[float | None, Doc("Of matrices; biases and norms have none. Default: 0.1.")] = (
        None
    )
    betas: Annotated[
        tuple[float, float] | None,
        Doc("AdamW's averages of gradients and of their squares. Default: 0.9 0.95."),
    ] = None
    eps: Annotated[float | None, Doc("Added to AdamW's denominator. Default: 1e-8.")] = None
    max_grad_norm: Annotated[
        float | None, Doc("Gradients are clipped to this norm; 0: no clipping. Default: 1.")
    ] = None
    gradient_accumulation_steps: Annotated[
        int | None,
        Doc("Parts that the rows of a step are fetched and computed in, one after the other. Default: 1."),
    ] = None
    rampup_batch_size: Annotated[
        int | None, Doc("Rows of the first step; they grow to batch_size over rampup_steps.")
    ] = None
    rampup_steps: Annotated[int | None, Doc("Steps over which the batch grows. Default: 0.")] = None
    on_divergence: Annotated[
        DivergenceAction | None,
        Doc(
            "At a loss or gradient that is no number, or a spike: stop | skip the step's update | rollback to the "
            "last checkpoint, around the rows since. Default: stop."
        ),
    ] = None
    spike_sigma: Annotated[
        float | None,
        Doc(
            "A loss or gradient norm so many standard deviations above the last steps' mean is a spike; 0: none is. "
            "Default: 0."
        ),
    ] = None
    spike_window: Annotated[
        int | None, Doc("Good steps whose mean and deviation a spike is measured by. Default: 128.")
    ] = None

    def __post_init__(self) -> None:
        """Refuse values out of range; none of these would fail by itself, or only after hours."""
        check_number("lr", self.lr, 0)
        check_integer("warmup_steps", self.warmup_steps, 0)
        check_integer("decay_steps", self.decay_steps, 1)
        check_integer("cooldown_steps", self.cooldown_steps, 1)
        check_number("min_lr_ratio", self.min_lr_ratio, 0, 1)
        check_number("weight_decay", self.weight_decay, 0)
        check_number("eps", self.eps, 0)
        check_number("max_grad_norm", self.max_grad_norm, 0)
        check_integer("gradient_accumulation_steps", self.gradient_accumulation_steps, 1)
        check_integer("rampup_batch_size", self.rampup_batch_size, 1)
        check_integer("rampup_steps", self.rampup_steps, 0)
        check_number("spike_sigma", self.spike_sigma, 0)
        check_integer("spike_window", self.spike_window, 2)
        check_number("momentum", self.momentum, 0, 1)
        if self.optimizer is not None:
            check_choice("optimizer", self.optimizer, OptimizerName)
        if self.optimizer_implementation is not None:
            check_choice("optimizer_implementation", self.optimizer_implementation, OptimizerImplementation)
        if self.on_divergence is not None:
            check_choice("on_divergence", self.on_divergence, DivergenceAction)
        if self.lr_schedule is not None:
            check_choice("lr_schedule", self.lr_schedule, LearningRateSchedule)
        if self.betas is None:
            return
        if not isinstance(self.betas, tuple | list) or len(self.betas) != 2:
            raise ConfigError(f"train: betas is {self.betas!r}; expected two numbers, such as (0.9, 0.95).")
        for index, beta in enumerate(self.betas):
            check_number(f"betas[{index}]", beta, 0, 1)
            if beta == 1:
                raise ConfigError(f"train: betas[{index}] is {beta}; expected less than 1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelOptions:
    """Parallelism, free to change between starts.

    dp x pp x tp processes; rank = (data * pp + pipeline) * tp + tensor.

    >>> ParallelOptions(tp=2).resolve(8).dp
    4
    """

    layout: Annotated[
        LayoutMode,
        Doc(
            "given: the degrees below | auto: the fastest by the plan and, where it is unsure, by short trials; "
            "degrees that are given stay."
        ),
    ] = "given"
    dp: Annotated[int, Doc("Data-parallel degree; -1: what tp and pp leave of the processes.")] = -1
    tp: Annotated[int, Doc("Tensor-parallel degree, with sequence parallelism.")] = 1
    pp: Annotated[int, Doc("Pipeline-parallel degree.")] = 1
    shard: Annotated[
        Sharding,
        Doc("Over dp: none (DDP) | zero2 (gradients, optimizer; FSDP2) | zero3 (weights too)."),
    ] = "none"
    pipeline_schedule: Annotated[PipelineScheduleName, Doc("1f1b | gpipe | interleaved.")] = "1f1b"
    microbatches: Annotated[
        int | None,
        Doc("Parts of a rank's rows in the pipeline. Default: the most up to 4 x pp that divide them."),
    ] = None
    activation_checkpointing: Annotated[
        bool, Doc("Keep the input of each block only; compute the block again in the backward pass.")
    ] = False
    compile: Annotated[bool, Doc("torch.compile each block.")] = False

    def __post_init__(self) -> None:
        """Refuse names and degrees that do not exist."""
        check_integer("dp", self.dp, -1)
        check_integer("tp", self.tp, 1)
        check_integer("pp", self.pp, 1)
        check_integer("microbatches", self.microbatches, 1)
        check_choice("layout", self.layout, LayoutMode)
        check_choice("shard", self.shard, Sharding)
        check_choice("pipeline_schedule", self.pipeline_schedule, PipelineScheduleName)

    def resolve(self, num_processes: int) -> ParallelOptions:
        """The same options with dp known.

        Raises:
            ConfigError: no dp makes the product equal the number of processes.
        """
        dp = num_processes // (self.tp * self.pp) if self.dp == -1 else self.dp
        if dp * self.tp * self.pp != num_processes or dp < 1:
            requested = "dp" if self.dp == -1 else str(self.dp)
            raise ConfigError(
                f"train: dp x tp x pp = {requested} x {self.tp} x {self.pp} cannot be {num_processes} processes. "
                f"Start {max(1, dp) * self.tp * self.pp} (torchrun --nproc-per-node), or change a degree."
            )
        return dataclasses.replace(self, dp=dp)

    @property
    def num_stages(self) -> int:
        """Parts that the layers are cut into; the interleaved schedule has two a rank."""
        return self.pp * (2 if self.pipeline_schedule == "interleaved" else 1)

    def num_microbatches(self, rows: int) -> int:
        """Parts that so many rows of a rank pass the pipeline in."""
        if self.microbatches is not None:
            return self.microbatches
        return max(n for n in range(1, min(rows, 4 * self.pp) + 1) if rows % n == 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointOptions:
    """Checkpoints, free to change between starts."""

    checkpoint_every: Annotated[int | None, Doc("Steps between checkpoints. Default: by time alone.")] = None
    checkpoint_seconds: Annotated[float, Doc("Most seconds between checkpoints.")] = 600.0
    keep_checkpoints: Annotated[int, Doc("Checkpoints to keep; older ones are deleted.")] = 3
    checkpoint_timeout: Annotated[
        float,
        Doc(
            "Seconds after which a checkpoint that is not stored is given up with a warning; the run goes on."
        ),
    ] = 3600.0
    mirror: Annotated[
        str | None,
        Doc("s3://, gs:// or az:// URL that the run is copied to, and restored from where it is missing."),
    ] = None

    def __post_init__(self) -> None:
        """Refuse options that would never save."""
        check_integer("checkpoint_every", self.checkpoint_every, 1)
        check_number("checkpoint_seconds", self.checkpoint_seconds, 0)
        check_integer("keep_checkpoints", self.keep_checkpoints, 1)
        check_number("checkpoint_timeout", self.checkpoint_timeout, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Run."""

    max_seconds: Annotated[
        float | None,
        Doc(
            "Instead of steps, or below them: the steps that fit into this time, measured at the first start."
        ),
    ] = None
    tokens: Annotated[
        int | None, Doc("Instead of steps: tokens to read in all; the last step reads the last of them.")
    ] = None
    seed: Annotated[
        int | None, Doc("Of the weights and of the order of rows. Default: 0, or that of the run.")
    ] = None
    dtype: Annotated[
        Dtype, Doc("Of matrix products; weights and optimizer are float32. auto: bfloat16 where it is fast.")
    ] = "auto"
    device: Annotated[str | None, Doc("cpu | cuda. Default: a GPU where there is one.")] = None
    banded: Annotated[
        bool, Doc("For a named size: every second layer attends to the last 256 tokens only, as in GPT-3.")
    ] = False
    init_state: Annotated[
        InitialState,
        Doc(
            "Of the run that init_from names: weights (moments and position begin anew) | full (moments, position "
            "and step are kept: a branch of that run)."
        ),
    ] = "weights"
    lora: LoraOptions = field(default_factory=LoraOptions)
    """LoRA, of weights that init_from names."""
    embeddings: Annotated[
        str | os.PathLike[str] | None,
        Doc("word2vec vectors or a BERT directory that the token embeddings start from."),
    ] = None
    track: Annotated[
        tuple[str, ...],  # of TrackerName; typer takes no list of names
        Doc("Show metrics in tensorboard | wandb | mlflow too, by their own packages; may be repeated."),
    ] = ()
    restart: Annotated[
        bool,
        Doc(
            "Delete the run that is at --out, and start over; not when torchrun or Slurm starts the process again."
        ),
    ] = False

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise ConfigError(f"train: max_seconds is {self.max_seconds}; expected more than 0.")
        check_number("max_seconds", self.max_seconds, 0, 1e9)  # 32 years
        check_integer("tokens", self.tokens, 1)
        check_integer("seed", self.seed, -(2**63), 2**63 - 1)
        check_choice("dtype", self.dtype, Dtype)
        check_choice("init_state", self.init_state, InitialState)
        track: Any = self.track
        if isinstance(track, str):  # a sequence of letters
            raise ConfigError(f"train: track is {track!r}; expected several names, such as ('wandb',).")
        for name in self.track:
            check_choice("track", name, TrackerName)


def check_steps(steps: int | None) -> None:
    """Refuse a number of steps below 1.

    Raises:
        ConfigError: see above.
    """
    check_integer("steps", steps, 1)
