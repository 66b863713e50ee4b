"""diagnose_callbacks.py: real trainers with a slow dataset are told so, and train as they do without."""

from __future__ import annotations

import time
import warnings

import pytest

torch = pytest.importorskip("torch")
from headrace.diagnosis import DiagnoseOptions  # noqa: E402  # after the check for torch
from headrace.interop.diagnose_callbacks import lightning_callback, transformers_callback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
OPTIONS = DiagnoseOptions(warmup_steps=2)


class SlowRows(torch.utils.data.Dataset):
    """Each row takes at least as long as what came between it and the row before, on however busy a machine."""

    def __init__(self):
        self.given_s = time.perf_counter()

    def __len__(self):
        return 40

    def __getitem__(self, index):
        time.sleep(
            max(0.01, time.perf_counter() - self.given_s)
        )  # what the test is about: a loader that waits
        self.given_s = time.perf_counter()
        return {"input_ids": torch.full((4,), index % 7), "labels": torch.full((4,), index % 7)}


def test_the_trainer_of_transformers_is_told_that_it_waits(tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=1, n_embd=8, n_head=1, n_positions=8, vocab_size=11)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=1, max_steps=30, report_to=[], use_cpu=True,
        disable_tqdm=True, save_strategy="no", logging_steps=5,
    )  # fmt: skip
    callback = transformers_callback(options=OPTIONS)
    trainer = transformers.Trainer(
        model=transformers.GPT2LMHeadModel(config),
        args=arguments,
        train_dataset=SlowRows(),
        callbacks=[callback],
    )
    trainer.train()
    assert trainer.state.global_step == 30
    result = callback.result
    assert result.steps >= 10
    assert result.stall.high > 0.2
    assert result.method == "waits"
    assert "the trainer fetches its batches itself" in result.note
    assert "headrace diagnose: " in capsys.readouterr().err


def test_lightning_is_told_that_it_waits():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lightning = pytest.importorskip("lightning")

    class Model(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(11, 11)

        def training_step(self, batch, index):
            return self.embedding(batch["input_ids"]).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    callback = lightning_callback(options=OPTIONS, verbose=False)
    trainer = lightning.Trainer(
        max_steps=30, callbacks=[callback], accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(Model(), torch.utils.data.DataLoader(SlowRows(), batch_size=1))
    assert callback.result.steps >= 10
    assert callback.result.stall.high > 0.2
