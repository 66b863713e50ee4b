"""transformers.Trainer takes our batches, and a resumed run sees what an uninterrupted one sees."""

import json
import math

import pytest

from headrace.errors import ConfigError, ResumeError
from headrace.load import Loader, ReadOptions

transformers = pytest.importorskip("transformers")
from headrace.interop.hf import LoaderMixin, Trainer, model_inputs  # noqa: E402  # after the check for transformers


def model():
    transformers.set_seed(0)
    config = transformers.GPT2Config(
        n_layer=1, n_embd=16, n_head=2, n_positions=16, vocab_size=257, bos_token_id=256, eos_token_id=256,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def arguments(folder, **changed):
    return transformers.TrainingArguments(
        output_dir=str(folder),
        **{
            "per_device_train_batch_size": 4, "max_steps": 12, "save_steps": 5, "logging_steps": 1,
            "learning_rate": 1e-2, "report_to": [], "use_cpu": True, "disable_tqdm": True, **changed,
        },
    )  # fmt: skip


def losses(trainer):
    return {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}


def run(folder, store, *, resume=None, threads=None, **changed):
    loader = Loader(store, seq_len=15, batch_size=4, seed=3, reading=ReadOptions(threads=threads))
    trainer = Trainer(model=model(), args=arguments(folder, **changed), train_dataset=loader)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_resumed_trainer_has_the_losses_of_an_uninterrupted_one(tmp_path, store, accumulated):
    whole = run(tmp_path / "a", store, gradient_accumulation_steps=accumulated)
    whole.train_dataset.close()  # or it may still be reading ahead while rows are counted
    before = store.rows_read
    resumed = run(
        tmp_path / "b",
        store,
        resume=str(tmp_path / "a" / "checkpoint-5"),
        threads=0,  # or some rows are read ahead
        gradient_accumulation_steps=accumulated,
    )
    assert losses(resumed) == losses(whole)
    assert len(losses(whole)) == 12
    assert resumed.train_dataset.position == 12 * 4 * accumulated
    # Nothing was read to be skipped: seven steps' rows.
    assert store.rows_read - before == 7 * 4 * accumulated


def test_a_trainer_sees_each_row_once_per_epoch(tmp_path, store):
    seen = []

    class Recording(Trainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            seen.extend(tuple(row) for row in inputs["input_ids"].tolist())
            return super().compute_loss(model, inputs, *args, **kwargs)

    loader = Loader(store, seq_len=15, batch_size=4, epochs=1)
    trainer = Recording(
        model=model(), args=arguments(tmp_path, max_steps=-1, num_train_epochs=1), train_dataset=loader
    )
    trainer.train()
    assert len(seen) == loader.num_rows
    assert len(set(seen)) == loader.num_rows


def test_the_loss_is_that_of_our_labels(store):
    import torch

    batch = next(Loader(store, seq_len=15, batch_size=4))
    gpt = model()
    with torch.no_grad():
        logits = gpt(input_ids=batch.input_ids).logits
        want = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten())
        assert gpt(**model_inputs(batch)).loss == pytest.approx(float(want), abs=1e-6)
        shorter = gpt(**model_inputs(batch, shifted=False)).loss
        want = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch.labels[:, :-1].flatten())
        assert shorter == pytest.approx(float(want), abs=1e-6)


def test_a_trainer_is_resumed_in_a_later_epoch(tmp_path, store):
    whole = run(tmp_path / "a", store, max_steps=35, save_steps=30)
    resumed = run(
        tmp_path / "b", store, max_steps=35, save_steps=30, resume=str(tmp_path / "a" / "checkpoint-30")
    )
    assert whole.state.epoch == pytest.approx(35 / math.ceil(whole.train_dataset.num_rows / 4))
    assert resumed.state.epoch == whole.state.epoch
    assert losses(resumed) == losses(whole)


def test_a_checkpoint_without_our_state_is_refused(tmp_path, store):
    run(tmp_path, store, max_steps=5)
    path = tmp_path / "checkpoint-5" / "trainer_state.json"
    state = json.loads(path.read_text())
    del state["stateful_callbacks"]["LoaderState"]
    path.write_text(json.dumps(state))
    with pytest.raises(ResumeError, match="no loader state"):
        run(tmp_path, store, resume=str(tmp_path / "checkpoint-5"))


