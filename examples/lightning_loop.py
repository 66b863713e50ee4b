"""A store -> a model, by Lightning's Trainer: epochs, validation, any number of processes, exact resume.

    python examples/lightning_loop.py --store store --epochs 3
    python examples/lightning_loop.py --store store --epochs 3 --devices 2      # continues, on two ranks

The Trainer takes the loader in a DataLoader's place and saves its state in its checkpoints. Loaders are made in
`train_dataloader` and `val_dataloader`, which run in each process once it knows its rank.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import lightning
import torch
import transformers
from lightning.pytorch.callbacks import ModelCheckpoint

import headrace as hr


class Stores(lightning.LightningDataModule):
    """Rows of a store for training, and of another for validation: the same batches each time."""

    def __init__(self, train: str, validation: str, seq_len: int, batch_size: int) -> None:
        super().__init__()
        self.train, self.validation = hr.Store.open(train), hr.Store.open(validation)
        self.shape = {"seq_len": seq_len, "batch_size": batch_size}

    def train_dataloader(self) -> hr.Loader:
        return hr.Loader(self.train, **self.shape, seed=7, epochs=1)

    def val_dataloader(self) -> hr.Loader:
        return hr.Loader(self.validation, **self.shape, epochs=1, shuffle=False)


class Model(lightning.LightningModule):
    """A small GPT-2."""

    def __init__(self, seq_len: int, vocab_size: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        config = transformers.GPT2Config(
            n_layer=2, n_embd=64, n_head=2, n_positions=seq_len, vocab_size=vocab_size,
            bos_token_id=0, eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )  # fmt: skip
        self.gpt = transformers.GPT2LMHeadModel(config)

    def training_step(self, batch: hr.Batch, _index: int) -> torch.Tensor:
        loss: torch.Tensor = self.gpt(**batch).loss
        print(f"step {self.global_step + 1} loss {loss:.4f} rows {batch.rows.tolist()[:4]}...", flush=True)
        return loss

    def validation_step(self, batch: hr.Batch, _index: int) -> None:
        # Rows of a batch weigh alike; each rank has its part of them.
        self.log("val_loss", self.gpt(**batch).loss, batch_size=batch.num_rows, sync_dist=True, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", required=True)
    parser.add_argument("--validation", help="another store; the same by default")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=-1, help="stop after so many steps of all runs together")
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=16, help="rows of all processes together")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("lightning-loop"))
    options = parser.parse_args()

    data = Stores(options.store, options.validation or options.store, options.seq_len, options.batch_size)
    trainer = lightning.Trainer(
        max_epochs=options.epochs,
        max_steps=options.steps,
        accelerator="auto" if torch.cuda.is_available() else "cpu",
        devices=options.devices,
        strategy="ddp" if options.devices > 1 else "auto",
        callbacks=[ModelCheckpoint(options.out, save_last=True, every_n_train_steps=4)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    last = options.out / "last.ckpt"
    trainer.fit(
        Model(options.seq_len, data.train.vocab_size), data, ckpt_path=str(last) if last.exists() else None
    )
    print(f"validation {trainer.callback_metrics.get('val_loss', torch.nan):.4f}")


if __name__ == "__main__":
    main()
