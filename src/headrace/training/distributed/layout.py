"""Degrees of parallelism and a recipe -> one DeviceMesh, or an error that says which number does not fit."""

from __future__ import annotations

import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from headrace.errors import ConfigError
from headrace.training.options import ParallelOptions
from headrace.training.recipe import Recipe


def check_layout(parallel: ParallelOptions, recipe: Recipe) -> None:
    """Refuse degrees that do not divide the model or the batch, before any work starts.

    Args:
        parallel: resolved: dp is known.
        recipe: the model's shape, and the rows.

    Raises:
        ConfigError: names the degree and the number that it does not divide.
    """
    model, rows, pp, tp = recipe.model, recipe.schedule.micro_batch_size, parallel.pp, parallel.tp
    _divides(
        parallel.dp, "dp", rows, "the rows of a micro-batch (batch_size / gradient_accumulation_steps)",
        "Change batch_size.",
    )  # fmt: skip
    _divides(tp, "tp", model.num_attention_heads, "the model's num_attention_heads", "Heads stay whole.")
    _divides(tp, "tp", model.num_key_value_heads, "the model's num_key_value_heads", "Heads stay whole.")
    _divides(tp, "tp", recipe.seq_len, "seq_len", "Sequence parallelism cuts rows evenly.")
    layers, stages = model.num_hidden_layers, parallel.num_stages
    if stages > layers:
        raise ConfigError(
            f"train: {stages} pipeline stages need at least as many layers; num_hidden_layers is {layers}."
        )
    _divides(stages, "the number of stages", layers, "the model's num_hidden_layers", "Change pp.")
    if pp > 1:
        of_rank = rows // parallel.dp
        microbatches = parallel.num_microbatches(of_rank)
        _divides(microbatches, "microbatches", of_rank, "a rank's rows", "Change microbatches or batch_size.")
        if parallel.pipeline_schedule == "1f1b" and microbatches < stages:  # torch's schedule refuses it
            cure = (
                f"Change microbatches (its default is the most up to {4 * pp} that divide a rank's rows)"
                if of_rank >= stages
                else f"Give each rank at least {stages} rows (batch_size, gradient_accumulation_steps, dp)"
            )
            raise ConfigError(
                f"train: microbatches {microbatches} of a rank's {of_rank} rows are fewer than the {stages} pipeline "
                f"stages, each of which needs one. {cure}, or take the gpipe schedule."
            )
        if parallel.pipeline_schedule == "interleaved":
            _divides(
                pp,
                "pp",
                microbatches,
                "the microbatches",
                "The interleaved schedule takes pp of them at once.",
            )


def _divides(degree: int, name: str, number: int, what: str, cure: str) -> None:
    if number % degree:
        raise ConfigError(f"train: {name} {degree} does not divide {what} {number}. {cure}")


def device_mesh(parallel: ParallelOptions, device: torch.device) -> DeviceMesh | None:
    """The one mesh that every kind of parallelism takes its groups from; None for one process."""
    if parallel.dp * parallel.tp * parallel.pp == 1:
        return None
    return init_device_mesh(
        device.type, (parallel.dp, parallel.pp, parallel.tp), mesh_dim_names=("dp", "pp", "tp")
    )
