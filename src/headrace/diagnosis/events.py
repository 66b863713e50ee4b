"""Events of a trainer that fetches its batches itself -> a diagnosis, by the waits alone.

A trainer calls `ready` when the batches of a step are there and `done` when the step has been taken. What it does after
that (logging, evaluation, saving) ends with `resumed`: it belongs neither to the step nor to the wait for the next.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from headrace.diagnosis.loop import ResultReport
from headrace.diagnosis.options import DiagnoseOptions
from headrace.diagnosis.result import Diagnosis
from headrace.diagnosis.session import Session
from headrace.errors import ConfigError

_WAITS_ONLY = "the trainer fetches its batches itself"


class StepEvents:
    """Events of one training, on the thread that trains.

    Args:
        options: see `DiagnoseOptions`.
        on_result: called once with the diagnosis.
        verbose: write the result to stderr.
        clock: seconds.
        observe: whether threads, processes and counters are observed.
    """

    def __init__(
        self,
        options: DiagnoseOptions | None = None,
        *,
        on_result: Callable[[Diagnosis], None] | None = None,
        verbose: bool = True,
        clock: Callable[[], float] = time.perf_counter,
        observe: bool = True,
    ) -> None:
        if options is not None and not isinstance(options, DiagnoseOptions):
            raise ConfigError(f"options={options!r}: expected headrace.DiagnoseOptions(...)")
        self._options = options or DiagnoseOptions()
        self._report = ResultReport(on_result, verbose=verbose)
        self._clock = clock
        self._observe = observe
        self._session: Session | None = None
        self._undo: Callable[[], None] | None = None
        self._requested_s = 0.0
        self._first = True

    @property
    def result(self) -> Diagnosis:
        """The diagnosis; measuring ends when it is asked for.

        Raises:
            ConfigError: training has not begun.
        """
        if self._session is None:
            raise ConfigError("diagnose: training has not begun, so there is nothing to say")
        return self._session.finish()

    def begin(self, loader: Any = None, *, model: Any = None) -> None:
        """Training begins.

        Args:
            loader: a torch DataLoader whose workers are to be observed; None where it is not known.
            model: the torch module that is trained.
        """
        self._session = Session(
            self._options,
            waits_only=_WAITS_ONLY,
            clock=self._clock,
            observe=self._observe,
            model=model,
            on_result=self._report,
        )
        self._undo = self._session.sample_workers(loader)
        self.begin_pass()

    def begin_pass(self) -> None:
        """A pass over the data begins."""
        if self._session is not None and not self._session.is_over:
            self._session.begin_pass(sampled_workers=self._undo is not None)
            self._first = True
            self.resumed()

    def ready(self, batch: Any = None) -> None:
        """The batches of the next step are there."""
        session = self._session
        if session is None or session.is_over:
            return
        if self._undo is not None:
            self._undo()
            self._undo = None
        session.set_waiting(waiting=False)
        session.begin_step(batch, self._requested_s, free=False, first=self._first, ready=None)
        self._first = False

    def done(self) -> None:
        """The step has been taken."""
        if self._session is not None and not self._session.is_over:
            self._session.end_step(holds=0)
            self.resumed()

    def resumed(self) -> None:
        """Something between two steps is over; what follows is the wait for the next batches."""
        if self._session is not None and not self._session.is_over:
            self._requested_s = self._clock()
            self._session.set_waiting(waiting=True)

    def finish(self) -> None:
        """Training is over."""
        if self._session is not None:
            self._session.finish()
