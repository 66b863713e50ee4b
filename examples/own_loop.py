"""A store -> a model, by a training loop of your own: plain PyTorch, any number of processes, exact resume.

    python examples/own_loop.py --store store --steps 200
    torchrun --nproc-per-node 2 examples/own_loop.py --store store --steps 200      # goes on, on two ranks

Kill it and run it again, on another number of processes: the loader's state is one integer, and the global
batches are the same. Nothing here but the Loader is headrace's; the model is transformers' GPT-2.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
import transformers
from torch.nn.parallel import DistributedDataParallel

import headrace as hr


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=16, help="rows of all processes together")
    parser.add_argument("--checkpoint", type=Path, default=Path("own-loop.pt"))
    options = parser.parse_args()

    many = "RANK" in os.environ
    if many:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    device = (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else "cpu"
    )

    store = hr.Store.open(options.store)
    # Rank and number of ranks are those of torch.distributed.
    loader = hr.Loader(
        store,
        seq_len=options.seq_len,
        batch_size=options.batch_size,
        seed=7,
        output=hr.BatchOptions(device=device),
    )

    torch.manual_seed(0)
    shape = transformers.GPT2Config(
        n_layer=2, n_embd=64, n_head=2, n_positions=options.seq_len, vocab_size=store.vocab_size,
        bos_token_id=store.eos_id, eos_token_id=store.eos_id,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(shape).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    if options.checkpoint.exists():
        saved = torch.load(options.checkpoint, map_location=device)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])
    parallel = DistributedDataParallel(model) if many else model

    while (step := loader.position // loader.batch_size) < options.steps:
        batch = next(loader)
        logits = parallel(input_ids=batch.input_ids).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loader.rank == 0:
            print(f"step {step + 1} loss {loss.item():.3f} rows {batch.rows.tolist()[:4]}...", flush=True)
            if (step + 1) % 50 == 0 or step + 1 == options.steps:
                whole = {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "loader": loader.state_dict(),
                }
                torch.save(whole, options.checkpoint.with_suffix(".new"))
                options.checkpoint.with_suffix(".new").replace(options.checkpoint)
    loader.close()
    if many:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
