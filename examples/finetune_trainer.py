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
    options = parser.parse_args()

    store = hr.ingest(options.texts, options.out / "store", tokenizer=options.model)
    print(f"{store.documents:,} documents, {store.tokens:,} tokens")

    arguments = transformers.TrainingArguments(
        str(options.out),
        per_device_train_batch_size=options.batch_size,
        max_steps=options.steps,
        save_steps=max(1, options.steps // 4),
        save_total_limit=2,
        learning_rate=1e-4,
        logging_steps=10,
        report_to=[],
        use_cpu=not torch.cuda.is_available(),
    )
    loader = hr.Loader(
        hr.Store.open(options.out / "store"),
        seq_len=options.seq_len,
        batch_size=options.batch_size * arguments.world_size,
        seed=7,
        packing="best_fit",
        output=hr.BatchOptions(padding_free=True, position_ids=True, cu_seqlens=True),
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(options.model)
    trainer = Trainer(model=model, args=arguments, train_dataset=loader)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(options.out)))
    trainer.save_model(str(options.out / "final"))
    transformers.AutoTokenizer.from_pretrained(options.model).save_pretrained(str(options.out / "final"))
    loader.close()


if __name__ == "__main__":
    main()
