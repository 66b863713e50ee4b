"""A stream of requests -> rows, made by several workers; one more batch engine for a job.

Workers only make rows: one coordinator has the sink, so that a job's commits are the same with any number of
workers. What a worker that died had not given back is made by the one that takes its place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Self

from headrace.errors import HeadraceError, WorkerError
from headrace.generation.request import Request
from headrace.generation.share.crew import Crew, Died
from headrace.generation.share.exchange import About, Answer
from headrace.types import Prediction

MAX_DEATHS = 3
"""In a row, without one finished row in between."""
BATCHES_AHEAD = 3
"""Requests that a worker holds, in batches: one runs, one waits in its engine, one is on its way."""


class Fleet:
    """Workers that have loaded the same model.

    Args:
        crew: not started.
        workers: how many.
        batch_size: of each.

    Raises:
        HeadraceError: what a worker could not load.
        WorkerError: workers die, or have loaded different models.
    """

    def __init__(self, crew: Crew, *, workers: int, batch_size: int) -> None:
        self._crew, self._credit = crew, BATCHES_AHEAD * batch_size
        self._held: dict[int, dict[tuple[str, int], Request]] = {i: {} for i in range(workers)}
        self._told_last: set[int] = set()
        self._deaths = 0
        self.about: About | None = None
        for number in range(workers):
            crew.start(number)
        for _ in range(workers):
            self._greet(*crew.wait())

    def run(self, requests: Iterable[Request]) -> Iterator[Prediction]:
        """Rows in the order in which they end."""
        source = iter(requests)
        again: deque[Request] = deque()
        working = set(self._held)
        for number in sorted(working):
            self._feed(number, source, again)
        while working:
            number, said = self._crew.wait()
            if isinstance(said, HeadraceError):
                raise said
            if isinstance(said, Died):
                self._revive(number, said, again)
                continue
            if isinstance(said, About):  # a worker that took the place of another
                self._check(said)
                self._feed(number, source, again)
                continue
            yield from self._taken(number, said)
            if said.ended:
                working.remove(number)
            else:
                self._feed(number, source, again)

    def close(self) -> None:
        """Stop all workers."""
        self._crew.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _taken(self, number: int, answer: Answer) -> Iterator[Prediction]:
        held = self._held[number]
        for row in answer.rows:
            if held.pop((row.prompt_id, row.sample_index), None) is not None:
                self._deaths = 0
                yield row

    def _feed(self, number: int, source: Iterator[Request], again: deque[Request]) -> None:
        held = self._held[number]
        if number in self._told_last:
            self._crew.begin(number, (), last=False)
            return
        room = self._credit - len(held)
        fresh = [again.popleft() for _ in range(min(room, len(again)))]
        fresh += islice(source, room - len(fresh))
        last = len(fresh) < room
        if last:
            self._told_last.add(number)
        held.update((request.key, request) for request in fresh)
        self._crew.begin(number, fresh, last=last)

    def _revive(self, number: int, died: Died, again: deque[Request]) -> None:
        self._deaths += 1
        if self._deaths >= MAX_DEATHS:
            raise WorkerError(
                f"generate: workers died {MAX_DEATHS} times without making a row, the last one with {died.how}. "
                f"Out of memory? Use fewer workers or a smaller batch_size. What is stored is kept: run the same "
                f"command again."
            )
        again.extend(self._held[number].values())
        self._held[number].clear()
        self._told_last.discard(number)
        self._crew.start(number)

    def _greet(self, number: int, said: object) -> None:
        if isinstance(said, HeadraceError):
            raise said
        if isinstance(said, Died):
            raise WorkerError(f"generate: worker {number} died while it loaded the model, with {said.how}.")
        assert isinstance(said, About)
        self._check(said)

    def _check(self, about: About) -> None:
        if self.about is None:
            self.about = about
        elif self.about != about:
            raise WorkerError(
                f"generate: workers have different models: {self.about} and {about}. Give every node the same "
                f"directory and the same dtype."
            )
