"""Tokens and responses as they happen -> Prometheus text, with the names that other servers use.

The names after the prefix are vLLM's, so that a dashboard needs one word changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from headrace.generation import Token
from headrace.serve.token_stream import TokenStream

PREFIX = "headrace:"
FIRST_TOKEN_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
)  # fmt: skip
BETWEEN_TOKENS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5,
)  # fmt: skip
REQUEST_S = (
    0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960,
)  # fmt: skip
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Histograms = Mapping[str, Mapping[float, float]]


class Metrics:
    """Counters and histograms of one server.

    Args:
        model: label of every series.
        gauges: name -> (description, function that reads the value now).
    """

    def __init__(
        self, model: str, *, gauges: Mapping[str, tuple[str, Callable[[], float]]] | None = None
    ) -> None:
        self._model = model
        self._registry = CollectorRegistry()
        self._prompt_tokens = self._counter("prompt_tokens", "Prompt tokens processed.")
        self._generation_tokens = self._counter("generation_tokens", "Tokens generated.")
        self._num_looked_up = self._num_found = 0
        self._prefix_queries = self._counter(
            "prefix_cache_queries", "Prompt tokens that were looked up in the prefix cache."
        )
        self._prefix_hits = self._counter(
            "prefix_cache_hits", "Prompt tokens that were found in the prefix cache."
        )
        self.cancelled = self._counter(
            "request_cancelled", "Samples whose client disconnected before their end."
        )
        self._first = self._histogram(
            "time_to_first_token_seconds", "From a request's arrival to its first token.", FIRST_TOKEN_S
        )
        self._between = self._histogram(
            "inter_token_latency_seconds", "Between two tokens of a sample.", BETWEEN_TOKENS_S
        )
        self._request = self._histogram(
            "e2e_request_latency_seconds", "From a request's arrival to a sample's last token.", REQUEST_S
        )
        self._queue = self._histogram(
            "request_queue_time_seconds", "From a request's arrival to its first step.", FIRST_TOKEN_S
        )
        self._success = Counter(
            f"{PREFIX}request_success",
            "Samples that ended, by their finish reason.",
            labelnames=("model_name", "finished_reason"),
            registry=self._registry,
        )
        self._responses = Counter(
            f"{PREFIX}http_requests",
            "Responses by status.",
            labelnames=("model_name", "status"),
            registry=self._registry,
        )
        rate = "Part of the prompt tokens so far that were found in the prefix cache, 0 to 1."
        for name, (text, read) in {**(gauges or {}), "prefix_cache_hit_rate": (rate, self._hit_rate)}.items():
            gauge = Gauge(f"{PREFIX}{name}", text, labelnames=("model_name",), registry=self._registry)
            gauge.labels(model).set_function(read)

    def observe_step(
        self, step: Sequence[tuple[TokenStream, int, Token]], *, started: float, ended: float
    ) -> None:
        """Count one step of the engine: its tokens, and its times on the streams' clock, in seconds."""
        generated = 0
        for stream, choice, token in step:
            before = stream.last_at[choice]
            if token.token_id is not None:
                generated += 1
                if before:
                    self._between.observe(ended - before)
                else:
                    self._first.observe(ended - stream.arrived)
            if not before:
                self._queue.observe(max(0.0, started - stream.arrived))
                self._prompt_tokens.inc(len(token.request.token_ids))
                self._count_prefix(len(token.request.token_ids), token.cached_tokens)
            stream.last_at[choice] = ended
            if token.prediction is not None:
                self._request.observe(ended - stream.arrived)
                self._success.labels(self._model, token.prediction.finish_reason).inc()
        if generated:
            self._generation_tokens.inc(generated)

    def _count_prefix(self, looked_up: int, found: int) -> None:
        self._num_looked_up += looked_up
        self._num_found += found
        self._prefix_queries.inc(looked_up)
        self._prefix_hits.inc(found)

    def count_response(self, status: int) -> None:
        """Count one response."""
        self._responses.labels(self._model, str(status)).inc()

    def text(self) -> bytes:
        """All series in Prometheus' text format."""
        return generate_latest(self._registry)

    def read(self) -> tuple[Mapping[str, float], Histograms]:
        """All values now, see `read_registry`."""
        return read_registry(self._registry)

    def _hit_rate(self) -> float:
        return self._num_found / self._num_looked_up if self._num_looked_up else 0.0

    def _counter(self, name: str, text: str) -> Counter:
        counter = Counter(f"{PREFIX}{name}", text, labelnames=("model_name",), registry=self._registry)
        return counter.labels(self._model)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        histogram = Histogram(
            f"{PREFIX}{name}", text, labelnames=("model_name",), buckets=buckets, registry=self._registry
        )
        return histogram.labels(self._model)


def read_registry(registry: CollectorRegistry) -> tuple[Mapping[str, float], Histograms]:
    """Values by name without the prefix, labels summed; and histograms as upper bound -> count up to it."""
    values: dict[str, float] = {}
    histograms: dict[str, dict[float, float]] = {}
    for metric in registry.collect():
        for sample in metric.samples:
            name, bound = sample.name.removeprefix(PREFIX), sample.labels.get("le")
            if bound is None:
                values[name] = values.get(name, 0.0) + sample.value
            else:
                buckets = histograms.setdefault(name.removesuffix("_bucket"), {})
                buckets[float(bound)] = buckets.get(float(bound), 0.0) + sample.value
    return values, histograms
