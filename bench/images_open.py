"""A store of 14 million images: opening, the first batch, and memory.

Claim     Open + first batch of 64 random-resized crops <= 150 ms and <= 50 MB above the empty process.
Run       python bench/images_open.py
Compares  Nothing. The store is simulated at full size: its manifest and shard table name 14,000 shards of 1,000
          images; their files are hard links to one real shard, so that every image of the shuffled order can be read.
Ceiling   Reading the manifest and the shard table from the page cache, nothing parsed.
Reports   Milliseconds and MB, each from n fresh processes that have imported headrace and opened nothing; median and
          spread. The first batch has images of 64 shards: 64 indexes and blocks are read, checked and decoded.
Cause     {cause}
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from headrace.store import ClassLabel, Image, columns_of_rows, commit_samples, write_sample_shard
from measure import DATA, at_most, number, options, pin, report, spread, summary, table, waited

CAUSE = """Opening is the manifest and the shard table. The first batch decodes 64 images of 64 shards, while the
          batches behind it are made, too. The recorded run was on a busy machine (see the load average): the processor
          time is below the goal, the time that passed is not."""
IMAGES = 1_000
PROBE = """
import json, sys, time
def resident():
    with open("/proc/self/statm") as f: return int(f.read().split()[1]) * 4096
import headrace as hr, headrace.load, headrace.store, headrace.images, simplejpeg
empty, start, cpu = resident(), time.perf_counter(), time.process_time()
store = hr.SampleStore.open(sys.argv[1])
opened_s = time.perf_counter() - start
image = hr.ImageTransform(size=224, crop="random_resized", flip=0.5)
output = hr.BatchOptions(framework="numpy")
loader = hr.Loader(store, batch_size=64, seed=7, epochs=1, rank=0, world_size=1, image=image, output=output)
batch = next(iter(loader))
first_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
assert batch["image"].shape == (64, 224, 224, 3) and store.num_rows == int(sys.argv[2])
times = {"opened_ms": 1e3 * opened_s, "first_ms": 1e3 * first_s, "cpu_ms": 1e3 * cpu_s}
print(json.dumps(times | {"mb": (resident() - empty) / 1e6}))
"""


def prepare(shards: int) -> Path:
    """The simulated store; made once."""
    place: Path = DATA / f"images-open-{shards}"
    if (place / "done").exists():
        return place
    place.mkdir(parents=True)
    rows = []
    for i in range(IMAGES):
        noise = np.random.default_rng(i).integers(0, 256, (24, 32, 3)).astype(np.uint8)
        sink = io.BytesIO()
        PillowImage.fromarray(noise).resize((500, 375)).save(sink, "JPEG", quality=90)
        rows.append({"image": sink.getvalue(), "label": i % 1000})
    features = {"image": Image(), "label": ClassLabel(tuple(f"class {i}" for i in range(1000)))}
    entry = write_sample_shard(str(place), "part-00000", columns_of_rows(rows, features), features)
    files = [path for path in place.rglob("*") if path.is_file()]
    entries = [entry]
    for i in range(1, shards):
        name = f"part-{i:05d}"
        for path in files:
            os.link(path, path.with_name(path.name.replace("part-00000", name)))
        entries.append(replace(entry, name=name))
    commit_samples(str(place), entries, features=features)
    (place / "done").touch()
    return place


def measure(place: Path, rows: int) -> dict[str, float]:
    """Figures of one fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(place), str(rows)], capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout))


def main() -> None:
    chosen = options(__doc__ or "", repeats=9).parse_args()
    shards = 140 if chosen.quick else 14_000
    with waited("store"):
        place = prepare(shards)
    pin()
    measure(place, shards * IMAGES)
    runs = [measure(place, shards * IMAGES) for _ in range(1 if chosen.quick else chosen.repeats)]
    values = {name: [run[name] for run in runs] for name in runs[0]}
    middle = {name: summary(found)["median"] for name, found in values.items()}
    names = {
        "opened_ms": "open, ms",
        "first_ms": "open + first batch, ms",
        "cpu_ms": "of it processor time, ms",
        "mb": "memory, MB",
    }
    report(
        __file__,
        doc=(__doc__ or "").replace("{cause}", CAUSE),
        tables={
            f"{shards * IMAGES:,} images in {shards:,} shards": table(
                ["", "median", "spread"],
                [[label, number(middle[name]), spread(values[name])] for name, label in names.items()],
            )
        },
        goals=[
            at_most("open + first batch", middle["first_ms"], 150, "ms", "64 images decoded, one core"),
            at_most("memory above the empty process", middle["mb"], 50, "MB"),
        ],
        data={"runs": runs},
        quick=chosen.quick,
    )


if __name__ == "__main__":
    main()