def test_a_checkpoint_of_another_order_is_refused(tmp_path, store):
    run(tmp_path, store, max_steps=5)
    loader = Loader(store, seq_len=15, batch_size=4, seed=4)
    trainer = Trainer(model=model(), args=arguments(tmp_path), train_dataset=loader)
    with pytest.raises(ResumeError, match="seed"):
        trainer.train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    ("loader", "changed", "named"),
    [
        ({"batch_size": 8}, {}, "batch_size is 8"),
        ({"rank": 1, "world_size": 2}, {}, "rank 1 of 2"),
    ],
)
def test_what_does_not_fit_the_trainer_is_refused(tmp_path, store, loader, changed, named):
    made = Loader(store, **{"seq_len": 15, "batch_size": 4, **loader})
    with pytest.raises(ConfigError, match=named):
        Trainer(model=model(), args=arguments(tmp_path, **changed), train_dataset=made).train()


def test_other_datasets_are_left_to_the_trainer(tmp_path):
    class Mine(LoaderMixin, transformers.Trainer):
        pass

    rows = [{"input_ids": list(range(8)), "labels": list(range(8))}] * 8
    trainer = Mine(model=model(), args=arguments(tmp_path, max_steps=1), train_dataset=rows)
    trainer.train()
    assert trainer.state.global_step == 1


def test_each_epoch_of_the_trainer_is_a_pass_of_the_loader(tmp_path, store):
    seen = []

    class Recording(Trainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            seen.extend(tuple(row) for row in inputs["input_ids"].tolist())
            return super().compute_loss(model, inputs, *args, **kwargs)

    loader = Loader(store, seq_len=15, batch_size=4, epochs=1)
    args = arguments(tmp_path, max_steps=-1, num_train_epochs=3)
    Recording(model=model(), args=args, train_dataset=loader).train()
    rows = loader.num_rows
    epochs = [seen[epoch * rows : (epoch + 1) * rows] for epoch in range(3)]
    assert len(seen) == 3 * rows
    assert len(set(epochs[0])) == rows
    assert set(epochs[0]) == set(epochs[1]) == set(epochs[2])
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_finite_loader_is_resumed_in_the_middle_of_its_second_epoch(tmp_path, store):
    """97 rows in batches of 4: 25 batches an epoch."""

    def trained(folder, resume=None):
        loader = Loader(store, seq_len=15, batch_size=4, epochs=1, seed=3)
        args = arguments(folder, max_steps=-1, num_train_epochs=3, save_steps=35)
        trainer = Trainer(model=model(), args=args, train_dataset=loader)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = trained(tmp_path / "a")
    resumed = trained(tmp_path / "b", resume=str(tmp_path / "a" / "checkpoint-35"))
    assert losses(resumed) == losses(whole)
    assert resumed.train_dataset.position == 3 * resumed.train_dataset.num_rows


def test_an_evaluation_reads_every_row_and_twice_the_same(tmp_path, store):
    import torch

    loader = Loader(store, seq_len=15, batch_size=4, epochs=1, shuffle=False)
    args = arguments(tmp_path, per_device_eval_batch_size=4)
    gpt = model()
    trainer = Trainer(model=gpt, args=args, eval_dataset=loader)
    first, second = trainer.evaluate(), trainer.evaluate()
    assert first["eval_loss"] == second["eval_loss"]
    # The mean over rows, of which all have equally many labels.
    with torch.no_grad():
        total = sum(float(gpt(**batch).loss) * batch.num_rows for batch in loader)
    assert first["eval_loss"] == pytest.approx(total / loader.num_rows, rel=1e-5)


def test_an_endless_loader_is_no_evaluation(tmp_path, store):
    args = arguments(tmp_path, per_device_eval_batch_size=4)
    trainer = Trainer(model=model(), args=args, eval_dataset=Loader(store, seq_len=15, batch_size=4))
    with pytest.raises(ConfigError, match="epochs=1"):
        trainer.evaluate()


def test_label_smoothing_smooths_the_labels_of_the_loader(tmp_path, store):
    """Its shift is undone, so that with factor 0 it would be the plain loss of all places but a row's last."""
    import torch

    loader = Loader(store, seq_len=15, batch_size=4, epochs=1)
    trainer = Trainer(
        model=model(), args=arguments(tmp_path, label_smoothing_factor=1e-9), train_dataset=loader
    )
    inputs = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        logits = trainer.model(input_ids=inputs["input_ids"]).logits[:, :-1]
        expected = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), inputs["input_ids"][:, 1:].flatten()
        )
        got = float(trainer.compute_loss(trainer.model, inputs))
    assert got == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("dataset", ["train_dataset", "eval_dataset"])
def test_transformers_own_trainer_names_ours(tmp_path, store, dataset):
    loader = Loader(store, seq_len=15, batch_size=4, epochs=1)
    trainer = transformers.Trainer(model=model(), args=arguments(tmp_path), **{dataset: loader})
    with pytest.raises(ConfigError, match=r"headrace\.interop\.hf\.Trainer"):
        trainer.train() if dataset == "train_dataset" else trainer.evaluate()
