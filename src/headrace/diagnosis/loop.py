"""A loader and its user's loop -> the same batches, once each and in order, and a `Diagnosis` of where time goes.

    loop = hr.diagnose(loader)
    for batch in loop:
        train(batch)
    print(loop.result.sentence)

Modules, in reading order:

    options, recorder, session   what is measured; steps by kind; when batches are held and when it ends
    kernel, activity, sampler, worker_sampling   what threads and workers do while the loop waits
    evidence, limiter, advice, model_work, result   what follows
"""

from __future__ import annotations

import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, Self, TypeVar

from headrace.diagnosis.options import DiagnoseOptions
from headrace.diagnosis.result import Diagnosis
from headrace.diagnosis.session import Session
from headrace.errors import ConfigError

T = TypeVar("T")


def diagnose(
    loader: Iterable[T],
    *,
    options: DiagnoseOptions | None = None,
    model: Any = None,
    on_result: Callable[[Diagnosis], None] | None = None,
    verbose: bool = True,
) -> DiagnosedLoader[T]:
    """Measure a loop while it runs: is it bound by its data or by its model, by how much, and what helps?

    Put it around whatever the loop iterates over: a torch DataLoader, a `datasets` object, WebDataset, LitData,
    tf.data, a generator, a `Loader`. The loop gets every batch, once and in order. Some batches are taken into memory
    a few steps early, so that the next steps can be seen without waiting. It measures until the interval is narrow and
    then only passes batches on.

    Args:
        loader: any iterable of batches.
        options: how precisely, and at what cost; see `DiagnoseOptions`.
        model: the torch module that the loop trains, for its FLOPs and MFU.
        on_result: called once, when the result is there.
        verbose: write the result to stderr when it is there.

    Returns:
        An iterable like the loader; `.result` is the `Diagnosis`.

    Raises:
        ConfigError: the loader cannot be iterated.
    """
    return DiagnosedLoader(loader, options=options, model=model, on_result=on_result, verbose=verbose)


class DiagnosedLoader(Generic[T]):
    """A loader, and measurements of the loop over it. Other attributes are the loader's own."""

    def __init__(
        self,
        loader: Iterable[T],
        *,
        options: DiagnoseOptions | None = None,
        model: Any = None,
        on_result: Callable[[Diagnosis], None] | None = None,
        verbose: bool = True,
        clock: Callable[[], float] = time.perf_counter,
        observe: bool = True,
    ) -> None:
        if not hasattr(loader, "__iter__"):
            raise ConfigError(
                f"diagnose: {type(loader).__name__} cannot be iterated. Give what stands behind `in` in the training "
                "loop: for batch in headrace.diagnose(loader)"
            )
        if options is not None and not isinstance(options, DiagnoseOptions):
            raise ConfigError(f"options={options!r}: expected headrace.DiagnoseOptions(...)")
        self.loader = loader
        self._options = options or DiagnoseOptions()
        self._model = model
        self._report = ResultReport(on_result, verbose=verbose)
        self._clock = clock
        self._observe = observe
        self._session: Session | None = None
        self._newest: Callable[[], _DiagnosedIterator[T] | None] = lambda: None

    @property
    def is_over(self) -> bool:
        """Whether measuring has ended, so that `result` is final."""
        return self._session is not None and self._session.is_over

    @property
    def result(self) -> Diagnosis:
        """The diagnosis. Measuring ends when it is asked for; `on_result` is called when the interval is narrow.

        Raises:
            ConfigError: no loop has begun.
        """
        if self._session is None:
            raise ConfigError(
                "diagnose: no batch was taken yet, so there is nothing to say. Loop over it first"
            )
        return self._session.finish()

    def __iter__(self) -> Iterator[T]:
        """A loop over the loader; a loop over a generator goes on where the last one was left."""
        if self._session is None:
            self._session = self._begin()
            weakref.finalize(self, self._session.finish)
        newest = self._newest()
        if newest is not None and newest.is_resumable:
            return newest
        iterator = _DiagnosedIterator(self, self._session)
        # An iterator of its own is gone with its loop; one over a generator holds batches for the next loop.
        self._newest = (lambda: iterator) if iterator.is_resumable else weakref.ref(iterator)
        return iterator

    def __len__(self) -> int:
        """The loader's length.

        Raises:
            TypeError: it has none.
        """
        loader: Any = self.loader
        return len(loader)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "loader":
            raise AttributeError(name)
        return getattr(self.loader, name)

    def state_dict(self) -> Any:
        """The loader's state at the last batch that the loop was given, whatever is held in memory.

        Raises:
            AttributeError: the loader has no state.
        """
        newest = self._newest()
        if newest is not None and newest.states:
            return newest.states[0]
        loader: Any = self.loader
        return loader.state_dict()

    def _begin(self) -> Session:
        return Session(
            self._options,
            waits_only=_waits_only(self.loader),
            length=_length(self.loader),
            clock=self._clock,
            observe=self._observe,
            model=self._model,
            on_result=self._report,
        )


