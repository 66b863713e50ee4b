"""Runs of one's own as measured points."""

import json

import pytest

from headrace.errors import ConfigError
from headrace.plan import TrainingJob, search, system_of_hardware
from headrace.plan.constants import shipped
from headrace.plan.hardware import Hardware, gpu_by_name
from headrace.plan.own_runs import add_runs, calibrations, measured_run, processes_of

CPU = Hardware(
    name="a-laptop", arch="cpu", memory_bytes=2**34, bf16_flops=5e10, fp8_flops=5e10, fp4_flops=5e10,
    float32_flops=1e11, memory_bytes_s=1e10, link_bytes_s=1e9, network_bytes_s=1e9, gpus_per_node=2,
)  # fmt: skip


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """No plan of these tests reads the points of the user who runs them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def make_run(path, *, seconds=2.0, steps=10, device="CPU", **layout):
    path.mkdir()
    run = {
        "recipe": {
            "model": {
                "num_hidden_layers": 2, "hidden_size": 256, "num_attention_heads": 4, "vocab_size": 50304,
                "max_position_embeddings": 256,
            },
            "seq_len": 256, "batch_size": 8, "gradient_accumulation_steps": 2, "dtype": "float32",
        },
        "processes": 2, "nodes": 1, "device_name": device,
        "layout": {"dp": 2, "tp": 1, "pp": 1, "shard": "none", **layout},
    }  # fmt: skip
    (path / "run.json").write_text(json.dumps(run))
    lines = [{"step": i + 1, "compute_s": seconds * (9 if i == 0 else 1)} for i in range(steps)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_run_is_a_point_with_its_layout_and_the_median_step(tmp_path):
    run = measured_run(make_run(tmp_path / "run"), hardware=CPU)
    assert (run.step_s, run.steps, run.system, run.dtype) == (2.0, 9, "headrace a-laptop", "float32")
    assert run.layout["micro_batch"] == 2
    assert run.points().gpus == 2
    assert processes_of(tmp_path / "run") == 2


def test_a_pipeline_runs_as_many_microbatches_as_train_takes(tmp_path):
    run = measured_run(make_run(tmp_path / "run", dp=1, pp=2), hardware=CPU)
    assert (run.layout["micro_batch"], run.layout["pp"]) == (1, 2)


def test_a_gpu_of_the_table_needs_no_hardware_file(tmp_path):
    run = measured_run(make_run(tmp_path / "run", device="NVIDIA A100-SXM4-80GB"))
    assert run.hardware.bf16_flops == gpu_by_name("a100-80gb").bf16_flops


@pytest.mark.parametrize("steps", [0, 3])
def test_a_run_of_too_few_steps_is_refused(tmp_path, steps):
    with pytest.raises(ConfigError, match="steps after the first"):
        measured_run(make_run(tmp_path / "run", steps=steps), hardware=CPU)


def test_a_device_that_nothing_describes_is_refused_with_the_cure(tmp_path):
    with pytest.raises(ConfigError, match="--hardware"):
        measured_run(make_run(tmp_path / "run"))


def test_later_plans_of_the_same_system_use_the_runs(tmp_path):
    runs = [measured_run(make_run(tmp_path / f"run{i}", seconds=20.0), hardware=CPU) for i in range(2)]
    file = tmp_path / "mine.json"
    add_runs(runs[:1], file)
    add_runs(runs, file)  # the first one again: replaced, not counted twice
    assert len(json.loads(file.read_text())["runs"]) == 2
    steps, memories = calibrations(file)
    assert system_of_hardware(CPU, steps) == "headrace a-laptop"
    assert steps.counts[steps.systems.index("headrace a-laptop")] == 2

    def predicted(calibration, memory, system):
        job = TrainingJob(
            shape=runs[0].shape,
            hardware=CPU,
            gpus=2,
            seq_len=256,
            global_batch=8,
            dtype="float32",
            system=system,
        )
        fixed = {"dp": 2, "micro_batch": 2, "shard": "none", "recompute": "none"}
        return search(job, calibration, memory, fixed=fixed).step.value[0]

    before = abs(predicted(*shipped(), None) / 20 - 1)
    assert abs(predicted(steps, memories, "headrace a-laptop") / 20 - 1) < 0.5 * before


def test_without_runs_of_ones_own_the_shipped_calibration_counts():
    assert calibrations()[0].systems == shipped()[0].systems


def test_a_damaged_file_is_refused_with_the_cure(tmp_path):
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(ConfigError, match="plan calibrate"):
        calibrations(tmp_path / "mine.json")
