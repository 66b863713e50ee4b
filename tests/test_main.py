"""__main__.py: files of the current directory are not taken for the libraries that headrace imports."""

import subprocess
import sys
from pathlib import Path

import headrace

SOURCES = str(Path(headrace.__file__).parent.parent)


def headrace_command(*words, cwd):
    return subprocess.run(
        [sys.executable, "-m", "headrace", *words],
        cwd=cwd,
        env={"PYTHONPATH": SOURCES, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_files_named_like_libraries_in_the_current_directory_are_not_imported(tmp_path):
    """Transformers looks for h2, tempfile for random: a user's file of that name ended in its own traceback."""
    for name in ("random", "h2", "queue", "numpy", "typer", "json", "socket"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('of the user')\n")
    (tmp_path / "text.txt").write_text("the wheel\n" * 100)
    done = headrace_command("ingest", "text.txt", "--out", "store", "--workers", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_a_function_of_the_current_directory_is_found_for_map(tmp_path):
    (tmp_path / "steps.py").write_text("def upper(text):\n    return text.upper()\n")
    (tmp_path / "text.txt").write_text("the wheel\n" * 100)
    words = ("ingest", "text.txt", "--out", "store", "--map", "steps:upper", "--workers", "2")
    done = headrace_command(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with headrace.Store.open(tmp_path / "store") as store:
        assert store.tokenizer.decode(store.read(0, 9)) == "THE WHEEL"


def test_headrace_is_found_where_it_lies_in_the_current_directory():
    done = subprocess.run(
        [sys.executable, "-m", "headrace", "--version"],
        cwd=SOURCES,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
