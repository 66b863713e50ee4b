"""Boxes, classes and masks of objects to batches, beside lists of dictionaries as torchvision's detectors take them.

Claim     Ragged boxes and masks are collated >= 5 x as fast as torchvision-style lists.
Run       python bench/boxes.py
Compares  Annotations of 16,384 images, 0 to 40 objects each (7.3 on average, as in COCO), batches of 64 in a global
          shuffle, on one core. Ours: a store read by hr.Loader (blocks checked), values and offsets as torch tensors.
          DataLoader: rows in memory as NumPy arrays, a dictionary of tensors a row, collated into a tuple of them as in
          torchvision's detection reference, nothing decoded or checked; "joined" also concatenates them into values and
          offsets, which is what ours are. Masks: COCO's run lengths of 120 x 160 to uint8 [N, H, W], 512 images in
          batches of 16: pycocotools for each row, and ours with the images placed beside them.
Ceiling   One torch.index_select of the values in memory.
Reports   Rows a second of CPU time; median and spread of n rounds in turn.
Cause     {cause}
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader

import headrace as hr
from headrace.store import (
    Array,
    List,
    Value,
    columns_of_rows,
    commit_samples,
    write_sample_shard,
)
from measure import DATA, at_least, interleave, number, options, pin, report, spread, summary, table

if TYPE_CHECKING:
    from pathlib import Path

CAUSE = """A batch of 64 takes 0.28 ms, 0.2 of them gathering: finding the blocks of rows, a dozen calls of NumPy and
          three of C. Of 0.37 ms a row with masks, copying and placing its image of 57 kB takes most, which
          DataLoader does not do here; painting masks takes time by the pixels of objects, not of the image."""
HEIGHT, WIDTH = 120, 160


def annotations(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Boxes (x0, y0, x1, y1), classes and areas of images."""
    random = np.random.default_rng(seed)
    rows = []
    for number_of in np.minimum(random.geometric(1 / 8.3, count) - 1, 40):
        corners = np.sort(random.uniform(0, 640, (number_of, 2, 2)), axis=1)
        boxes = corners.reshape(-1, 4).astype(np.float32)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        rows.append({"boxes": boxes, "classes": random.integers(0, 80, number_of), "area": area})
    return rows


def store_of(name: str, rows: list[dict[str, Any]], features: dict[str, Any]) -> hr.SampleStore:
    """A store of these rows, made once."""
    place: Path = DATA / f"boxes-{name}-{len(rows)}"
    if not (place / "done").exists():
        entry = write_sample_shard(str(place), "part-0", columns_of_rows(rows, features), features)
        commit_samples(str(place), [entry], features=features)
        (place / "done").touch()
    return hr.SampleStore.open(place)


class Rows(torch.utils.data.Dataset[Any]):
    """Rows in memory -> a dictionary of tensors each, as a detection data set gives it."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = self._rows[index]
        target = {
            "boxes": torch.as_tensor(row["boxes"]),
            "labels": torch.as_tensor(row["classes"]),
            "area": torch.as_tensor(row["area"]),
            "image_id": torch.tensor([index]),
        }
        if "counts" in row:
            target["masks"] = torch.as_tensor(decode_masks(row["counts"]))
        return target


def decode_masks(counts: list[bytes]) -> np.ndarray:
    """Masks [N, H, W] as torchvision's reference makes them: pycocotools, axes moved."""
    from pycocotools import mask

    if not counts:
        return np.zeros((0, HEIGHT, WIDTH), np.uint8)
    decoded = mask.decode([{"size": [HEIGHT, WIDTH], "counts": one} for one in counts])
    return np.ascontiguousarray(decoded.transpose(2, 0, 1))


def as_lists(rows: list[Any]) -> tuple[Any, ...]:
    """Torchvision's collate function for targets: rows stay rows."""
    return tuple(rows)


