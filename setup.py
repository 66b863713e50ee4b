"""The extension in C -> a wheel with the stable ABI (Python 3.11 and newer), or a pure wheel.

HEADRACE_NATIVE=auto (the default): with the extension where a compiler and Python's headers are, else pure.
HEADRACE_NATIVE=require: an error where it cannot be built.
HEADRACE_NATIVE=off: pure, py3-none-any.

Everything else is in pyproject.toml.
"""

import os
import platform
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import Extension, setup

SETTING = os.environ.get("HEADRACE_NATIVE", "auto").lower() or "auto"
FOLDER = "src/headrace/native/c"
# Same results on every machine: no -march=native, no -ffast-math, no contraction to fused multiply-add.
FLAGS = [
    "-std=c11",
    "-O3",
    "-fno-fast-math",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
]
LINK = ["-Wl,-s"] if sys.platform == "linux" else []


def extensions() -> list[Extension]:
    """The modules in C; none where they are switched off or cannot be built."""
    if SETTING == "off" or platform.python_implementation() != "CPython":
        return []
    if SETTING == "auto" and (reason := why_not()):
        sys.stderr.write(
            f"headrace: without its extension in C: {reason}. Python does the same work, slower. "
            "HEADRACE_NATIVE=require makes this an error\n"
        )
        return []
    headers = [str(path) for path in sorted(Path(FOLDER).glob("*.h"))]
    return [
        Extension(
            f"headrace.native.{name}",
            sources=[f"{FOLDER}/{name.removeprefix('_')}.c"],
            depends=headers,
            extra_compile_args=FLAGS,
            extra_link_args=LINK,
            py_limited_api=True,
        )
        for name in ("_kernels", "_decoder")
    ]


def why_not() -> str:
    """Why a module in C cannot be built here; "" where it can."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.c"
        source.write_text("#include <Python.h>\nint probe(void) { return PY_VERSION_HEX != 0; }\n")
        include = ["-I", sysconfig.get_path("include")]
        last = ["-shared", "-fPIC"] if sys.platform == "linux" else ["-c"]
        command = [*compiler, *FLAGS, *include, *last, str(source), "-o", f"{folder}/probe"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            return str(error)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"{compiler[0]} exited with {done.returncode}"])[0]
    return ""


found = extensions()
setup(ext_modules=found, options={"bdist_wheel": {"py_limited_api": "cp311"}} if found else {})
