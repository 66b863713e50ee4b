"""This machine -> `Hardware` as its probes measured it, cached as a TOML file that `--hardware` takes.

Figures are for each of N processes that run at the same time and share the machine, as torchrun starts them.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from headrace.errors import ConfigError
from headrace.plan import Hardware, cache_directory, find_gpu, hardware_toml, read_hardware
from headrace.platform import available_cores, cpu_model, total_memory_nbytes
from headrace.probe.collective import all_reduce_rate
from headrace.probe.rates import PROBE_S, copy_bytes_s, decode_tokens_s, disk_bytes_s, matmul_flops
from headrace.storage import write_file

_SHEET_SHARE = 0.85
"""Share of a data sheet's peak that long products reach: what an unknown GPU's sheet would say."""
_WORKER_S = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbedMachine:
    """What the probes found."""

    hardware: Hardware
    devices: int
    """Processes that the figures are for: one a GPU, or those of the CPU."""
    path: Path | None
    """The TOML file; None where it could not be written."""
    is_cached: bool
    """The figures are of an earlier probe."""


def probe_machine(
    *, processes: int | None = None, again: bool = False, directory: Path | None = None
) -> ProbedMachine:
    """Probe this machine with as many processes as a job will have; about 10 s, or at once from the cache.

    Args:
        processes: default: one for each GPU, one on a machine without.
        again: measure although an earlier probe is cached.
        directory: of the cache; default `cache_directory()`.

    Raises:
        ConfigError: no such number of processes, or a probing process fails.
    """
    gpus = _num_gpus()
    devices = processes or max(1, gpus)
    if gpus and devices > gpus:
        raise ConfigError(f"--here: this machine has {gpus} GPUs; {devices} processes cannot have one each")
    if devices > 64:
        raise ConfigError(f"--here: {devices} processes on one machine; expected at most 64")
    path = (directory or cache_directory()) / f"here-{_safe(socket.gethostname())}-{devices}.toml"
    if path.is_file() and not again:
        return ProbedMachine(hardware=read_hardware(path), devices=devices, path=path, is_cached=True)
    figures = _probe_alone(gpus) if devices == 1 else _probe_together(devices)
    hardware = describe_hardware(figures, devices=devices, device="cuda:0" if gpus else "cpu")
    saved: Path | None = path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, hardware_toml(hardware).encode())
    except OSError:
        saved = None
    return ProbedMachine(hardware=hardware, devices=devices, path=saved, is_cached=False)


def probe_group(
    group: Any, *, size: int, device: str, with_node: bool, seconds: float = PROBE_S
) -> dict[str, float]:
    """Figures of this process while the group's other processes probe too; every process calls it.

    Args:
        group: of torch.distributed for all-reduces of the device's tensors; None for the default one.
        size: processes of the group.
        device: of torch.
        with_node: also measure what a node has once: its disk, and what a core decodes.
        seconds: of each probe.
    """
    figures = {
        "float32_flops": matmul_flops("float32", device, seconds=seconds),
        "bf16_flops": matmul_flops("bf16", device, seconds=seconds),
        "memory_bytes_s": copy_bytes_s(device, seconds=seconds),
    }
    if size > 1:
        link, latency = all_reduce_rate(group, size=size, device=device)
        figures |= {"link_bytes_s": link, "collective_latency_s": latency}
    if with_node:
        figures |= _node_figures()
    return figures


def _node_figures() -> dict[str, float]:
    figures = {"decode_tokens_s": decode_tokens_s()}
    try:
        cache_directory().mkdir(parents=True, exist_ok=True)
        figures["disk_bytes_s"] = disk_bytes_s(cache_directory())
    except OSError:
        pass  # nothing can be written there: the plan then takes the option's bandwidth
    return figures


def _probe_alone(gpus: int) -> dict[str, float]:
    return probe_group(None, size=1, device="cuda:0" if gpus else "cpu", with_node=True)


def _probe_together(devices: int) -> dict[str, float]:
    """Start the processes, and take the slowest one's figures: a step waits for it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = str(max(1, available_cores() // devices))
    workers = [
        subprocess.Popen(
            [sys.executable, "-P", "-m", "headrace.probe.worker", str(rank), str(devices), str(port)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
                 "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        for rank in range(devices)
    ]  # fmt: skip
    found: list[dict[str, float]] = []
    try:
        for worker in workers:
            out, err = worker.communicate(timeout=_WORKER_S)
            if worker.returncode:
                last = (err.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
                raise ConfigError(f"--here: a probing process failed: {last}")
            found.append(json.loads(out))
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"--here: {devices} probing processes did not end within {_WORKER_S:.0f} s"
        ) from error
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    return slowest(found)


def slowest(found: list[dict[str, float]]) -> dict[str, float]:
    """The least rate and the longest latency that any process measured."""
    names = {name for figures in found for name in figures}
    return {
        name: (max if name.endswith("latency_s") else min)(f[name] for f in found if name in f)
        for name in sorted(names)
    }


def describe_hardware(figures: dict[str, float], *, devices: int, device: str) -> Hardware:
    """Figures of processes that probed together -> hardware.

    What the table knows of a GPU's compute stays: the planner's constants were learned against it.

    Args:
        figures: what `probe_group` measured, the slowest process's.
        devices: processes of a node.
        device: of torch.
    """
    processes = "1 process" if devices == 1 else f"{devices} processes at once"
    stamp = f"measured by headrace plan --here on {datetime.now(UTC):%Y-%m-%d}, {processes}"
    link = figures.get("link_bytes_s", figures["memory_bytes_s"] / 4)
    common: dict[str, Any] = {
        "link_bytes_s": link,
        "network_bytes_s": link,
        "gpus_per_node": devices,
        "collective_latency_s": figures.get("collective_latency_s", 0.0),
        "disk_bytes_s": figures.get("disk_bytes_s", 0.0),
        "decode_tokens_s": figures.get("decode_tokens_s", 0.0),
        "cores_per_node": available_cores(),
        "source": stamp,
    }
    if device != "cpu":
        return _described_gpu(figures, common)
    memory = total_memory_nbytes() or 2**33
    fast = max(figures["bf16_flops"], 1.0)
    return Hardware(
        name=f"{_safe(cpu_model() or 'cpu')}-{devices}",
        arch="cpu",
        memory_bytes=memory / devices,
        float32_flops=figures["float32_flops"],
        bf16_flops=fast,
        fp8_flops=fast,
        fp4_flops=fast,
        memory_bytes_s=figures["memory_bytes_s"],
        **common,
    )


def _described_gpu(figures: dict[str, float], common: dict[str, Any]) -> Hardware:
    import dataclasses

    import torch

    properties = torch.cuda.get_device_properties(0)
    known = find_gpu(properties.name)
    if known is not None:
        if "link_bytes_s" not in figures and "collective_latency_s" not in figures:
            common = {**common, "link_bytes_s": known.link_bytes_s, "network_bytes_s": known.network_bytes_s}
        return dataclasses.replace(known, memory_bytes=float(properties.total_memory), **common)
    sheet: dict[str, Any] = {
        name: figures[name] / _SHEET_SHARE for name in ("float32_flops", "bf16_flops", "memory_bytes_s")
    }
    return Hardware(
        name=_safe(properties.name),
        memory_bytes=float(properties.total_memory),
        fp8_flops=sheet["bf16_flops"],
        fp4_flops=sheet["bf16_flops"],
        **sheet,
        **common,
    )


def _num_gpus() -> int:
    try:
        import torch
    except ModuleNotFoundError:
        return 0
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _safe(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:48] or "machine"
