"""Memory that a step frees serves the next one, and goes back when training ends."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc is what it tunes")
# In a process of its own: what other tests left on the heap would serve some of the blocks.
PROGRAM = """
import resource
import torch
from headrace.training.step.memory import freed_memory_kept

def touched(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(64 << 20, dtype=torch.uint8)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / ((64 << 20) / resource.getpagesize())

print(touched(4))
with freed_memory_kept(torch.device("cpu")):
    touched(8)
    print(touched(4))
print(touched(4))
"""


def test_freed_memory_is_handed_out_again_within_and_given_back_after() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    before, within, after = (float(line) for line in done.stdout.split())
    assert before > 3.9
    assert within < 0.1
    assert after > 0.9  # what was kept went back: at least one block's pages are touched anew
