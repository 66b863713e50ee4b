"""A loader -> the batches of a transformers.Trainer, in the loader's order, resumed exactly by the loader's state.

    class MyTrainer(LoaderMixin, SFTTrainer): ...        # or the Trainer of this module
    trainer = Trainer(model=model, args=args, train_dataset=loader)
    trainer.train(resume_from_checkpoint=True)

The checkpoint's trainer_state.json holds the loader's state. A resumed run seeks: no batch is read to be skipped, and
the number of processes may have changed.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import transformers
from accelerate.data_loader import DataLoaderStateMixin
from accelerate.state import GradientState
from torch.utils.data import DataLoader, IterableDataset
from transformers.trainer_callback import ExportableState

from headrace.errors import ConfigError, ResumeError
from headrace.load import Batch, Loader

if TYPE_CHECKING:
    from collections.abc import Iterator


class LoaderMixin:
    """Gives a transformers Trainer a `Loader` as train_dataset and eval_dataset. Put it before the Trainer's class.

    `per_device_train_batch_size` times the processes must be the loader's batch size (`per_device_eval_batch_size` for
    evaluation); an update step takes `gradient_accumulation_steps` of its batches. An epoch of the Trainer is a pass of
    the loader: with epochs=1 and num_train_epochs=3 three epochs, each in its own order. An endless loader needs
    `max_steps`; its epochs are as many batches as hold every row once.
    """

    train_dataset: Any
    eval_dataset: Any
    args: Any
    state: Any
    model_accepts_loss_kwargs: bool
    label_smoother: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if isinstance(self.train_dataset, Loader):
            trainer: Any = self
            trainer.add_callback(LoaderState(self.train_dataset))

    def get_train_dataloader(self) -> Any:
        """Batches of the loader; the parent's where the train_dataset is something else."""
        loader = self.train_dataset
        if not isinstance(loader, Loader):
            trainer: Any = super()
            return trainer.get_train_dataloader()
        _check(loader, self.args, self.args.train_batch_size, "train")
        return DataLoader(_TrainBatches(self, loader), batch_size=None)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """A pass of the loader; the parent's where the eval_dataset is something else."""
        loader = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(loader, str):
            loader = self.eval_dataset[loader]
        if not isinstance(loader, Loader):
            trainer: Any = super()
            return trainer.get_eval_dataloader(eval_dataset)
        _check(loader, self.args, self.args.eval_batch_size, "eval")
        if loader.epochs is None:
            raise ConfigError(
                "the evaluation's loader is endless. Give it epochs=1 (and shuffle=False: the same batches each time)"
            )
        if loader.world_size > 1 and loader.num_rows % loader.batch_size and loader.output.last == "keep":
            raise ConfigError(
                f"evaluation on {loader.world_size} processes: {loader.num_rows} rows do not divide into batches of "
                f'{loader.batch_size}, and a process without a row has no loss. Use BatchOptions(last="drop")'
            )
        return _EvalDataLoader(self, loader)

    def model_inputs(self, batch: Batch[Any]) -> dict[str, Any]:
        """The batch for the model; labels are aligned with the inputs where the loss shifts them."""
        return model_inputs(batch, shifted=self.model_accepts_loss_kwargs and self.label_smoother is None)


class Trainer(LoaderMixin, transformers.Trainer):
    """transformers.Trainer that takes a `Loader` as its train_dataset."""


class LoaderState(transformers.TrainerCallback, ExportableState):
    """Keeps a loader's state in trainer_state.json, and restores it from there."""

    def __init__(self, loader: Loader[Any]) -> None:
        self.loader = loader

    def state(self) -> dict[str, Any]:
        """The loader's state, for trainer_state.json."""
        return {"args": {}, "attributes": {"loader": self.loader.state_dict()}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Seek to the position of the checkpoint.

        Raises:
            ResumeError: the checkpoint has no loader state, or one of another order.
        """
        del args, control
        if state.global_step == 0:
            return
        saved = state.stateful_callbacks.get(type(self).__name__)
        if isinstance(saved, list):
            saved = saved[-1]
        loader_state = (saved or {}).get("attributes", {}).get("loader")
        if loader_state is None:
            raise ResumeError(
                f"the checkpoint of step {state.global_step} holds no loader state: it was written by a Trainer "
                "without headrace's LoaderMixin. Start again without it, or call loader.seek(position)"
            )
        self.loader.load_state_dict(loader_state)


class _TrainBatches(IterableDataset[dict[str, Any]]):
    """One epoch of the Trainer: as many batches as it counts, from the loader's position on."""

    def __init__(self, trainer: LoaderMixin, loader: Loader[Any]) -> None:
        self._trainer = trainer
        self._loader = loader

    def __len__(self) -> int:
        whole = self._loader.batches_per_pass
        return math.ceil(self._loader.num_rows / self._loader.batch_size) if whole is None else whole

    def __iter__(self) -> Iterator[dict[str, Any]]:
        args, done = self._trainer.args, 0
        updates = -(-len(self) // args.gradient_accumulation_steps)
        if not args.ignore_data_skip:
            # The Trainer drops as many batches as the epoch has had. The loader's position is behind them already,
            # so the Trainer gets that many empty ones to drop.
            done = self._trainer.state.global_step % updates * args.gradient_accumulation_steps
        for _ in range(done):
            yield {}
        for batch in itertools.islice(self._loader, len(self) - done):
            yield self._trainer.model_inputs(batch)


class _EvalDataLoader(DataLoader[Any], DataLoaderStateMixin):
    """A pass of a loader; accelerate, which gathers the losses, reads here how many rows the last batch has."""

    def __init__(self, trainer: LoaderMixin, loader: Loader[Any]) -> None:
        super().__init__(_EvalRows(trainer, loader), batch_size=None)
        self._loader = loader
        self.gradient_state = GradientState()
        self.total_batch_size = loader.batch_size
        self._drop_last = loader.output.last != "keep"

    def __len__(self) -> int:
        return self._loader.batches_per_pass or 0

    def __iter__(self) -> Any:
        self.begin()
        try:
            for number, inputs in enumerate(super().__iter__(), start=1):
                self.end_of_dataloader = number == len(self)
                yield inputs
        finally:
            self.end()


class _EvalRows(IterableDataset[dict[str, Any]]):
    def __init__(self, trainer: LoaderMixin, loader: Loader[Any]) -> None:
        self._trainer = trainer
        self._loader = loader

    def __len__(self) -> int:
        return self._loader.num_rows * (self._loader.epochs or 1)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self._loader:
            yield self._trainer.model_inputs(batch)


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


def _check(loader: Loader[Any], args: Any, rows: int, kind: str) -> None:
    if loader.batch_size != rows * args.world_size:
        raise ConfigError(
            f"the loader's batch_size is {loader.batch_size}, the Trainer's per_device_{kind}_batch_size {rows} on "
            f"{args.world_size} processes = {rows * args.world_size}. Make them equal"
        )
    if loader.world_size != args.world_size or loader.rank != args.process_index:
        raise ConfigError(
            f"the loader reads for rank {loader.rank} of {loader.world_size}, the Trainer is process "
            f"{args.process_index} of {args.world_size}. Make the loader after the TrainingArguments, or give "
            "rank= and world_size="
        )
