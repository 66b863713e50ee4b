"""What tests of several folders share."""

import pytest

from headrace.native import available_targets, use_target

TARGETS = ("off", "baseline", "avx2", "avx512")


@pytest.fixture(params=TARGETS, scope="module")
def target(request):
    """Each implementation in turn: Python, and the extension's for each instruction set that this processor has."""
    if request.param not in available_targets():
        pytest.skip(f"{request.param}: not built, or not on this processor")
    with use_target(request.param):
        yield request.param


@pytest.fixture(params=TARGETS[1:], scope="module")
def native_target(request):
    """The extension's implementations in turn."""
    if request.param not in available_targets():
        pytest.skip(f"{request.param}: not built, or not on this processor")
    with use_target(request.param):
        yield request.param
