"""The demo from end to end (run.py, steps.py), small: everything is made once, and a second call finds it done."""

from __future__ import annotations

import json

import pytest

from headrace.errors import ConfigError, DocumentError, SourceError
from headrace.sink import read_predictions

NAMES = ["corpus", "tokenizer", "ingest", "inspect", "comparison", "train", "generate", "report"]


def files_in(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_text_becomes_a_model_its_predictions_and_a_report(small_demo, output, corpus_file, tmp_path):
    out = tmp_path / "out"
    summary = small_demo([corpus_file], out)

    assert [step.name for step in summary.steps] == NAMES
    assert not any(step.done_before for step in summary.steps)
    page = summary.report.read_text(encoding="utf-8")
    for words in (
        "Compared with the naive loader",
        "Sample predictions",
        "The run spent",
        "code.jsonl.gz",
        "headrace demo",
    ):
        assert words in page
    assert [path.name for path in summary.plots] == ["loss.svg", "stages.svg", "tokens_per_s.svg"]
    keys = read_predictions(out / "predictions").select(["prompt_id", "sample_index", "error"]).to_pylist()
    assert len({(row["prompt_id"], row["sample_index"]) for row in keys}) == len(keys) == 5
    assert all(row["error"] is None for row in keys)
    assert [
        json.loads(line)["step"] for line in (out / "run" / "metrics.jsonl").read_text().splitlines()
    ] == [1, 2, 3, 4]
    assert json.loads(json.dumps(summary.results))["train"]["steps"] == 4
    text = output.getvalue()
    for number, name in enumerate(NAMES, start=1):
        assert f"✓ {number}/8 {name}" in text
    assert str(summary.report.resolve()) in text

    before = files_in(out)
    again = small_demo([corpus_file], out)
    assert all(step.done_before for step in again.steps)
    assert files_in(out) == before

    # A missing file is made again, and only that one.
    summary.report.unlink()
    third = small_demo([corpus_file], out)
    assert [step.name for step in third.steps if not step.done_before] == ["report"]
    assert {name for name, content in files_in(out).items() if before.get(name) != content} <= {
        "demo.json",
        "run/report.html",
        "run/about.json",
    }

    with pytest.raises(ConfigError, match=r"seed was 0, now 1.*--restart"):
        small_demo([corpus_file], out, seed=1)


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [("missing.txt", None, SourceError), ("broken.jsonl", b'{"text": "good"}\n{"text": \n', DocumentError)],
)
def test_text_that_cannot_be_used_ends_the_demo_before_anything_is_recorded(
    small_demo, tmp_path, name, content, error
):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=name):
        small_demo([path], tmp_path / "out")
    done = (
        json.loads((tmp_path / "out" / "demo.json").read_text())["done"]
        if (tmp_path / "out").exists()
        else {}
    )
    assert done == {}


def test_text_that_is_not_one_row_is_refused_before_anything_is_measured(small_demo, tmp_path):
    (tmp_path / "short.txt").write_text("hello, world")
    with pytest.raises(SourceError, match=r"short\.txt: \d+ tokens are not one row of 64"):
        small_demo([tmp_path / "short.txt"], tmp_path / "out")
