"""A page of C is compiled and loaded, or it is said in one line why not; nothing stays on disk."""

import shutil
import stat
import tempfile

import pytest

from headrace.generation.decoding.compiled import NotCompiledError, compile_c

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (cc)")


@pytest.fixture
def page(tmp_path):
    source = tmp_path / "page.c"
    source.write_text("int times(int x) { return FACTOR * x; }\n")
    return source


@needs_compiler
def test_its_functions_are_called_with_what_was_defined(page, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    assert compile_c(page, "FACTOR=3").times(7) == 21
    assert compile_c(page, "FACTOR=5").times(7) == 35
    assert list(scratch.iterdir()) == []


@needs_compiler
def test_what_does_not_compile_is_said_in_the_compilers_first_line(page):
    with pytest.raises(NotCompiledError, match=r"cc: exit 1: .*page\.c") as caught:
        compile_c(page)
    assert "\n" not in str(caught.value)


def test_a_missing_compiler_is_named(page, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler -m64")
    with pytest.raises(NotCompiledError, match="no C compiler \\(no-such-compiler\\)"):
        compile_c(page, "FACTOR=3")


def test_a_compiler_that_makes_nothing_that_can_be_loaded_is_named(page, tmp_path, monkeypatch):
    fake = tmp_path / "fakecc"
    fake.write_text('#!/bin/sh\nwhile [ $# -gt 0 ]; do [ "$1" = -o ] && echo text > "$2"; shift; done\n')
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CC", str(fake))
    with pytest.raises(NotCompiledError, match="fakecc: what it made cannot be loaded"):
        compile_c(page, "FACTOR=3")
