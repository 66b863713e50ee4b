"""A stream of requests and an engine that makes a token a step -> predictions, in the order in which rows end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from headrace.errors import ConfigError
from headrace.generation.request import Request, Token, error_prediction
from headrace.types import Prediction


class SteppingEngine(Protocol):
    """An engine whose caller takes the steps."""

    @property
    def running(self) -> int:
        """Rows that are generated."""

    @property
    def waiting(self) -> int:
        """Requests that have not entered yet."""

    def add(self, request: Request) -> None:
        """Queue a request; ConfigError where it cannot be generated."""

    def step(self) -> Sequence[Token]:
        """Make one token for every row."""


def run_requests(
    engine: SteppingEngine, requests: Iterable[Request], *, batch_size: int
) -> Iterator[Prediction]:
    """Generate for a stream of requests, which is read only as far ahead as a batch needs.

    A request that cannot be generated becomes an error row.
    """
    source = iter(requests)
    more = True
    while more or engine.running or engine.waiting:
        while more and engine.waiting < batch_size:
            request = next(source, None)
            if request is None:
                more = False
                break
            try:
                engine.add(request)
            except ConfigError as error:
                yield error_prediction(request, error)
        for token in engine.step():
            if token.prediction is not None:
                yield token.prediction
