"""A model -> its own words, chosen by their likelihood -> a store to train on: the two halves in a ring.

    python examples/self_training.py --model run --prompts prompts.txt --out ring

Every step can be killed and run again: predictions are stored once, the store is the same bytes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import headrace as hr


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a run, or a Hugging Face directory")
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--keep", type=float, default=0.5, help="share of the samples that is kept")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    options = parser.parse_args()

    hr.generate(
        options.model,
        options.prompts,
        options.out / "samples",
        num_samples=options.samples,
        max_new_tokens=options.max_new_tokens,
        sampling=hr.SamplingOptions(temperature=0.8, top_p=0.95, logprobs=True),
    )
    table = hr.read_predictions(options.out / "samples", sort=True)
    table = table.filter(pc.is_null(table["error"]))

    mean = pa.array([sum(values) / max(len(values), 1) for values in table["logprobs"].to_pylist()])
    best_first = pc.sort_indices(pc.negate(mean))
    kept = table.take(best_first[: int(len(table) * options.keep)])
    texts = pc.binary_join_element_wise(kept["prompt"], kept["text"], "")
    pq.write_table(pa.table({"text": texts}), options.out / "kept.parquet")

    own = Path(options.model) / "tokenizer"  # a run has one; a Hugging Face directory is one
    tokenizer = own if own.exists() else options.model
    summary = hr.ingest(options.out / "kept.parquet", options.out / "store", tokenizer=tokenizer)
    print(
        f"{len(table)} samples, {summary.documents} kept, {summary.tokens:,} tokens: train on {options.out / 'store'}"
    )


if __name__ == "__main__":
    main()
