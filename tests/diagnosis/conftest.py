"""Loops on a clock that only loaders and steps move: no test here waits for real time."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from headrace.diagnosis import DiagnosedLoader, DiagnoseOptions

sys.path.insert(0, str(Path(__file__).parent))  # makes `loop_fakes` importable: test files are no package

from loop_fakes import Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def run_loop(clock):
    """Loop over a loader with steps of `step_s`; returns the batches and the diagnosis."""

    def run(loader, *, step_s=1.0, step=None, **options):
        diagnosed = DiagnosedLoader(
            loader, options=DiagnoseOptions(**options), clock=clock, observe=False, verbose=False
        )
        batches = []
        for number, batch in enumerate(diagnosed):
            batches.append(batch)
            clock.now_s += step(number) if step else step_s
        return batches, diagnosed.result

    return run
