"""Images and masks -> a small U-Net, its IoU beside simple answers, and its masks; stopped anywhere, it goes on.

    python examples/segment_images.py --train cells/train --test cells/test --out segment
    python examples/segment_images.py --train img2d.tif mask2d.tif --tile 64 --out segment

--train and --test are directories with images/ and masks/, or anything else of which `headrace ingest --samples` makes
the columns image and mask; or an image and its mask. Without --test the last quarter of the tiles is for the test.
Every number of a mask but 0 is the object. Predictions are stored once, as COCO's run lengths.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

import headrace as hr
from headrace.images import ConfusionMatrix, decode_mask, decode_rgb, encode_png, encode_rle, read_header
from headrace.sink import open_sink
from headrace.store import Image, Value, columns_of_rows, commit_samples, write_sample_shard
from headrace.types import Prediction

FEATURES = {"image": Image(), "mask": Image(), "name": Value("string")}
RESAMPLES = 1_000


class UNet(nn.Module):
    """Two halvings and two doublings, with what was seen before each halving beside it: [B, 3, H, W] -> [B, H, W]."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.down = nn.ModuleList(
            block(a, b) for a, b in ((3, width), (width, 2 * width), (2 * width, 4 * width))
        )
        self.up = nn.ModuleList(block(a, b) for a, b in ((6 * width, 2 * width), (3 * width, width)))
        self.out = nn.Conv2d(width, 1, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x, seen = self.norm(image), []
        for layer in self.down:
            x = layer(x if not seen else nn.functional.max_pool2d(x, 2))
            seen.append(x)
        for layer, other in zip(self.up, reversed(seen[:-1]), strict=True):
            x = layer(torch.cat((nn.functional.interpolate(x, scale_factor=2), other), dim=1))
        return self.out(x)[:, 0]


def block(inputs: int, outputs: int) -> nn.Sequential:
    layers = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def starts(length: int, tile: int, *, whole: bool) -> list[int]:
    """Where tiles begin: one beside the other; the last one overlaps where all is to be seen."""
    return sorted({*range(0, max(1, length - tile + 1), tile), *([max(0, length - tile)] if whole else [])})


def rows_of(sources: list[Path], out: Path, options: argparse.Namespace) -> list[dict[str, object]]:
    """Rows of image and mask, cut into tiles."""
    tile, whole = options.tile, bool(options.test)
    if len(sources) == 2 and all(path.is_file() for path in sources):
        pairs = [(sources[0].name, *(path.read_bytes() for path in sources))]
    else:
        hr.ingest(sources, out, samples=hr.Samples())
        pairs = [(row["name"], row["image"], row["mask"]) for row in hr.SampleStore.open(out)]
    rows = []
    for name, image, mask in pairs:
        pixels, numbers = decode_rgb(image, read_header(image)), decode_mask(mask)
        inside = np.where(numbers == options.ignore, 255, numbers > 0)
        for y in starts(len(pixels), tile, whole=whole):
            for x in starts(pixels.shape[1], tile, whole=whole):
                part = np.s_[y : y + tile, x : x + tile]
                parts = {"image": encode_png(pixels[part]), "mask": encode_png(inside[part].astype(np.uint8))}
                rows.append({**parts, "name": f"{name}:{x},{y}"})
    return rows


def make_stores(options: argparse.Namespace) -> list[hr.SampleStore]:
    """The stores of tiles for training and test."""
    places = [options.out / "train", options.out / "test"]
    if not all((place / "manifest.json").exists() for place in places):
        parts = [rows_of(options.train, options.out / "train-images", options)]
        if options.test:
            parts.append(rows_of(options.test, options.out / "test-images", options))
        else:
            cut = len(parts[0]) * 3 // 4
            parts = [parts[0][:cut], parts[0][cut:]]
        for place, rows in zip(places, parts, strict=True):
            entry = write_sample_shard(place, "tiles", columns_of_rows(rows, FEATURES), FEATURES)
            commit_samples(place, [entry], features=FEATURES)
    return [hr.SampleStore.open(place) for place in places]


def pixels(batch: hr.Batch) -> torch.Tensor:
    return batch["image"].permute(0, 3, 1, 2).float() / 255


def train(store: hr.SampleStore, options: argparse.Namespace) -> UNet:
    """Train, from the checkpoint where there is one."""
    torch.manual_seed(1)
    model = UNet()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    image = hr.ImageTransform(
        size=options.tile, crop="random_resized", scale=(0.5, 1.0), flip=0.5, brightness=0.3, contrast=0.3
    )
    loader = hr.Loader(store, batch_size=options.batch_size, seed=1, epochs=options.epochs, image=image)
    checkpoint = options.out / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])
        print(f"continued at position {loader.position:,}")
    epoch = loader.position // loader.num_rows
    for batch in loader if loader.position < options.epochs * loader.num_rows else ():
        wanted = batch["mask"]
        losses = nn.functional.binary_cross_entropy_with_logits(
            model(pixels(batch)), (wanted == 1).float(), reduction="none"
        )
        loss = losses[wanted != 255].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loader.position // loader.num_rows > epoch:
            epoch = loader.position // loader.num_rows
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "loader": loader.state_dict(),
            }
            torch.save(state, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)
            print(f"epoch {epoch}: loss {loss.item():.3f}")
    return model.eval()


