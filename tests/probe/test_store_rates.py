"""What is measured on a store for a plan: store_rates.py."""

import json

import pytest

import headrace as hr
from headrace.errors import ManifestError
from headrace.plan import StorageOptions, input_output, with_store
from headrace.probe import measure_store


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    lines = [json.dumps({"text": f"document {i} of the store"}) for i in range(3000)]
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    return {
        codec: hr.ingest([folder / "corpus.jsonl"], folder / codec, tokenizer="byte", codec=codec)
        and folder / codec
        for codec in ("none", "lz4", "zstd")
    }


@pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
def test_a_stores_own_size_and_codec_are_those_of_its_files(stores, codec):
    found = measure_store(stores[codec], seconds=0.0)
    with hr.Store.open(stores[codec]) as store:
        assert found.num_tokens == store.num_tokens
        assert found.bytes_per_token * store.num_tokens == pytest.approx(store.nbytes)
    assert found.codec == codec
    assert found.decode_tokens_s > 1e5


def test_a_plan_of_a_store_computes_with_what_was_measured(stores):
    found = measure_store(stores["lz4"], seconds=0.0)
    options = with_store(StorageOptions(), found)
    figures = {
        f.name: f.value
        for f in input_output(
            options,
            parameters=1e9,
            tokens_per_s=1e6,
            nodes=2,
            step_s=1.0,
            tokens=10 * found.num_tokens,
            memory_bytes_s=1e12,
            store=found,
        )
    }
    assert figures["epochs"] == pytest.approx(10)
    assert figures["store"] == pytest.approx(found.num_tokens * found.bytes_per_token / 1e9)
    assert figures["first epoch of a node"] == pytest.approx(figures["store"] / 2)
    assert figures["cores that decode"] == pytest.approx(0.5e6 / found.decode_tokens_s)
    assert {"none, block shuffle", "lz4 (the store, measured), block shuffle", "zstd, block shuffle"} <= set(
        figures
    )


def test_what_was_given_stays(stores):
    found = measure_store(stores["none"], seconds=0.0)
    assert with_store(StorageOptions(bytes_per_token=0.5), found).bytes_per_token == 0.5


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(ManifestError, match="no manifest"):
        measure_store(tmp_path)
