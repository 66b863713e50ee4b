"""Functions in C, built into the wheel -> the same results as the Python beside them, faster.

The extension is optional: where it is absent, or HEADRACE_NATIVE says so, NumPy and Python do the same work. Each
function exists once for each instruction set, and the fastest that this processor has is chosen at run time; all of
them give the same results, bit for bit.

    HEADRACE_NATIVE=auto        the extension where it is, Python elsewhere (the default)
                    require     an error where the extension is absent
                    off         Python, always
                    baseline, avx2, avx512    this instruction set, or an error

At build the same variable decides what is built: `require` fails without a compiler, `off` makes a pure wheel.
"""

from headrace.native.decoder import CacheStruct, LayerStruct, LinearStruct, ShapeStruct, load_decoder
from headrace.native.load import (
    NativeUnavailableError,
    Target,
    available_targets,
    kernels,
    native_target,
    use_target,
)
from headrace.native.permutation import ROUNDS, permute_array, permute_index
from headrace.native.rows import Rows

__all__ = [
    "ROUNDS",
    "CacheStruct",
    "LayerStruct",
    "LinearStruct",
    "NativeUnavailableError",
    "Rows",
    "ShapeStruct",
    "Target",
    "available_targets",
    "kernels",
    "load_decoder",
    "native_target",
    "permute_array",
    "permute_index",
    "use_target",
]
