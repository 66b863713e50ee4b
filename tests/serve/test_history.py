"""The server's recent metrics are there for who comes later: rates, quantiles, bounded."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from headrace.serve.history import KEPT_S, MetricsHistory, quantile
from headrace.serve.metrics import read_registry


class Server:
    """Series as the server has them, and a clock."""

    def __init__(self):
        self.registry, self.now = CollectorRegistry(), 1000.0
        self.running = Gauge("num_requests_running", "", registry=self.registry)
        self.tokens = Counter("generation_tokens", "", registry=self.registry)
        self.first = Histogram(
            "time_to_first_token_seconds", "", buckets=(0.1, 0.2, 0.4), registry=self.registry
        )
        self.history = MetricsHistory(lambda: read_registry(self.registry), clock=lambda: self.now)

    def second(self, *, tokens=0, first=()):
        self.tokens.inc(tokens)
        for value in first:
            self.first.observe(value)
        self.now += 1
        self.history.take()


def test_a_rate_is_taken_over_two_seconds():
    server = Server()
    for _ in range(5):
        server.second(tokens=30)
    rates = [sample["generation_tokens_per_second"] for sample in server.history.after(0)]
    assert rates[0] is None
    assert rates[1:] == pytest.approx([30, 30, 30, 30])
    server.second()
    assert server.history.after(server.now - 1)[0]["generation_tokens_per_second"] == pytest.approx(15)


def test_a_quantile_is_of_the_last_ten_seconds():
    server = Server()
    server.second()
    server.second(first=[0.15] * 10)
    median, most = server.history.after(0)[-1]["time_to_first_token_seconds"]
    assert 0.1 < median < most <= 0.2
    for _ in range(12):
        server.second()
    assert server.history.after(0)[-1]["time_to_first_token_seconds"] == [None, None]


def test_it_is_bounded_and_can_be_asked_for_what_is_new():
    server = Server()
    for _ in range(KEPT_S + 50):
        server.second()
    samples = server.history.after(0)
    assert len(samples) == KEPT_S
    assert len(server.history._recent) < 20
    assert [one["time"] for one in server.history.after(samples[-3]["time"])] == [
        one["time"] for one in samples[-2:]
    ]


@given(values=st.lists(st.floats(0.001, 10), min_size=1, max_size=50), q=st.sampled_from([0.5, 0.95]))
def test_a_quantile_is_in_the_bucket_of_the_true_one(values, q):
    bounds = [0.01 * 2**i for i in range(11)]
    counts = {bound: sum(value <= bound for value in values) for bound in bounds} | {math.inf: len(values)}
    true = sorted(values)[math.ceil(q * len(values)) - 1]
    found = quantile(q, counts, {})
    low, high = max([0.0, *(b for b in bounds if b < true)]), min(b for b in bounds if b >= true)
    assert low <= found <= high


def test_nothing_counted_is_no_quantile():
    assert quantile(0.5, {}, {}) is None
    assert quantile(0.5, {1.0: 3, math.inf: 3}, {1.0: 3, math.inf: 3}) is None
    assert quantile(0.5, {1.0: 0, math.inf: 3}, {}) == 1.0
