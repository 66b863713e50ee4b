"""The decoder's module is bound to torch's OpenMP once, and says what is missing where it cannot be."""

import subprocess
import sys

import pytest

from headrace.native import NativeUnavailableError, available_targets, use_target
from headrace.native import decoder as native_decoder
from headrace.native.load import extension


@pytest.fixture
def module():
    try:
        return extension("_decoder")
    except NativeUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture
def unbound():
    native_decoder._bound.cache_clear()
    yield
    native_decoder._bound.cache_clear()


def test_the_process_has_one_openmp_library(module):
    """A second one would compete with torch's for the cores."""
    pytest.importorskip("torch")
    code = (
        "from headrace.native.decoder import load_decoder; load_decoder()\n"
        "files = {line.split()[-1].split('/')[-1] for line in open('/proc/self/maps')}\n"
        "print(sum('omp' in file for file in files))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_without_torch_the_reason_is_given(module, monkeypatch, unbound):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(NativeUnavailableError, match="torch is not installed"):
        native_decoder.load_decoder()


def test_it_runs_the_chosen_instruction_set(module, monkeypatch):
    chosen = []

    class Recorder:
        use_target = staticmethod(chosen.append)

    monkeypatch.setattr(native_decoder, "_bound", Recorder)
    for target in available_targets()[1:]:
        with use_target(target):
            native_decoder.load_decoder()
    assert tuple(chosen) == available_targets()[1:]


def test_calls_that_do_not_fit_are_refused(module):
    pytest.importorskip("torch")
    native_decoder.load_decoder()
    with pytest.raises(TypeError, match="expected 11"):
        module.decode(0, 1)
    with pytest.raises(ValueError, match="form or threads out of range"):
        module.product(4, 1, 0, 0, 0)
    with pytest.raises(ValueError, match="form or threads out of range"):
        module.product(0, 0, 0, 0, 0)
    with pytest.raises(TypeError, match="expected 23"):
        module.run_step(2, 1)


@pytest.mark.parametrize("form", [0, 1, 3])
def test_products_of_many_rows_are_there_for_bfloat16_in_blocks_only(module, form):
    pytest.importorskip("torch")
    native_decoder.load_decoder()
    assert module.multiplies_rows(form) is False
    with pytest.raises(ValueError, match="no products of many rows in this form"):
        module.product_rows(form, 1, 0, 0, 0, 1)
