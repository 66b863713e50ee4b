"""Scores and texts of a run equal those of lm-eval's own hf model on the exported directory; tasks of local files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

import headrace as hr

pytest.importorskip("lm_eval")

TASKS = """
task: sums_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: ["turns", "falls", "stone"]
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc}}]
---
task: sums_rolling
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: word_perplexity}}, {{metric: bits_per_byte}}]
---
task: sums_until
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{text}}}}"
generation_kwargs: {{until: ["\\n", "wheel"], max_gen_toks: 12}}
metric_list: [{{metric: exact_match}}]
"""


@pytest.fixture(scope="module", params=["gpt", "llama"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "a.txt").write_text("the water turns the wheel\nand the wheel turns the stone\n" * 99)
    hr.ingest([folder / "a.txt"], folder / "store", tokenizer="byte")
    size: dict[str, Any] = {
        "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "vocab_size": 257,
        "max_position_embeddings": 64,
    }  # fmt: skip
    if request.param == "gpt":
        shape: Any = hr.GPTConfig(**size)
    else:
        from headrace.model import DecoderConfig

        shape = DecoderConfig(
            model_type="llama", num_key_value_heads=2, head_dim=16, intermediate_size=64, **size
        )
    hr.train(
        folder / "store",
        out=folder / "run",
        model=shape,
        steps=8,
        data=hr.DataOptions(seq_len=64, batch_size=4),
        optimizer=hr.OptimizerOptions(lr=1e-2),
        run=hr.RunOptions(device="cpu", dtype="float32"),
    )
    return folder / "run"


@pytest.mark.filterwarnings("ignore")  # of lm-eval
def test_results_equal_those_of_lm_evals_hf_model_on_the_exported_directory(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lm_eval
    import yaml
    from lm_eval.models.huggingface import HFLM

    from headrace.interop.lm_eval import HeadraceLM
    from headrace.model import load_model, to_hf

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    model, tokenizer = load_model(run)
    exported = to_hf(model, tokenizer, tmp_path / "exported")
    records = [
        {"prompt": f"{'the water ' * n}the wheel", "text": "the wheel turns\nthe stone " * n, "answer": n % 3}
        for n in range(1, 7)  # the longest are cut, and in several windows
    ]
    data = tmp_path / "data.jsonl"
    data.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    tasks = [yaml.safe_load(text) for text in TASKS.format(data=data).split("---")]

    def evaluated(lm: Any) -> tuple[Any, Any]:
        found = lm_eval.simple_evaluate(
            model=lm, tasks=[dict(task) for task in tasks], log_samples=True, bootstrap_iters=0
        )
        answers = {name: [sample["resps"] for sample in rows] for name, rows in found["samples"].items()}
        return found["results"], answers

    ours, our_answers = evaluated(HeadraceLM(run, batch_size=4))
    theirs, their_answers = evaluated(
        HFLM(pretrained=str(exported), device="cpu", dtype="float32", batch_size=4)
    )
    assert our_answers["sums_until"] == their_answers["sums_until"]
    for name in ("sums_choice", "sums_rolling"):
        flat = [pytest.approx(number, rel=1e-5) for number in numbers(their_answers[name])]
        assert numbers(our_answers[name]) == flat
    for name, metrics in theirs.items():
        for metric, value in metrics.items():
            if isinstance(value, float):
                # A perplexity has the scores in its exponent.
                assert ours[name][metric] == pytest.approx(value, rel=1e-4)


def numbers(tree: Any) -> list[float]:
    if isinstance(tree, list | tuple):
        return [number for part in tree for number in numbers(part)]
    return [float(tree)]


def test_what_the_model_does_not_have_is_refused_by_name(run: Path) -> None:
    from headrace.interop.lm_eval import HeadraceLM

    model = HeadraceLM(run)
    with pytest.raises(hr.HeadraceError, match="num_beams"):
        model._prompt(0, "the", {"num_beams": 4})
    with pytest.raises(hr.HeadraceError, match="max_gen_toks is 99"):
        model._prompt(0, "the", {"max_gen_toks": 99})
    with pytest.raises(hr.HeadraceError, match="chat template"):
        model.apply_chat_template([])
    with pytest.raises(hr.HeadraceError, match="revision"):
        HeadraceLM(run, revision="main")
