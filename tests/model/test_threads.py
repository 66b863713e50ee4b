"""threads.py: torch takes no more threads than this process may use."""

import pytest
import torch

from headrace.model import threads


@pytest.fixture
def num_threads():
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def test_torch_takes_no_more_threads_than_the_quota_allows(num_threads, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(4)
    monkeypatch.setattr(threads, "available_cores", lambda: 3)
    threads.limit_threads()
    assert torch.get_num_threads() == 3
    monkeypatch.setattr(threads, "available_cores", lambda: 64)
    threads.limit_threads()
    assert torch.get_num_threads() == 3


def test_a_number_of_threads_that_the_user_has_set_stays(num_threads, monkeypatch):
    torch.set_num_threads(4)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    monkeypatch.setattr(threads, "available_cores", lambda: 1)
    threads.limit_threads()
    assert torch.get_num_threads() == 4
