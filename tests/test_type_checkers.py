"""What type checkers know of the objects that users hold: never Any."""

from __future__ import annotations

import re
import subprocess
import sys
import typing
from pathlib import Path

import pyarrow as pa
import pytest

import headrace as hr

ROOT = Path(__file__).parent.parent
TENSOR, ARRAY = r"torch\._tensor\.Tensor", r"numpy\.ndarray\[.*numpy\.integer\[Any\]\]\]"

# An expression -> its type, as mypy writes it.
KNOWN = {
    "next(loader)": rf"headrace\.load\.batch\.Batch\[{TENSOR}\]",
    "next(iter(loader))": rf"headrace\.load\.batch\.Batch\[{TENSOR}\]",
    "[batch for batch in loader][0]": rf"headrace\.load\.batch\.Batch\[{TENSOR}\]",
    "next(loader).input_ids": TENSOR,
    "next(loader)['labels']": TENSOR,
    "next(loader).position_ids": rf"{TENSOR} \| None",
    "next(loader).to('cuda')": rf"headrace\.load\.batch\.Batch\[{TENSOR}\]",
    "next(loader).rows": r"numpy\.ndarray\[.*",
    "next(arrays).input_ids": ARRAY,
    "next(arrays)['labels']": ARRAY,
    "loader.position": "int",
    "loader.epoch": "int",
    "loader.state_dict()": r"dict\[str, int \| str\]",
    "loader.output": r"headrace\.load\.options\.BatchOptions\[.*",
    "loader.reading": r"headrace\.load\.options\.ReadOptions",
    "loader.stages()": r"dict\[str, headrace\.stats\.StageCount\]",
    "store": r"headrace\.store\.\w+\.Store",
    "store.num_tokens": "int",
    "store.num_documents": "int",
    "store.num_shards": "int",
    "store.dtype": r"numpy\.dtype\[.*",
    "store.vocab_size": "int",
    "store.eos_id": "int",
    "store.fingerprint": "str",
    "store.codec": "str",
    "store.snapshot": "int",
    "store.url": "str",
    "store.tokenizer": r"headrace\.tokens\.protocol\.Tokenizer",
    "store.read(0, 9)": r"numpy\.ndarray\[.*",
    "hr.mix({store: 1.0})": r"headrace\.load\.mixture\.Mixture",
    "hr.load_model('run')[0]": r"headrace\.model\.gpt\.GPT \| headrace\.model\.decoder\.Decoder",
}


def test_type_checkers_know_what_users_hold(tmp_path):
    lines = [
        "import headrace as hr",
        'store = hr.Store.open("store")',
        "loader = hr.Loader(store, seq_len=8, batch_size=4, output=hr.BatchOptions(position_ids=True))",
        'numpy = hr.BatchOptions(framework="numpy")',
        "arrays = hr.Loader(store, seq_len=8, batch_size=4, output=numpy)",
        *(f"reveal_type({expression})" for expression in KNOWN),
    ]
    script = tmp_path / "script.py"
    script.write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(script)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    revealed = re.findall(r'script\.py:\d+: note: Revealed type is "(.*)"', done.stdout)
    assert len(revealed) == len(KNOWN), done.stdout + done.stderr
    wrong = {
        expression: got
        for (expression, expected), got in zip(KNOWN.items(), revealed, strict=True)
        if got == "Any" or not re.fullmatch(expected, got)
    }
    assert not wrong


@pytest.mark.parametrize(("function", "result"), [(hr.read_predictions, pa.Table)])
def test_what_has_no_stubs_is_annotated_by_its_own_type(function, result):
    assert typing.get_type_hints(function)["return"] is result
