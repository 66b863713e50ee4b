"""A loader -> the batches of a transformers.Trainer, in our order, resumed exactly by our own state.

    class MyTrainer(LoaderMixin, SFTTrainer): ...        # or the Trainer of this module
    trainer = Trainer(model=model, args=args, train_dataset=loader)
    trainer.train(resume_from_checkpoint=True)

The loader's state travels in the checkpoint's trainer_state.json. A resumed run seeks: no batch is read to be
skipped, and the number of processes may have changed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import transformers
from torch.utils.data import DataLoader, IterableDataset
from transformers.trainer_callback import ExportableState

from headrace.errors import ConfigError, ResumeError
from headrace.load import Batch, Loader

if TYPE_CHECKING:
    from collections.abc import Iterator


class LoaderMixin:
    """Gives a transformers Trainer a `Loader` as its train_dataset. Put it before the Trainer's class.

    `per_device_train_batch_size` times the processes must be the loader's batch size; an update step takes
    `gradient_accumulation_steps` of its batches. An endless loader needs `max_steps`; what the Trainer calls an
    epoch is then as many batches as hold every row once. A loader with `epochs` is one epoch of the Trainer as
    a whole.
    """

    train_dataset: Any
    args: Any
    state: Any
    model_accepts_loss_kwargs: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if isinstance(self.train_dataset, Loader):
            self.add_callback(LoaderState(self.train_dataset))  # type: ignore[attr-defined]  # the Trainer's

    def get_train_dataloader(self) -> Any:
        """Batches of the loader; the parent's where the train_dataset is something else."""
        loader = self.train_dataset
        if not isinstance(loader, Loader):
            return super().get_train_dataloader()  # type: ignore[misc]  # the Trainer's
        _check(loader, self.args)
        return DataLoader(_Batches(self, loader), batch_size=None)


class Trainer(LoaderMixin, transformers.Trainer):
    """transformers.Trainer that takes a `Loader` as its train_dataset."""


class LoaderState(transformers.TrainerCallback, ExportableState):
    """Keeps a loader's state in trainer_state.json, and restores it from there."""

    def __init__(self, loader: Loader[Any]) -> None:
        self.loader = loader

    def state(self) -> dict[str, Any]:
        """What trainer_state.json holds of the loader."""
        return {"args": {}, "attributes": {"loader": self.loader.state_dict()}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Send the loader where the checkpoint was written.

        Raises:
            ResumeError: the checkpoint has no loader state, or one of another order.
        """
        del args, control
        if state.global_step == 0:
            return
        saved = state.stateful_callbacks.get(type(self).__name__)
        if isinstance(saved, list):
            saved = saved[-1]
        kept = (saved or {}).get("attributes", {}).get("loader")
        if kept is None:
            raise ResumeError(
                f"the checkpoint of step {state.global_step} holds no loader state: it was written by a Trainer "
                "without headrace's LoaderMixin. Start anew, or loader.seek(position) yourself"
            )
        self.loader.load_state_dict(kept)


class _Batches(IterableDataset[dict[str, Any]]):
    """One epoch of the Trainer: as many batches as it counts, from the loader's position on."""

    def __init__(self, trainer: LoaderMixin, loader: Loader[Any]) -> None:
        self._trainer = trainer
        self._loader = loader

    def __len__(self) -> int:
        if self._loader.epochs is not None:
            return len(self._loader)
        return math.ceil(self._loader.num_rows / self._loader.batch_size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        args, done = self._trainer.args, 0
        updates = -(-len(self) // args.gradient_accumulation_steps)
        if not args.ignore_data_skip:
            # The Trainer drops as many batches as the epoch has had. Our position is behind them already, so
            # it gets that many empty ones to drop.
            done = self._trainer.state.global_step % updates * args.gradient_accumulation_steps
        for _ in range(done):
            yield {}
        shifted = self._trainer.model_accepts_loss_kwargs
        for _ in range(len(self) - done):
            batch = next(self._loader, None)
            if batch is None:
                return
            yield model_inputs(batch, shifted=shifted)


def model_inputs(batch: Batch[Any], *, shifted: bool = True) -> dict[str, Any]:
    """A batch as a causal language model of transformers takes it.

    Args:
        batch: of a loader whose arrays are torch tensors.
        shifted: whether the model's loss takes `shift_labels`, labels that are shifted already. Without it, labels
            are aligned with the inputs, the model shifts them, and each row's last label is lost.

    Returns:
        The batch's keys and tensors; see `Batch`.
    """
    inputs = dict(batch)
    if not shifted:
        del inputs["shift_labels"]
        inputs["labels"] = batch.labels.roll(1, dims=-1)
        inputs["labels"][..., 0] = -100
    return inputs


def _check(loader: Loader, args: Any) -> None:
    per_step = args.train_batch_size * args.world_size
    if loader.batch_size != per_step:
        raise ConfigError(
            f"the loader's batch_size is {loader.batch_size}, the Trainer's {args.train_batch_size} a device on "
            f"{args.world_size} processes = {per_step}. Make them equal"
        )
    if loader.world_size != args.world_size or loader.rank != args.process_index:
        raise ConfigError(
            f"the loader reads for rank {loader.rank} of {loader.world_size}, the Trainer is process "
            f"{args.process_index} of {args.world_size}. Make the loader after the TrainingArguments, or give "
            "rank= and world_size="
        )
    if loader.epochs is not None and args.max_steps <= 0 and args.num_train_epochs != 1:
        raise ConfigError(
            f"the loader ends after epochs={loader.epochs}, and num_train_epochs={args.num_train_epochs} wants "
            "that again. Set num_train_epochs=1, or make the loader endless (epochs=None)"
        )