class ResultReport:
    """Writes a result to stderr and passes it on; it has no reference to the loader, which may be dropped before."""

    def __init__(self, on_result: Callable[[Diagnosis], None] | None, *, verbose: bool) -> None:
        self._on_result = on_result
        self._verbose = verbose

    def __call__(self, result: Diagnosis) -> None:
        """Called once, when there is a result."""
        if self._verbose:
            print(f"headrace diagnose: {result.to_text()}", file=sys.stderr)  # noqa: T201  # what it is for
        if self._on_result is not None:
            self._on_result(result)


class _DiagnosedIterator(Generic[T]):
    """One loop over the loader."""

    def __init__(self, owner: DiagnosedLoader[T], session: Session) -> None:
        self._owner = owner  # lives as long as its loop
        self._loader = loader = owner.loader
        self._session = session
        self._held: deque[T] = deque()
        self.states: deque[Any] = deque()
        """The loader's state before each batch that is held."""
        self._error: BaseException | None = None
        self._first = True
        self._iterator = self._open()
        self._is_one_shot = self._iterator is loader

    @property
    def is_resumable(self) -> bool:
        """Whether a new loop goes on with this one's batches: the loader is an iterator itself."""
        return self._is_one_shot

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        session = self._session
        if session.is_over:
            return self._held_batch() if self._held or self._error is not None else next(self._iterator)
        session.end_step(holds=len(self._held))
        try:
            return self._measured_batch()
        except BaseException:
            session.set_waiting(waiting=False)
            raise

    def _open(self) -> Iterator[T]:
        session = self._session
        undo = session.sample_workers(self._loader)
        try:
            iterator = iter(self._loader)
        finally:
            if undo is not None:
                undo()
        if not session.is_over:
            session.begin_pass(sampled_workers=undo is not None)
        return iterator

    def _measured_batch(self) -> T:
        session = self._session
        ahead = 0 if self._held else session.batches_ahead
        if ahead and not session.is_over:
            self._take_ahead(ahead)
        requested_s = session.clock()
        free = bool(self._held) or self._error is not None
        ready = None if free else _queue_fill(self._iterator)
        if free:
            batch = self._held_batch()
        else:
            session.set_waiting(waiting=True)
            batch = next(self._iterator)
            session.set_waiting(waiting=False)
        session.begin_step(batch, requested_s, free=free, first=self._first, ready=ready)
        self._first = False
        return batch

    def _take_ahead(self, count: int) -> None:
        """Take batches into memory; an error of the loader is raised after the batches before it."""
        session, start = self._session, self._session.clock()
        save = getattr(self._loader, "state_dict", None)
        session.set_waiting(waiting=True)
        try:
            for _ in range(count):
                state = save() if save is not None else None
                self._held.append(next(self._iterator))
                if save is not None:
                    self.states.append(state)
        except (Exception, StopIteration) as error:  # noqa: BLE001  # raised where the loop would have met it
            self._error = error
        finally:
            session.set_waiting(waiting=False)
            session.add_ahead(session.clock() - start, len(self._held))

    def _held_batch(self) -> T:
        if self._held:
            batch = self._held.popleft()
            if self.states:
                self.states.popleft()
            return batch
        error, self._error = self._error, None
        assert error is not None
        raise error


def _waits_only(loader: object) -> str:
    """Why batches of a loader cannot be taken early; empty where they can."""
    if hasattr(loader, "gradient_state") or hasattr(loader, "end_of_dataloader"):
        return "accelerate looks at the loader's end, which would come early"
    if callable(getattr(loader, "state_dict", None)):
        return (
            'the loader saves its position, which would be ahead of the loop\'s; with method="blocks" save the '
            "state of what diagnose returned"
        )
    return ""


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None


def _queue_fill(iterator: object) -> int | None:
    """Batches that are ready, where a torch DataLoader's iterator says so."""
    queue = getattr(iterator, "_data_queue", None)
    if queue is None:
        return None
    try:
        return int(queue.qsize())
    except (NotImplementedError, OSError):
        return None
