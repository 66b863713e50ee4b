"""A page of C is compiled beside the work once that is worth it, and the work goes on where it cannot be."""

import ctypes
import shutil
import threading
from pathlib import Path

import pytest

from headrace.compiled import Beside, compile_c

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (cc)")


@pytest.fixture
def page(tmp_path):
    source = tmp_path / "page.c"
    source.write_text("#include <stdint.h>\nint64_t twice(int64_t x) { return 2 * x; }\n")
    return source


def twice(page, after):
    return Beside(page, "twice", (ctypes.c_int64,), after=after)


def open_files():
    return sorted(int(path.name) for path in Path("/proc/self/fd").iterdir())


@needs_compiler
def test_it_is_compiled_in_a_thread_once_enough_was_done_without_it(page):
    beside = twice(page, after=10)
    beside.done(9)
    assert not [t for t in threading.enumerate() if t.name == "headrace-twice"]
    assert beside.function is None
    beside.done(5)
    for thread in threading.enumerate():
        if thread.name == "headrace-twice":
            thread.join(timeout=60)
    assert beside.function(21) == 42


def test_without_a_compiler_the_work_goes_on(page, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    beside = twice(page, after=1)
    assert beside.compile() is False
    assert beside.function is None


@needs_compiler
def test_a_page_that_does_not_compile_leaves_no_open_file(page):
    page.write_text("nonsense")
    before = open_files()
    assert twice(page, after=1).compile() is False
    assert open_files() == before


@needs_compiler
def test_two_libraries_of_the_same_function_are_two(page, tmp_path):
    other = tmp_path / "other.c"
    other.write_text("int twice(int x) { return 3 * x; }\n")
    first, second = compile_c(page), compile_c(other)
    assert (first.twice(2), second.twice(2)) == (4, 6)
