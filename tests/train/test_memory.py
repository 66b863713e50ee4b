"""Memory that a step frees serves the next one, and goes back when training ends."""

from __future__ import annotations

import platform
import resource

import pytest
import torch

from headrace.train.memory import freed_memory_kept

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc is what it tunes")
PAGES = (64 << 20) // resource.getpagesize()


def pages_touched(times: int) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(64 << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_freed_memory_is_handed_out_again_within_and_given_back_after() -> None:
    assert pages_touched(4) > 3.9 * PAGES
    with freed_memory_kept(torch.device("cpu")):
        pages_touched(8)
        assert pages_touched(4) < 0.1 * PAGES
    assert pages_touched(4) > 3.9 * PAGES