def otsu(store: hr.SampleStore, size: int) -> float:
    """The brightness that separates the training images' pixels into two classes of least variance (Otsu 1979)."""
    image = hr.ImageTransform(size=size)
    values = np.concatenate(
        [
            np.asarray(b["image"]).mean(axis=3).ravel()
            for b in hr.Loader(store, batch_size=16, epochs=1, image=image)
        ]
    )
    counts = np.bincount(values.astype(int), minlength=256)
    counts = counts / counts.sum()
    low, means = counts.cumsum(), (counts * np.arange(256)).cumsum()
    between = (means[-1] * low - means) ** 2 / np.maximum(low * (1 - low), 1e-9)
    return float(between.argmax())


def interval(matrices: list[np.ndarray]) -> str:
    """Mean IoU of all tiles, and 95 % of it over resampled tiles."""

    def mean_iou(counts: np.ndarray) -> float:
        total = ConfusionMatrix(2)
        total.counts[...] = counts
        return total.mean_iou()

    every, rng = np.stack(matrices), np.random.default_rng(0)
    found = [mean_iou(every[rng.integers(0, len(every), len(every))].sum(axis=0)) for _ in range(RESAMPLES)]
    low, high = np.percentile(found, [2.5, 97.5])
    return f"mean IoU {mean_iou(every.sum(axis=0)):.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", nargs="+", type=Path, required=True)
    parser.add_argument("--test", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("segment"))
    parser.add_argument("--tile", type=int, default=128, help="pixels; a multiple of 4")
    parser.add_argument("--ignore", type=int, default=-1, help="the mask's number that is not counted")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=8)
    options = parser.parse_args()
    training, test = make_stores(options)
    model = train(training, options)

    threshold = otsu(training, options.tile)
    answers = {"background": [], "threshold": [], "U-Net": []}
    request = {
        "program": "segment_images",
        "store": test.fingerprint,
        "epochs": options.epochs,
        "tile": options.tile,
    }
    image = hr.ImageTransform(size=options.tile)
    loader = hr.Loader(test, batch_size=8, epochs=1, shuffle="none", image=image, rank=0, world_size=1)
    with (
        open_sink(options.out / f"predictions-{options.epochs}", request=request) as sink,
        torch.inference_mode(),
    ):
        for batch in loader:
            guess = (model(pixels(batch)) > 0).numpy()
            bright = np.asarray(batch["image"]).mean(axis=3) > threshold
            for row, name in enumerate(batch["name"]):
                for kind, one in (
                    ("background", bright[row] & False),
                    ("threshold", bright[row]),
                    ("U-Net", guess[row]),
                ):
                    matrix = ConfusionMatrix(2)
                    matrix.update(one.astype(int), batch["mask"][row])
                    answers[kind].append(matrix.counts)
                rle = {"size": list(guess[row].shape), "counts": encode_rle(guess[row])}
                sink.put(Prediction(
                    prompt_id=name, sample_index=0, prompt=name, text=json.dumps(rle), token_ids=[],
                    finish_reason="stop",
                ))  # fmt: skip
    print(f"{len(answers['U-Net'])} tiles of {options.tile} x {options.tile}; 95 % confidence")
    for kind, matrices in answers.items():
        print(f"{kind:10} {interval(matrices)}")


if __name__ == "__main__":
    main()
