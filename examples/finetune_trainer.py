"""A Hugging Face model and texts -> a finetuned model, by transformers.Trainer with headrace's order and resume.

    python examples/finetune_trainer.py --model gpt2-dir --texts 'corpus/*.jsonl.gz' --out tuned --steps 100

Documents are packed whole into rows, and attention does not cross from one to the next: position ids start anew at each
document. Run it again after a kill: ingest and training continue where they stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import transformers
from transformers.trainer_utils import get_last_checkpoint

import headrace as hr
from headrace.interop.hf import Trainer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a directory with config.json, weights and tokenizer")
    parser.add_argument("--texts", required=True, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=8, help="rows a device")
    asked = parser.parse_args()

    store = hr.ingest(asked.texts, asked.out / "store", tokenizer=asked.model)
    print(f"{store.documents:,} documents, {store.tokens:,} tokens")

    arguments = transformers.TrainingArguments(
        str(asked.out),
        per_device_train_batch_size=asked.batch_size,
        max_steps=asked.steps,
        save_steps=max(1, asked.steps // 4),
        save_total_limit=2,
        learning_rate=1e-4,
        logging_steps=10,
        report_to=[],
        use_cpu=not torch.cuda.is_available(),
    )
    loader = hr.Loader(
        hr.Store.open(asked.out / "store"),
        seq_len=asked.seq_len,
        batch_size=asked.batch_size * arguments.world_size,
        seed=7,
        packing="best_fit",
        output=hr.BatchOptions(padding_free=True, position_ids=True, cu_seqlens=True),
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(asked.model)
    trainer = Trainer(model=model, args=arguments, train_dataset=loader)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(asked.out)))
    trainer.save_model(str(asked.out / "final"))
    transformers.AutoTokenizer.from_pretrained(asked.model).save_pretrained(str(asked.out / "final"))
    loader.close()


if __name__ == "__main__":
    main()
