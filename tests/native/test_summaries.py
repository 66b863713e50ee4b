"""Every summary, and `headrace inspect`, says which implementation ran (native/load.py)."""

import dataclasses

import pytest

from headrace import ingest
from headrace.generation.job import GenerateSummary
from headrace.ingestion.job.summary import IngestSummary
from headrace.native import use_target
from headrace.store import Store, StoreReport, inspect_store


@pytest.mark.parametrize("summary", [IngestSummary, GenerateSummary, StoreReport])
def test_a_summary_has_a_field_for_it(summary):
    assert "native" in {field.name for field in dataclasses.fields(summary)}


def test_the_summary_of_a_run_has_a_field_for_it():
    pytest.importorskip("torch")
    from headrace.training.loop import RunSummary

    assert "native" in {field.name for field in dataclasses.fields(RunSummary)}


def test_ingest_and_inspect_say_what_ran(target, tmp_path):
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "one"}\n{"text": "two"}\n')
    summary = ingest(source, tmp_path / "store", tokenizer="byte")
    assert summary.native == target
    assert summary.to_json()["native"] == target
    with Store.open(tmp_path / "store") as store:
        assert inspect_store(store).native == target
    with use_target("off"):
        assert ingest(source, tmp_path / "store2", tokenizer="byte").native == "off"
