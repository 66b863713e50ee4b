"""A store -> a model, by Hugging Face accelerate: any number of processes, epochs, exact resume.

    python examples/accelerate_loop.py --store store --epochs 3
    torchrun --nproc-per-node 2 examples/accelerate_loop.py --store store --epochs 3     # continues, on two ranks

`accelerator.prepare` takes the loader itself, not a DataLoader: it shards by itself, and its state is saved with
the model's by `register_for_checkpointing`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import transformers
from accelerate import Accelerator

import headrace as hr


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument(
        "--steps", type=int, default=10**9, help="stop after so many steps of all runs together"
    )
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=16, help="rows of all processes together")
    parser.add_argument("--checkpoint", type=Path, default=Path("accelerate-loop"))
    options = parser.parse_args()

    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    store = hr.Store.open(options.store)
    loader = hr.Loader(
        store,
        seq_len=options.seq_len,
        batch_size=options.batch_size,
        seed=7,
        epochs=1,  # one pass of the loader is one epoch
        output=hr.BatchOptions(device=accelerator.device),
    )
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=2, n_embd=64, n_head=2, n_positions=options.seq_len, vocab_size=store.vocab_size,
        bos_token_id=store.eos_id, eos_token_id=store.eos_id,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    accelerator.register_for_checkpointing(loader)
    if options.checkpoint.exists():
        accelerator.load_state(str(options.checkpoint))

    # Each pass ends with a batch of the rows that are left.
    steps_per_epoch = -(-loader.num_rows // options.batch_size)
    for epoch in range(loader.epoch, options.epochs):
        for batch in loader:
            loss = model(**batch).loss
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            steps = epoch * steps_per_epoch + batch.position % loader.num_rows // options.batch_size + 1
            accelerator.print(f"step {steps} epoch {epoch} loss {loss:.3f} rows {batch.rows.tolist()[:2]}...")
            if steps % 50 == 0 or steps == options.steps:
                accelerator.save_state(str(options.checkpoint))
            if steps == options.steps:
                return


if __name__ == "__main__":
    main()
