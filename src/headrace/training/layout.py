"""Degrees of parallelism and a model -> one DeviceMesh, or an error that says which product is wrong."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from headrace.errors import ConfigError
from headrace.training.recipe import Recipe

SHARDINGS = ("none", "zero2", "zero3")
SCHEDULES = ("1f1b", "gpipe", "interleaved")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How one model runs on many processes: dp x pp x tp of them; rank = (data * pp + pipe) * tp + tensor.

    >>> Layout(tp=2).over(8).dp
    4
    """

    dp: int = -1
    """Data parallel: copies (or shards) of the model, each with other rows. -1: what the others leave."""
    tp: int = 1
    """Tensor parallel: each matrix in so many parts, with sequence parallel and vocabulary-parallel loss."""
    pp: int = 1
    """PipelineParallel parallel: layers in so many stages."""
    shard: str = "none"
    """What the dp copies share: none (DDP), zero2 (gradients and optimizer, FSDP2), zero3 (weights too)."""
    schedule: str = "1f1b"
    """Of the pipeline: 1f1b, gpipe, interleaved."""
    microbatches: int | None = None
    """Pieces that a rank's rows pass the pipeline in; default the most up to 4 x pp that divide them."""
    virtual: int = 2
    """Stages per rank of the interleaved schedule."""
    recompute: bool = False
    """Activation checkpointing: keep each block's input only, run it again in the backward pass."""
    compile: bool = False
    """torch.compile each block."""

    def over(self, world_size: int) -> Layout:
        """The same layout with dp known.

        Raises:
            ConfigError: no dp makes the product equal the number of processes; an unknown name.
        """
        for name in ("tp", "pp"):
            if getattr(self, name) < 1:
                raise ConfigError(f"layout: {name} is {getattr(self, name)}; it must be at least 1.")
        if self.shard not in SHARDINGS:
            raise ConfigError(f"layout: shard is {self.shard!r}; wanted one of {', '.join(SHARDINGS)}.")
        if self.schedule not in SCHEDULES:
            raise ConfigError(f"layout: schedule is {self.schedule!r}; wanted one of {', '.join(SCHEDULES)}.")
        dp = world_size // (self.tp * self.pp) if self.dp == -1 else self.dp
        if dp * self.tp * self.pp != world_size or dp < 1:
            asked = "dp" if self.dp == -1 else str(self.dp)
            raise ConfigError(
                f"layout: dp x tp x pp = {asked} x {self.tp} x {self.pp} cannot be {world_size} processes. "
                f"Start {max(1, dp) * self.tp * self.pp} (torchrun --nproc-per-node), or change a degree."
            )
        values = {name: getattr(self, name) for name in self.__slots__}
        return Layout(**{**values, "dp": dp})

    @property
    def stages(self) -> int:
        """Pieces that the layers are cut into."""
        return self.pp * (self.virtual if self.schedule == "interleaved" else 1)

    def pieces(self, rows: int) -> int:
        """Microbatches that a rank's rows of one unit pass the pipeline in."""
        if self.microbatches is not None:
            return self.microbatches
        return max(n for n in range(1, min(rows, 4 * self.pp) + 1) if rows % n == 0)

    def check(self, recipe: Recipe) -> None:
        """Refuse what this model and batch cannot be divided by, before any work starts.

        Raises:
            ConfigError: names the degree and the number that it does not divide.
        """
        model, unit = recipe.model, recipe.schedule.unit_rows

        def divides(degree: int, name: str, number: int, what: str, cure: str) -> None:
            if number % degree:
                raise ConfigError(f"layout: {name} {degree} does not divide {what} {number}. {cure}")

        divides(self.dp, "dp", unit, "the rows of a piece (batch_size / accumulate)", "Change batch_size.")
        divides(
            self.tp, "tp", model.num_attention_heads, "the model's heads", "Every rank needs whole heads."
        )
        divides(self.tp, "tp", recipe.seq_len, "seq_len", "Sequence parallel cuts rows evenly.")
        if self.stages > model.num_hidden_layers:
            raise ConfigError(
                f"layout: {self.stages} pipeline stages need at least as many layers; the model has "
                f"{model.num_hidden_layers}."
            )
        divides(
            self.stages, "the number of stages", model.num_hidden_layers, "the model's layers", "Change pp."
        )
        if self.pp > 1:
            rows, pieces = unit // self.dp, self.pieces(unit // self.dp)
            divides(pieces, "microbatches", rows, "a rank's rows", "Change microbatches or batch_size.")
            if self.schedule == "interleaved":
                divides(
                    self.pp, "pp", pieces, "the microbatches", "The interleaved schedule takes pp at a time."
                )

    def mesh(self, device: torch.device) -> DeviceMesh | None:
        """The one mesh that every kind of parallelism takes its groups from; None for one process."""
        if self.dp * self.tp * self.pp == 1:
            return None
        return init_device_mesh(device.type, (self.dp, self.pp, self.tp), mesh_dim_names=("dp", "pp", "tp"))
