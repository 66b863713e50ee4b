"""This machine as hardware of a plan: machine.py and worker.py."""

import pytest

from headrace.errors import ConfigError
from headrace.plan import read_hardware
from headrace.probe import machine
from headrace.probe.machine import probe_machine, slowest

FIGURES = {
    "float32_flops": 5e10, "bf16_flops": 2e11, "memory_bytes_s": 1e10, "decode_tokens_s": 3e8, "disk_bytes_s": 1e9,
}  # fmt: skip


@pytest.fixture
def probes(monkeypatch, tmp_path):
    """Fakes of the probes; the list has one entry for each time that they ran."""
    ran = []

    def probe(*_, **__):
        ran.append(1)
        return dict(FIGURES)

    monkeypatch.setattr(machine, "_num_gpus", lambda: 0)
    monkeypatch.setattr(machine, "probe_group", probe)
    monkeypatch.setattr(machine, "_probe_together", lambda devices: probe() | {"link_bytes_s": 1e9 / devices})
    return ran


def test_a_probed_machine_is_cached_as_a_file_that_a_plan_reads(probes, tmp_path):
    found = probe_machine(directory=tmp_path)
    again = probe_machine(directory=tmp_path)
    assert (len(probes), found.is_cached, again.is_cached) == (1, False, True)
    hardware = read_hardware(found.path)
    assert hardware.float32_flops == pytest.approx(5e10)
    assert hardware.decode_tokens_s == pytest.approx(3e8)
    assert hardware.gpus_per_node == 1
    assert hardware.arch == "cpu"


def test_another_number_of_processes_is_probed_by_itself(probes, tmp_path):
    probe_machine(directory=tmp_path)
    two = probe_machine(processes=2, directory=tmp_path)
    assert len(probes) == 2
    assert two.hardware.link_bytes_s == pytest.approx(5e8)
    assert two.hardware.gpus_per_node == 2


def test_the_probes_run_again_where_that_is_requested(probes, tmp_path):
    probe_machine(directory=tmp_path)
    assert not probe_machine(directory=tmp_path, again=True).is_cached
    assert len(probes) == 2


def test_a_cache_that_cannot_be_written_does_not_stop_a_plan(probes, tmp_path):
    (tmp_path / "file").write_text("")
    assert probe_machine(directory=tmp_path / "file").path is None


def test_more_processes_than_gpus_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_num_gpus", lambda: 2)
    with pytest.raises(ConfigError, match="has 2 GPUs"):
        probe_machine(processes=3, directory=tmp_path)


def test_the_slowest_process_counts():
    assert slowest([{"a_bytes_s": 2.0, "latency_s": 1.0}, {"a_bytes_s": 1.0, "latency_s": 3.0}]) == {
        "a_bytes_s": 1.0, "latency_s": 3.0,
    }  # fmt: skip


@pytest.mark.campaign
def test_two_processes_probe_this_machine_at_the_same_time(tmp_path):
    found = probe_machine(processes=2, directory=tmp_path)
    assert found.hardware.collective_latency_s > 0
    assert found.hardware.link_bytes_s > 0
