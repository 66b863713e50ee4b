"""A GPU's name, or a TOML file -> what limits it: memory, matrix peaks, bandwidth of memory, links and network.

Figures are the makers' data sheets (dense, without sparsity), read 2026-11. A node's network is not on a data sheet:
the table gives the usual rate per GPU of that generation's 8-GPU servers; set `network_bytes_s` for another one.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.errors import ConfigError
from headrace.paths import local_path

DTYPES = ("float32", "bf16", "fp8", "fp4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """One kind of accelerator, and how its machines are connected."""

    name: str
    memory_bytes: float
    """Device memory."""
    bf16_flops: float
    """Dense matrix products in bfloat16 or float16, FLOP/s."""
    fp8_flops: float
    """In 8-bit floats; the bfloat16 figure where the device has no 8-bit unit."""
    fp4_flops: float
    """In 4-bit floats; the 8-bit figure where the device has no 4-bit unit."""
    float32_flops: float
    """In float32 (TF32 off), FLOP/s."""
    memory_bytes_s: float
    """Bandwidth of device memory."""
    link_bytes_s: float
    """Bandwidth between accelerators of one node, each direction, for each accelerator."""
    network_bytes_s: float
    """Bandwidth between nodes, each direction, for each accelerator."""
    gpus_per_node: int = 8
    """Accelerators that share the fast links."""
    arch: str = ""
    """Generation: constants learned on one device of it serve the others."""
    source: str = ""
    """Where the figures come from, and when they were read."""
    collective_latency_s: float = 0.0
    """Seconds of the smallest all-reduce, where it was measured; 0: the calibrated constant."""
    disk_bytes_s: float = 0.0
    """Bandwidth of a node's disk, where it was measured."""
    cores_per_node: int = 0
    """Cores of a node, where they were counted."""
    decode_tokens_s: float = 0.0
    """Tokens that one core decodes from a store's blocks a second, where it was measured."""

    def peak_flops(self, dtype: str) -> float:
        """Dense peak of matrix products, FLOP/s.

        Raises:
            ConfigError: not a dtype of DTYPES.
        """
        if dtype not in DTYPES:
            raise ConfigError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}")
        return float(getattr(self, f"{dtype}_flops"))


def resolve_dtype(dtype: str, hardware: Hardware) -> str:
    """The dtype that `auto` means: bf16, or float32 where the device multiplies that faster."""
    if dtype != "auto":
        return dtype
    return "bf16" if hardware.bf16_flops >= hardware.float32_flops else "float32"


def _gpu(
    name: str, arch: str, memory_gb: float, tflops: tuple[float, ...], gb_s: tuple[float, ...], nodes: int = 8
) -> Hardware:
    """tflops: float32, bf16, fp8, fp4 (the last ones may be left out); gb_s: memory, link, network."""
    f32, bf16, *lower = tflops
    fp8 = lower[0] if lower else bf16
    fp4 = lower[1] if len(lower) > 1 else fp8
    memory, link, network = gb_s
    return Hardware(
        name=name,
        arch=arch,
        memory_bytes=memory_gb * 1e9 if memory_gb > 100 else memory_gb * 2**30,
        float32_flops=f32 * 1e12,
        bf16_flops=bf16 * 1e12,
        fp8_flops=fp8 * 1e12,
        fp4_flops=fp4 * 1e12,
        memory_bytes_s=memory * 1e9,
        link_bytes_s=link * 1e9,
        network_bytes_s=network * 1e9,
        gpus_per_node=nodes,
        source="data sheet of the maker, read 2026-11; network: usual servers of that generation",
    )


