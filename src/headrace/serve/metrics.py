"""Tokens and requests as they happen -> Prometheus text, by the names that other servers use.

The names behind the prefix are vLLM's, so that a dashboard needs one word changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from headrace.generation import Token
    from headrace.serve.drive import Call, Driver

FIRST_TOKEN_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
)  # fmt: skip
BETWEEN_TOKENS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5,
)  # fmt: skip
REQUEST_S = (
    0.01,
    0.05,
    0.1,
    0.3,
    0.5,
    0.8,
    1,
    1.5,
    2,
    2.5,
    5,
    10,
    15,
    20,
    30,
    40,
    50,
    60,
    120,
    240,
    480,
    960,
)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters of one server.

    Args:
        model: the label of every series.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._registry = CollectorRegistry()
        self._prompt_tokens = self._counter("prompt_tokens", "Prompt tokens taken in.")
        self._generation_tokens = self._counter("generation_tokens", "Tokens generated.")
        self.cancelled = self._counter("request_cancelled", "Samples whose client left before their end.")
        self._first = self._histogram(
            "time_to_first_token_seconds", "From a request's arrival to its first token.", FIRST_TOKEN_S
        )
        self._between = self._histogram(
            "inter_token_latency_seconds", "Between two tokens of a sample.", BETWEEN_TOKENS_S
        )
        self._whole = self._histogram(
            "e2e_request_latency_seconds", "From a request's arrival to a sample's last token.", REQUEST_S
        )
        self._queue = self._histogram(
            "request_queue_time_seconds", "From a request's arrival to the step it entered in.", FIRST_TOKEN_S
        )
        self._success = Counter(
            "headrace:request_success",
            "Samples that ended, by their finish reason.",
            labelnames=("model_name", "finished_reason"),
            registry=self._registry,
        )
        self._answers = Counter(
            "headrace:http_requests",
            "Answers by status.",
            labelnames=("model_name", "status"),
            registry=self._registry,
        )

    def watch(self, driver: Driver) -> None:
        """Read the gauges from a driver, whenever someone asks."""
        for name, text, read in (
            ("num_requests_running", "Samples that decode now.", lambda: driver.running),
            ("num_requests_waiting", "Samples that wait for a place.", lambda: driver.waiting),
        ):
            gauge = Gauge(f"headrace:{name}", text, labelnames=("model_name",), registry=self._registry)
            gauge.labels(self._model).set_function(read)

    def step(self, step: Sequence[tuple[Call, int, Token]], *, began: float, ended: float) -> None:
        """One step of the engine: its tokens and when it ran, in seconds of the calls' clock."""
        made = 0
        for call, choice, token in step:
            before = call.last_at[choice]
            if token.token_id is not None:
                made += 1
                if before:
                    self._between.observe(ended - before)
                else:
                    self._first.observe(ended - call.arrived)
            if not before:
                self._queue.observe(max(0.0, began - call.arrived))
                self._prompt_tokens.inc(len(token.request.token_ids))
            call.last_at[choice] = ended
            if token.prediction is not None:
                self._whole.observe(ended - call.arrived)
                self._success.labels(self._model, token.prediction.finish_reason).inc()
        if made:
            self._generation_tokens.inc(made)

    def answered(self, status: int) -> None:
        """One answer."""
        self._answers.labels(self._model, str(status)).inc()

    def text(self) -> bytes:
        """All series in Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str) -> Counter:
        counter = Counter(f"headrace:{name}", text, labelnames=("model_name",), registry=self._registry)
        return counter.labels(self._model)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        histogram = Histogram(
            f"headrace:{name}", text, labelnames=("model_name",), buckets=buckets, registry=self._registry
        )
        return histogram.labels(self._model)
