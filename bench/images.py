"""JPEG files to batches of random crops, on one core.

Claim     JPEG 500 x 375 to uint8 batches of 224 x 224 random-resized crops: >= 1.5 x the fastest other loader, and
          >= 90 % of the decoder alone into a buffer.
Run       HEADRACE_BENCH_RIVALS=PYTHON python bench/images.py     (PYTHON has bench/requirements-images.txt)
Compares  The same 1,024 images of quality 90, batches of 64, random-resized crops and flips, each in a process of
          its own on one core, in turns: DataLoader with Pillow and with OpenCV (which does not average where it
          shrinks), WebDataset, HF datasets, SPDL. LitData stores encoded images and decodes them with Pillow as the
          DataLoader does; it is not here.
Ceiling   The decoder alone: libjpeg-turbo into one buffer, files in memory, nothing cropped.
Reports   Images a second of CPU time and of wall time, the better of two epochs after a first one; median of n.
Cause     {cause}
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

import headrace as hr
from measure import BENCH, DATA, at_least, number, options, report, spread, summary, table

CAUSE = """Only the part that a crop takes is decoded (45 % of the area here; Huffman's codes of the rows above it are
          read, too): three quarters of the time. Resizing in C with averages is a sixth. The decoder alone decodes all.
          SPDL needs FFmpeg's libraries, and is left out where they are absent, as in the recorded run."""
NAMES = (
    "headrace",
    "decoder alone",
    "DataLoader + Pillow",
    "DataLoader + OpenCV",
    "WebDataset",
    "HF datasets",
    "SPDL",
)


def prepare(count: int) -> str:
    """Images of smooth noise, which compress as photos do, in each contender's form."""
    place = DATA / f"images-{count}"
    folder = place / "files"
    if not (place / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for i in range(count):
            noise = np.random.default_rng(i).integers(0, 256, (47, 63, 3)).astype(np.uint8)
            image = Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC)
            grain = np.random.default_rng(i).normal(0, 6, (375, 500, 1))
            image = Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))
            sink = io.BytesIO()
            image.save(sink, "JPEG", quality=90)
            (folder / f"{i:05d}.jpg").write_bytes(sink.getvalue())
            rows.append(sink.getvalue())
        with tarfile.open(place / "images.tar", "w") as tar:
            for file in sorted(folder.glob("*.jpg")):
                tar.add(file, file.name)
        struct = pa.array([{"bytes": data, "path": None} for data in rows])
        pq.write_table(pa.table({"image": struct}), place / "images.parquet", row_group_size=64)
        hr.ingest(folder, place / "store", samples=hr.Samples(layout="folders"), restart=True)
        (place / "done").touch()
    return str(folder)


def measure(name: str, folder: str) -> dict[str, float] | None:
    """One contender's figures; None where it is not installed or fails."""
    own = name in ("headrace", "decoder alone")
    python = sys.executable if own else os.environ.get("HEADRACE_BENCH_RIVALS", sys.executable)
    core = max(os.sched_getaffinity(0))
    done = subprocess.run(
        [python, str(BENCH / "images_worker.py"), name, folder, str(core)],
        capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path) if own else "", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode:
        print(f"{name}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    chosen = options(__doc__ or "", repeats=3).parse_args()
    folder = prepare(128 if chosen.quick else 1024)
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(1 if chosen.quick else chosen.repeats):
        for name in NAMES:
            figures = measure(name, folder)
            if figures is not None:
                found.setdefault(name, []).append(figures)
    cpu = {name: [one["images_per_cpu_s"] for one in runs] for name, runs in found.items()}
    wall = {name: [one["images_per_s"] for one in runs] for name, runs in found.items()}
    middle = {name: summary(values)["median"] for name, values in cpu.items()}
    rivals = {name: value for name, value in middle.items() if name not in ("headrace", "decoder alone")}
    fastest = max(rivals, key=lambda name: rivals[name])
    rows = [
        [name, number(summary(cpu[name])["median"]), spread(cpu[name]), number(summary(wall[name])["median"])]
        for name in cpu
    ]
    report(
        __file__,
        doc=(__doc__ or "").replace("{cause}", CAUSE),
        tables={"images a second, one core": table(["", "of CPU time", "spread", "of wall time"], rows)},
        goals=[
            at_least(
                "images: against the fastest other loader",
                middle["headrace"] / rivals[fastest],
                1.5,
                "x",
                fastest,
            ),
            at_least(
                "images: of the decoder alone", 100 * middle["headrace"] / middle["decoder alone"], 90, "%"
            ),
        ],
        data={"cpu": cpu, "wall": wall},
        quick=chosen.quick,
    )


if __name__ == "__main__":
    main()