#                name               arch          GB    TFLOP/s: fp32, bf16, fp8, fp4      GB/s: memory, link, network
GPUS: dict[str, Hardware] = {
    gpu.name: gpu
    for gpu in (
        _gpu("v100-16gb", "volta", 16, (15.7, 125), (900, 150, 12.5)),
        _gpu("v100-32gb", "volta", 32, (15.7, 125), (900, 150, 12.5)),
        _gpu("a100-40gb", "ampere", 40, (19.5, 312), (1555, 300, 25)),
        _gpu("a100-80gb", "ampere", 80, (19.5, 312), (2039, 300, 25)),
        _gpu("a100-pcie-80gb", "ampere", 80, (19.5, 312), (1935, 32, 12.5)),
        _gpu("a10-24gb", "ampere", 24, (31.2, 125), (600, 32, 12.5), 4),
        _gpu("a10g-24gb", "ampere", 24, (31.2, 70), (600, 32, 12.5), 4),
        _gpu("a6000-48gb", "ampere", 48, (38.7, 155), (768, 56, 12.5), 4),
        _gpu("rtx3090-24gb", "ampere", 24, (35.6, 71), (936, 32, 12.5), 2),
        _gpu("h100-80gb", "hopper", 80, (67, 989, 1979), (3350, 450, 50)),
        _gpu("h100-96gb", "hopper", 96, (67, 989, 1979), (3350, 450, 50)),
        _gpu("h100-nvl-94gb", "hopper", 94, (60, 835, 1671), (3900, 300, 50), 2),
        _gpu("h100-pcie-80gb", "hopper", 80, (51, 756, 1513), (2000, 64, 25)),
        _gpu("h800-80gb", "hopper", 80, (67, 989, 1979), (3350, 200, 50)),
        _gpu("h200-141gb", "hopper", 141, (67, 989, 1979), (4800, 450, 50)),
        _gpu("gh200-96gb", "hopper", 96, (67, 989, 1979), (4000, 450, 50), 1),
        _gpu("l4-24gb", "ada", 24, (30.3, 121, 242), (300, 32, 12.5)),
        _gpu("l40s-48gb", "ada", 48, (91.6, 362, 733), (864, 32, 25)),
        _gpu("rtx4090-24gb", "ada", 24, (82.6, 165, 330), (1008, 32, 12.5), 4),
        _gpu("rtx6000-ada-48gb", "ada", 48, (91.1, 364, 728), (960, 32, 12.5), 4),
        _gpu("rtx5090-32gb", "blackwell-rtx", 32, (104.8, 209, 419, 1676), (1792, 64, 12.5), 4),
        _gpu("rtx-pro-6000-96gb", "blackwell-rtx", 96, (125, 503, 1007, 2015), (1792, 64, 50)),
        _gpu("b200-180gb", "blackwell", 180, (75, 2250, 4500, 9000), (8000, 900, 50)),
        _gpu("gb200-186gb", "blackwell", 186, (80, 2500, 5000, 10000), (8000, 900, 50), 72),
        _gpu("b300-288gb", "blackwell-ultra", 288, (75, 2250, 4500, 13500), (8000, 900, 100)),
        _gpu("gb300-288gb", "blackwell-ultra", 288, (80, 2500, 5000, 15000), (8000, 900, 100), 72),
        _gpu("mi250x-128gb", "cdna2", 128, (47.9, 383), (3277, 200, 25)),
        _gpu("mi300x-192gb", "cdna3", 192, (163.4, 1307, 2615), (5300, 448, 50)),
        _gpu("mi325x-256gb", "cdna3", 256, (163.4, 1307, 2615), (6000, 448, 50)),
        _gpu("mi355x-288gb", "cdna4", 288, (157.3, 2517, 5033, 10066), (8000, 538, 50)),
    )
}


def gpu_by_name(name: str) -> Hardware:
    """A GPU of the table, by its name there or as tables of results write it.

    A memory size that the table does not have for a known device (`H100-64GB`) replaces the table's.

    Raises:
        ConfigError: no such GPU; says which ones are known.

    >>> gpu_by_name("A100").name, gpu_by_name("NVIDIA H100-96GB").memory_bytes / 2**30
    ('a100-80gb', 96.0)
    """
    key = re.sub(r"[\s_]+", "-", name.strip().lower())
    key = (
        re.sub(r"^((nvidia|amd|instinct|geforce|tesla)-)+", "", key).replace("-sxm5", "").replace("-sxm4", "")
    )
    key = key.replace("-sxm", "").replace("-hbm3e", "").replace("-hbm3", "").replace("rtx-", "rtx", 1)
    key = {"rtxpro-6000-96gb": "rtx-pro-6000-96gb"}.get(key, key)
    if key in GPUS:
        return GPUS[key]
    stem, _, size = key.rpartition("-")
    if not re.fullmatch(r"\d+gi?b", size):
        stem, size = key, ""
    same = [gpu for gpu in GPUS.values() if re.fullmatch(re.escape(stem) + r"-\d+gb", gpu.name)]
    if not same:
        raise ConfigError(
            f"gpu {name!r} is not in the table. Known: {', '.join(GPUS)}. Give --hardware FILE.toml for another."
        )
    best = max(same, key=lambda gpu: gpu.memory_bytes)
    if size:
        best = dataclasses.replace(best, memory_bytes=int(re.sub(r"\D", "", size)) * 2**30)
    return best