def joined(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Values of all rows, and offsets."""
    counts = torch.tensor([0, *(len(row["boxes"]) for row in rows)])
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]} | {"offsets": counts.cumsum(0)}


def per_second(loop: Callable[[], int]) -> float:
    """Rows a second of CPU time."""
    start = time.process_time()
    rows = loop()
    return rows / (time.process_time() - start)


def epoch(store: hr.SampleStore, batch_size: int, **contents: Any) -> int:
    """One epoch of ours."""
    loader = hr.Loader(store, batch_size=batch_size, seed=1, epochs=1, rank=0, world_size=1, **contents)
    return sum(len(batch["boxes"][1]) - 1 for batch in loader)


def theirs(rows: list[dict[str, Any]], batch_size: int, collate: Any) -> int:
    """One epoch of DataLoader."""
    loader = DataLoader(Rows(rows), batch_size=batch_size, shuffle=True, collate_fn=collate)
    return sum(len(batch["offsets"]) - 1 if isinstance(batch, dict) else len(batch) for batch in loader)


def ceiling(rows: list[dict[str, Any]]) -> int:
    """The boxes of the rows taken from one array, batch by batch."""
    values = torch.from_numpy(np.concatenate([row["boxes"] for row in rows]))
    offsets = np.concatenate(([0], np.cumsum([len(row["boxes"]) for row in rows])))
    order = np.random.default_rng(0).permutation(len(rows))
    for start in range(0, len(rows), 64):
        chosen = order[start : start + 64]
        counts = offsets[chosen + 1] - offsets[chosen]
        begins = np.repeat(offsets[chosen] - np.concatenate(([0], np.cumsum(counts)[:-1])), counts)
        torch.index_select(values, 0, torch.from_numpy(begins + np.arange(counts.sum())))
    return len(rows)


def masked(count: int) -> list[dict[str, Any]]:
    """Rows with a mask for each object and an image."""
    from pycocotools import mask

    rows = annotations(count, seed=1)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for i, row in enumerate(rows):
        row["image"] = np.full((HEIGHT, WIDTH, 3), i % 251, np.uint8)
        centers = np.random.default_rng(i).uniform((0, 0, 9), (HEIGHT, WIDTH, 40), (len(row["boxes"]), 3))
        shapes = [(y - cy) ** 2 + (x - cx) ** 2 < r * r for cy, cx, r in centers]
        row["boxes"] = np.array(
            [(cx - r, cy - r, cx + r, cy + r) for cy, cx, r in centers], np.float32
        ).reshape(-1, 4)
        row["counts"] = [mask.encode(np.asfortranarray(one.astype(np.uint8)))["counts"] for one in shapes]
        row["masks"] = [one.decode() for one in row["counts"]]
    return rows


def main() -> None:
    chosen = options(__doc__ or "", repeats=5).parse_args()
    pin()
    torch.set_num_threads(1)
    rows = annotations(1024 if chosen.quick else 16_384)
    boxes = {
        "boxes": List(Array((4,), "float32")),
        "classes": List(Value("int64")),
        "area": List(Value("float32")),
    }
    store = store_of("boxes", rows, boxes)
    with_masks = masked(32 if chosen.quick else 512)
    fields = {"image": Array((HEIGHT, WIDTH, 3), "uint8"), **boxes, "masks": List(Value("string"))}
    plain = [{name: row[name] for name in fields} for row in with_masks]
    mask_store = store_of("masks", plain, fields)
    image = hr.ImageTransform(size=(HEIGHT, WIDTH))
    epoch(store, 64)
    found = interleave(
        {
            "headrace": lambda: per_second(lambda: epoch(store, 64)),
            "DataLoader, lists": lambda: per_second(lambda: theirs(rows, 64, as_lists)),
            "DataLoader, joined": lambda: per_second(lambda: theirs(rows, 64, joined)),
            "index_select of boxes": lambda: per_second(lambda: ceiling(rows)),
            "headrace, masks": lambda: per_second(lambda: epoch(mask_store, 16, image=image)),
            "DataLoader, masks, lists": lambda: per_second(lambda: theirs(with_masks, 16, as_lists)),
            "DataLoader, masks, joined": lambda: per_second(lambda: theirs(with_masks, 16, joined)),
        },
        1 if chosen.quick else chosen.repeats,
    )
    middle = {name: summary(values)["median"] for name, values in found.items()}
    report(
        __file__,
        doc=(__doc__ or "").replace("{cause}", CAUSE),
        tables={
            "rows a second of CPU time, one core": table(
                ["", "rows/s", "spread"],
                [[name, number(middle[name]), spread(values)] for name, values in found.items()],
            )
        },
        goals=[
            at_least("boxes: against lists", middle["headrace"] / middle["DataLoader, lists"], 5, "x"),
            at_least(
                "boxes: against lists, joined", middle["headrace"] / middle["DataLoader, joined"], 5, "x"
            ),
            at_least(
                "masks: against lists, joined",
                middle["headrace, masks"] / middle["DataLoader, masks, joined"],
                5,
                "x",
                "both decode the same run lengths",
            ),
        ],
        data={"rows_per_cpu_s": found},
        quick=chosen.quick,
    )


if __name__ == "__main__":
    main()
