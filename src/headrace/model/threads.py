"""The processor time that this process may use -> the number of torch's threads."""

from __future__ import annotations

import os

import torch

from headrace.platform import available_cores


def limit_threads() -> None:
    """Let torch use no more threads than there are cores for this process: by affinity and by control groups' quota.

    Threads beyond a quota are stopped together until its next period begins. OMP_NUM_THREADS has precedence.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), available_cores()))