_TOML_UNITS = {
    "memory_gib": ("memory_bytes", 2**30),
    "float32_tflops": ("float32_flops", 1e12),
    "bf16_tflops": ("bf16_flops", 1e12),
    "fp8_tflops": ("fp8_flops", 1e12),
    "fp4_tflops": ("fp4_flops", 1e12),
    "memory_gb_s": ("memory_bytes_s", 1e9),
    "link_gb_s": ("link_bytes_s", 1e9),
    "network_gb_s": ("network_bytes_s", 1e9),
}
_TOML_OPTIONAL = {
    "collective_latency_us": ("collective_latency_s", 1e-6),
    "disk_gb_s": ("disk_bytes_s", 1e9),
    "decode_mtokens_s": ("decode_tokens_s", 1e6),
    "cores_per_node": ("cores_per_node", 1),
    "gpus_per_node": ("gpus_per_node", 1),
}


def read_hardware(path: str | Path) -> Hardware:
    """Hardware from a TOML file: `like = "h100-80gb"` and the figures that differ, or all of them.

    Keys: name, like, arch, gpus_per_node, memory_gib, float32_tflops, bf16_tflops, fp8_tflops, fp4_tflops,
    memory_gb_s, link_gb_s, network_gb_s (each direction, for each GPU), and, where they were measured,
    collective_latency_us, disk_gb_s, decode_mtokens_s (of one core), cores_per_node.

    Raises:
        ConfigError: the file cannot be read, or has an unknown or missing key or a value that is no number above 0.
    """
    try:
        table = tomllib.loads(local_path(path, name="plan: hardware").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path}: cannot be read as TOML: {reason}") from error
    known = {"name", "like", "arch", *_TOML_UNITS, *_TOML_OPTIONAL}
    unknown = sorted(set(table) - known)
    if unknown:
        raise ConfigError(f"{path}: unknown key {unknown[0]!r}; expected some of {', '.join(sorted(known))}")
    given: dict[str, Any] = {"name": str(table.get("name", Path(path).stem)), "source": str(path)}
    if "arch" in table:
        given["arch"] = str(table["arch"])
    for key in (*_TOML_UNITS, *_TOML_OPTIONAL):
        if key not in table:
            continue
        value = table[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
            raise ConfigError(f"{path}: {key} is {value!r}; expected a number above 0")
        name, unit = (_TOML_UNITS | _TOML_OPTIONAL)[key]
        given[name] = int(value) if key.endswith("_per_node") else float(value) * unit
    if "like" in table:
        return dataclasses.replace(gpu_by_name(str(table["like"])), **given)
    given.setdefault("fp8_flops", given.get("bf16_flops"))
    given.setdefault("fp4_flops", given.get("fp8_flops"))
    given.setdefault("float32_flops", given.get("bf16_flops"))
    missing = [key for key, (name, _) in _TOML_UNITS.items() if given.get(name) is None]
    if missing:
        raise ConfigError(
            f'{path}: {", ".join(missing)} missing; give them, or like = "..." with the name of a known GPU'
        )
    return Hardware(**given)


def hardware_toml(hardware: Hardware) -> str:
    """The TOML text that `read_hardware` reads back."""
    lines = [f"# {hardware.source}" if hardware.source else "", f'name = "{hardware.name}"']
    if hardware.arch:
        lines.append(f'arch = "{hardware.arch}"')
    for key, (name, unit) in (_TOML_UNITS | _TOML_OPTIONAL).items():
        value = getattr(hardware, name)
        if value:
            lines.append(f"{key} = {value if key.endswith('_per_node') else float(f'{value / unit:.6g}')}")
    return "\n".join(line for line in lines if line) + "\n"


def find_gpu(device_name: str) -> Hardware | None:
    """The GPU of the table that a driver's device name means; None for others: nothing is guessed.

    >>> [
    ...     gpu and gpu.name
    ...     for gpu in map(find_gpu, ("NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", "AMD EPYC 9654"))
    ... ]
    ['h100-80gb', 'h100-pcie-80gb', None]
    """
    words = set(re.sub(r"[^a-z0-9]+", " ", device_name.lower()).split())
    words |= {a + b for a in words for b in words if a in ("rtx", "mi")}  # "RTX 4090" -> rtx4090
    best: tuple[int, int, Hardware] | None = None
    for gpu in GPUS.values():
        *stem, size = gpu.name.split("-")
        if not all(word in words for word in stem):
            continue
        # The longest name first: an H100 PCIe is slower than the H100 that "H100" alone means; then the size.
        rank = (len(stem), int(size in words))
        if best is None or rank > best[:2] or (rank == best[:2] and gpu.memory_bytes > best[2].memory_bytes):
            best = (*rank, gpu)
    return None if best is None else best[2]
