"""torch's OpenMP -> the extension that decodes one row of a decoder-only model, bound to torch's threads.

A second OpenMP library in the process would compete with torch for the cores. The extension links none: it is given
the addresses of the functions in the library that torch has loaded.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from typing import Any, Final

from headrace.native.load import NativeUnavailableError, extension, native_target

FUNCTIONS: Final = ("GOMP_parallel", "GOMP_barrier", "omp_get_thread_num", "omp_get_num_threads")


class ShapeStruct(ctypes.Structure):
    """What all layers have in common; `Shape` in c/decoder_types.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("layers", "hidden_size", "heads", "kv_heads", "head_size")),
        *((name, ctypes.c_int64) for name in ("intermediate_size", "gated", "centred")),
        *((name, ctypes.c_float) for name in ("eps", "scale")),
    )


class LinearStruct(ctypes.Structure):
    """A weight and its layout; `Linear` in c/decoder_types.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "bias")),
        *((name, ctypes.c_int64) for name in ("outs", "ins", "block", "stride")),
    )


class LayerStruct(ctypes.Structure):
    """A layer's weights; `Layer` in c/decoder_types.h."""

    _fields_ = (
        *((name, LinearStruct) for name in ("qkv", "out", "up", "down")),
        *(
            (name, ctypes.c_void_p)
            for name in ("norm1", "norm1_bias", "norm2", "norm2_bias", "q_norm", "k_norm")
        ),
        ("window", ctypes.c_int64),
    )


class CacheStruct(ctypes.Structure):
    """One row of the cache of keys and values; `Cache` in c/decoder_types.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("keys", "values")),
        *((name, ctypes.c_int64) for name in ("layer_stride", "capacity", "position")),
    )


def load_decoder() -> Any:
    """The module headrace.native._decoder, for the instruction set that `native_target` names.

    Raises:
        NativeUnavailableError: it was not built, is switched off, or torch has no OpenMP that it can use.
        ConfigError: HEADRACE_NATIVE requires what is not there.
    """
    target = native_target()
    if target == "off":
        raise NativeUnavailableError("without the extension in C")
    module = _bound()
    module.use_target(target)
    return module


@functools.cache
def _bound() -> Any:
    module = extension("_decoder")
    structures = (ShapeStruct, LinearStruct, LayerStruct, CacheStruct)
    assert module.struct_sizes() == tuple(map(ctypes.sizeof, structures)), (
        "decoder_types.h and decoder.py differ"
    )
    try:
        import torch  # noqa: F401  # loads its OpenMP
    except ImportError as error:
        raise NativeUnavailableError(f"torch is not installed: {error}") from error
    suffix = "dylib" if sys.platform == "darwin" else "so"
    try:
        # Found by name among the libraries that are loaded; a symbol is looked up in it and in what it depends on.
        library = ctypes.CDLL(f"libtorch_cpu.{suffix}", mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        functions = [ctypes.cast(library[name], ctypes.c_void_p).value for name in FUNCTIONS]
    except (OSError, AttributeError) as error:
        raise NativeUnavailableError(f"torch's OpenMP library cannot be used: {error}") from error
    module.use_openmp(*functions)
    return module
