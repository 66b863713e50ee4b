"""A contestant of conversations.py, inside its environment: a .jsonl -> ids and masks on disk, seconds and a hash."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def ours(source: str, out: str, tokenizer: str, template: str) -> tuple[float, list[tuple[Any, Any]]]:
    """`headrace.ingest` with one worker."""
    import headrace as hr

    start = time.process_time()
    hr.ingest(source, out, tokenizer=tokenizer, workers=1, fields=hr.FieldOptions(template=template))
    seconds = time.process_time() - start
    rows, begin = [], 0
    with hr.Store.open(out) as store:
        ends = store.document_ends(0, store.num_tokens)
        tokens, learned = store.read(0, store.num_tokens), store.learned([0], store.num_tokens)
        for end in ends.tolist():
            # Without the end of document: the template ends with a newline.
            rows.append((tokens[begin : end - 1], learned[begin : end - 1]))
            begin = end
    return seconds, rows


def hf(source: str, out: str, tokenizer: str, template: str) -> tuple[float, list[tuple[Any, Any]]]:
    """datasets.map over apply_chat_template."""
    from datasets import load_dataset
    from transformers import AutoTokenizer

    start = time.process_time()
    theirs = AutoTokenizer.from_pretrained(tokenizer)
    text = Path(template).read_text(encoding="utf-8")
    data = load_dataset("json", data_files=source, split="train", cache_dir=out + "-cache")

    def encode(batch: dict[str, Any]) -> dict[str, Any]:
        got = theirs.apply_chat_template(
            batch["messages"],
            chat_template=text,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        return {"input_ids": got["input_ids"], "mask": got["assistant_masks"]}

    data = data.map(encode, batched=True, remove_columns=data.column_names)
    data.save_to_disk(out)
    seconds = time.process_time() - start
    return seconds, [(row["input_ids"], row["mask"]) for row in data]


def trl(source: str, out: str, tokenizer: str, template: str) -> tuple[float, list[tuple[Any, Any]]]:
    """The preparation that SFTTrainer does when it is made; the model is as small as can be."""
    from datasets import load_dataset
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    theirs = AutoTokenizer.from_pretrained(tokenizer)
    theirs.chat_template = Path(template).read_text(encoding="utf-8")
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(theirs), **shape))
    config = SFTConfig(
        output_dir=out,
        assistant_only_loss=True,
        max_length=None,
        report_to=[],
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
    )
    start = time.process_time()
    data = load_dataset("json", data_files=source, split="train", cache_dir=out + "-cache").remove_columns(
        "id"
    )
    trainer = SFTTrainer(model=model, args=config, train_dataset=data, processing_class=theirs)
    trainer.train_dataset.save_to_disk(out + "-data")
    seconds = time.process_time() - start
    rows = [(row["input_ids"], np.array(row["labels"]) != -100) for row in trainer.train_dataset]
    return seconds, rows


def main() -> None:
    what, *arguments = sys.argv[1:]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    seconds, rows = {"ours": ours, "hf": hf, "trl": trl}[what](*arguments)
    digest = hashlib.blake2b(digest_size=16)
    for ids, mask in rows:
        digest.update(np.asarray(ids, np.int64).tobytes() + np.asarray(mask, np.uint8).tobytes())
    print(json.dumps({"cpu_s": seconds, "rows": len(rows), "hash": digest.hexdigest()}))


if __name__ == "__main__":
    main()
