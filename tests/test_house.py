"""The walls: what is public, what imports what, what a bare core needs, what no file may name."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import headrace

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )


def test_every_public_name_can_be_imported_and_is_documented():
    for name in headrace.__all__:
        value = getattr(headrace, name)
        assert value.__doc__, name
        assert name in headrace.__doc__ or issubclass(value, headrace.HeadraceError), name


def test_public_names_change_only_on_purpose():
    assert headrace.__all__ == [
        "GPT", "Batch", "CheckpointError", "ConfigError", "DocumentError", "GPTConfig", "HeadraceError", "InputError",
        "Loader", "ManifestError", "OrderError", "ResumeError", "ShardError", "SinkError", "SourceError", "SpaceError",
        "Store", "StoreError", "TokenizerError", "WorkerError", "generate", "ingest", "load_model", "load_tokenizer",
        "mix", "read_predictions", "report", "train", "train_tokenizer",
    ]  # fmt: skip


def test_no_public_name_is_also_a_folder():
    """`import headrace.training` never changes what `headrace.train` is."""
    folders = {path.name for path in (ROOT / "src/headrace").iterdir()}
    assert not folders & set(headrace.__all__)


def test_the_core_imports_no_framework():
    """Ingest, store, order, load, sink, tokens, profile and the command line start without torch."""
    done = python(
        "import sys\n"
        "import headrace.cli, headrace.store, headrace.order, headrace.load, headrace.ingestion, headrace.tokens\n"
        "import headrace.sink, headrace.profile\n"
        "found = {'torch', 'jax', 'tensorflow', 'transformers', 'ray', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(found)) or 0)"
    )
    assert done.returncode == 0, done.stderr


def test_imports_go_down():
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_every_file_says_what_goes_in_and_what_comes_out():
    """The first line of a module is a sentence; of a room's modules, `in -> out`."""
    for path in SOURCES:
        doc = ast.get_docstring(ast.parse(path.read_text()))
        assert doc, path
        first = doc.split("\n\n")[0]
        values = path.name in (
            "types.py",
            "document.py",
            "format.py",
            "journal.py",
            "options.py",
            "summary.py",
            "record.py",
        )
        if path.name not in ("__init__.py", "__main__.py") and not values:
            assert "->" in first, f"{path}: the first line does not say in -> out"


def test_no_type_ignore_is_added_unnoticed():
    """A ratchet: lower the number when one goes."""
    found = sum(len(re.findall(r"#\s*type:\s*ignore", path.read_text())) for path in SOURCES)
    assert found <= TYPE_IGNORES


TYPE_IGNORES = 13


def test_no_stub_is_left_in_the_house():
    for path in SOURCES:
        assert not re.search(r"raise NotImplementedError|TODO|FIXME", path.read_text()), path


def test_pins_name_no_package_host():
    for path in [*ROOT.glob("*.txt"), *(ROOT / "bench").glob("*.txt"), ROOT / "pyproject.toml"]:
        for line in path.read_text().splitlines():
            assert "://" not in line, f"{path}: {line}"
            assert not line.startswith(("-i", "--index", "--extra-index", "--find-links")), f"{path}: {line}"
