"""Events of transformers' and Lightning's trainers -> a diagnosis: is the training bound by its data or its model?

    trainer = transformers.Trainer(..., callbacks=[transformers_callback()])
    trainer = lightning.Trainer(..., callbacks=[lightning_callback()])

Both write the result to stderr when the interval is narrow or the training ends; `callback.result` has it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from headrace.diagnosis import DiagnoseOptions, Diagnosis, StepEvents


def transformers_callback(
    *,
    options: DiagnoseOptions | None = None,
    on_result: Callable[[Diagnosis], None] | None = None,
    verbose: bool = True,
) -> Any:
    """A TrainerCallback that measures how long updates wait for their batches.

    Args:
        options: see `DiagnoseOptions`; batches are never taken early.
        on_result: called once with the diagnosis.
        verbose: write the result to stderr.
    """
    import transformers

    class DiagnoseCallback(transformers.TrainerCallback):  # type: ignore[misc,unused-ignore]  # no types
        """Waits between the end of an update and the beginning of the next; logging, evaluation, saving left out."""

        events = StepEvents(options, on_result=on_result, verbose=verbose)

        @property
        def result(self) -> Diagnosis:
            """The diagnosis; measuring ends when it is asked for."""
            return self.events.result

        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            del args, state, control
            self.events.begin(given.get("train_dataloader"), model=given.get("model"))

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del args, state, control
            self.events.begin_pass()

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del args, state, control
            self.events.ready()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del args, state, control
            self.events.done()

        def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del args, state, control
            self.events.resumed()

        on_save = on_evaluate = on_log

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del args, state, control
            self.events.finish()

    return DiagnoseCallback()


def lightning_callback(
    *,
    options: DiagnoseOptions | None = None,
    on_result: Callable[[Diagnosis], None] | None = None,
    verbose: bool = True,
) -> Any:
    """A Lightning Callback that measures how long steps wait for their batches.

    Args:
        options: see `DiagnoseOptions`; batches are never taken early.
        on_result: called once with the diagnosis.
        verbose: write the result to stderr.
    """
    from lightning.pytorch import Callback

    class DiagnoseCallback(Callback):
        """Waits between the end of a step and the beginning of the next; validation is left out."""

        events = StepEvents(options, on_result=on_result, verbose=verbose)

        @property
        def result(self) -> Diagnosis:
            """The diagnosis; measuring ends when it is asked for."""
            return self.events.result

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            del trainer
            self.events.begin(model=pl_module)

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            del trainer, pl_module
            self.events.begin_pass()

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            del trainer, pl_module, batch_idx
            self.events.ready(batch)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            del trainer, pl_module
            self.events.done()

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            del trainer, pl_module
            self.events.resumed()

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            del trainer, pl_module
            self.events.finish()

    return DiagnoseCallback()
