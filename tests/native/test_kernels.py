"""The extension's own interface: buffers of the wrong size are refused before anything is read or written."""

import threading

import numpy as np
import pytest

from headrace.native.load import NativeUnavailableError, extension

KEYS = np.ones(8, np.uint64)
X = np.arange(10, dtype=np.uint64)
LINE = b'{"text":"hello"}\n'


@pytest.fixture(scope="module")
def native():
    try:
        return extension("_kernels")
    except NativeUnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("name", "args", "error"),
    [
        ("permute", (X, np.empty(9, np.uint64), 10, 16, 16, KEYS), ValueError),
        ("permute", (X, np.empty(10, np.uint64), 10, 16, 16, KEYS[:7]), ValueError),
        ("permute", (X, np.empty(10, np.uint64), 10, 16, 0, KEYS), ValueError),
        ("permute", (X, np.empty(10, np.uint64), 10, 16, 2**70, KEYS), OverflowError),
        ("permute", (X, bytes(80), 10, 16, 16, KEYS), BufferError),
        ("permute", (X[::2], np.empty(10, np.uint64), 10, 16, 16, KEYS), ValueError),
        ("permute", (X,), TypeError),
        ("copy_rows", (bytes(99), 100, 1, np.zeros(1, np.int64), 1, bytearray(1)), ValueError),
        ("copy_rows", (bytes(100), 100, 1, np.zeros(2, np.int64), 1, bytearray(1)), ValueError),
        ("copy_rows", (bytes(100), 100, 0, np.zeros(1, np.int64), 1, bytearray(1)), ValueError),
        ("copy_rows", (bytes(100), 100, 1, np.zeros(1, np.int64), 1, bytes(1)), BufferError),
        (
            "parse_json_lines",
            (LINE, 0, b"text", 99, bytearray(16), bytearray(800), bytearray(24)),
            ValueError,
        ),
        ("parse_json_lines", (LINE, 0, b"text", 99, bytearray(99), bytearray(8), bytearray(24)), ValueError),
        (
            "parse_json_lines",
            (LINE, 0, b"text", 99, bytearray(99), bytearray(800), bytearray(16)),
            ValueError,
        ),
        (
            "parse_json_lines",
            (LINE, 99, b"text", 99, bytearray(99), bytearray(800), bytearray(24)),
            ValueError,
        ),
        (
            "parse_json_lines",
            (LINE, -1, b"text", 99, bytearray(99), bytearray(800), bytearray(24)),
            ValueError,
        ),
        (
            "parse_json_lines",
            ("text", 0, b"text", 99, bytearray(99), bytearray(800), bytearray(24)),
            TypeError,
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(native, name, args, error):
    with pytest.raises(error):
        getattr(native, name)(*args)


def test_a_refused_call_keeps_no_buffer(native):
    out = bytearray(16)
    with pytest.raises(ValueError, match="ends has 8 bytes"):
        native.parse_json_lines(LINE, 0, b"text", 99, bytearray(99), out[:8], bytearray(24))
    with pytest.raises(ValueError, match="out has 16 bytes"):
        native.parse_json_lines(LINE, 0, b"text", 99, out, bytearray(800), bytearray(24))
    out.append(1)  # BufferError where a buffer is still exported


def test_an_instruction_set_that_is_not_there_is_refused(native):
    with pytest.raises(ValueError, match="does not have avx9000"):
        native.use_target("avx9000")


def test_threads_run_side_by_side(native):
    """The GIL is released: both threads get the same result from the same input."""
    x, outs = np.arange(100_000, dtype=np.uint64), [np.empty(100_000, np.uint64) for _ in range(4)]
    threads = [
        threading.Thread(target=native.permute, args=(x, out, 100_000, 316, 317, KEYS)) for out in outs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(out, outs[0]) for out in outs)
