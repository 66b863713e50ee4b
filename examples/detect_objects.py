"""Images and boxes -> a small detector, its COCO scores beside a grid of boxes, and its boxes; it resumes.

    python examples/detect_objects.py --train forest.xml --test other.xml --tile 320 --out detect
    python examples/detect_objects.py --train coco/train.json --test coco/val.json --out detect

--train and --test are what `headrace ingest --samples` takes with boxes: COCO, Pascal VOC, YOLO, CSV. Large images are
cut into tiles. Each place of a feature map says whether the centre of an object is there, and its edges
(Zhou et al. 2019). Predictions are stored once, in the pixels of the tile.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

import headrace as hr
from headrace.images import CocoEvaluator, decode_rgb, encode_png, read_header
from headrace.sink import open_sink
from headrace.store import (
    Array,
    ClassLabel,
    Image,
    List,
    Value,
    columns_of_rows,
    commit_samples,
    write_sample_shard,
)
from headrace.types import Prediction

STRIDE, MOST = 4, 100


class Detector(nn.Module):
    """[B, 3, H, W] -> logits of centres [B, classes, H / 4, W / 4], and distances to the edges [B, 4, H / 4, W / 4]."""

    def __init__(self, classes: int, width: int = 32) -> None:
        super().__init__()

        def layer(inputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
            conv = nn.Conv2d(inputs, width, 3, stride, padding=dilation, dilation=dilation)
            return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())

        self.body = nn.Sequential(
            nn.BatchNorm2d(3),
            layer(3, 2),
            layer(width, 2),
            *(layer(width, dilation=d) for d in (1, 2, 4, 8, 1)),
        )
        self.centres, self.edges = nn.Conv2d(width, classes, 1), nn.Conv2d(width, 4, 1)
        nn.init.constant_(self.centres.bias, -4.0)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.body(image)
        return self.centres(x), self.edges(x).clamp(max=8).exp() * STRIDE


def make_store(sources: list[Path], out: Path, tile: int) -> hr.SampleStore:
    """The store of tiles; a box belongs to the tiles that hold half of it."""
    if not (out / "manifest.json").exists():
        whole = out.with_name(out.name + "-images")
        hr.ingest(sources, whole, samples=hr.Samples())
        store = hr.SampleStore.open(whole)
        classes = store.features["classes"].feature
        features = {
            "image": Image(), "boxes": List(Array((4,), "float32")), "classes": List(ClassLabel(classes.names)),
            "name": Value("string"),
        }  # fmt: skip
        rows = []
        for row in store:
            pixels = decode_rgb(row["image"], read_header(row["image"]))
            boxes, numbers = row["boxes"].reshape(-1, 4), row["classes"]
            for y in starts(len(pixels), tile):
                for x in starts(pixels.shape[1], tile):
                    part = pixels[y : y + tile, x : x + tile]
                    edges = [x, y, x + part.shape[1], y + part.shape[0]]
                    low, high = np.maximum(boxes[:, :2], edges[:2]), np.minimum(boxes[:, 2:], edges[2:])
                    inside = np.concatenate((low, high), axis=1)
                    sizes, seen = boxes[:, 2:] - boxes[:, :2], np.maximum(inside[:, 2:] - inside[:, :2], 0)
                    kept = seen.prod(1) > sizes.prod(1) / 2
                    rows.append({
                        "image": encode_png(part), "boxes": (inside[kept] - [x, y, x, y]).tolist(),
                        "classes": numbers[kept].tolist(), "name": f"{row['name']}:{x},{y}",
                    })  # fmt: skip
        entry = write_sample_shard(out, "tiles", columns_of_rows(rows, features), features)
        commit_samples(out, [entry], features=features)
    return hr.SampleStore.open(out)


def starts(length: int, tile: int) -> list[int]:
    return sorted({*range(0, max(1, length - tile + 1), tile), max(0, length - tile)})


def pixels(batch: hr.Batch) -> torch.Tensor:
    return batch["image"].permute(0, 3, 1, 2).float() / 255


def loss_of(model: Detector, batch: hr.Batch) -> torch.Tensor:
    """Focal loss of the centres, with less weight near one; L1 of the logarithms of the distances to the edges."""
    centres, edges = model(pixels(batch))
    (boxes, offsets), classes = batch["boxes"], batch["classes"][0]
    image = torch.repeat_interleave(torch.arange(len(offsets) - 1), offsets.diff())
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    x, y = (middle / STRIDE).long().clamp(min=0).T
    x, y = x.clamp(max=centres.shape[3] - 1), y.clamp(max=centres.shape[2] - 1)
    rows, columns = torch.arange(centres.shape[2])[:, None], torch.arange(centres.shape[3])
    wanted = torch.zeros_like(centres)
    for i in range(len(boxes)):
        width, height = ((boxes[i, 2:] - boxes[i, :2]) / STRIDE / 6).clamp(min=0.5)
        near = torch.exp(-(((columns - x[i]) / width) ** 2 + ((rows - y[i]) / height) ** 2) / 2)
        place = wanted[image[i], classes[i]]
        torch.maximum(place, near, out=place)
    p = centres.sigmoid().clamp(1e-4, 1 - 1e-4)
    there = wanted == 1
    focal = torch.where(there, -((1 - p) ** 2) * p.log(), -((1 - wanted) ** 4) * p**2 * (1 - p).log())
    count = max(1, len(boxes))
    own = edges[image, :, y, x].log()
    place = torch.stack((x, y), 1) * STRIDE + STRIDE / 2
    distances = torch.cat((place - boxes[:, :2], boxes[:, 2:] - place), 1).clamp(min=1).log()
    return focal.sum() / count + (own - distances).abs().sum() / count


def detect(model: Detector, image: torch.Tensor) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Boxes, classes and scores of each image: places that are higher than their neighbours, without overlaps."""
    centres, edges = model(image)
    p = centres.sigmoid()
    p = torch.where(nn.functional.max_pool2d(p, 3, 1, 1) == p, p, 0)
    found = []
    for one, sizes in zip(p, edges, strict=True):
        scores, places = one.flatten().topk(min(3 * MOST, one.numel()))
        kind, at = places // one[0].numel(), places % one[0].numel()
        centre = torch.stack((at % one.shape[2], at // one.shape[2]), 1) * STRIDE + STRIDE / 2
        distances = sizes.flatten(1)[:, at].T
        boxes = torch.cat((centre - distances[:, :2], centre + distances[:, 2:]), 1)
        kept = apart(boxes.numpy(), kind.numpy())[:MOST]
        found.append((boxes[kept].numpy(), kind[kept].numpy(), scores[kept].numpy()))
    return found


def apart(boxes: np.ndarray, classes: np.ndarray) -> list[int]:
    """Boxes, best first, that cover no better one of their class by half (non-maximum suppression)."""
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    kept: list[int] = []
    for i in range(len(boxes)):
        low, high = np.maximum(boxes[i, :2], boxes[kept, :2]), np.minimum(boxes[i, 2:], boxes[kept, 2:])
        both = np.maximum(high - low, 0).prod(1)
        if not ((both / (area[i] + area[kept] - both) > 0.5) & (classes[kept] == classes[i])).any():
            kept.append(i)
    return kept


def ragged(
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    offsets = np.cumsum([0, *(len(boxes) for boxes, _, _ in found)])
    columns = dict(zip(("boxes", "classes", "scores"), zip(*found, strict=True), strict=True))
    return {name: (np.concatenate(one), offsets) for name, one in columns.items()}


def grid(training: hr.SampleStore, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes of the median size of training, of the commonest class, side by side: what knows no pixel."""
    boxes = np.concatenate([row["boxes"].reshape(-1, 4) for row in training])
    kind = int(np.bincount(np.concatenate([row["classes"] for row in training])).argmax())
    width, height = np.maximum(np.median(boxes[:, 2:] - boxes[:, :2], axis=0), 2)
    x, y = np.meshgrid(np.arange(0, shape[1] - 1, width), np.arange(0, shape[0] - 1, height))
    found = np.stack((x, y, x + width, y + height), axis=-1).reshape(-1, 4)[:MOST]
    return found.astype(np.float32), np.full(len(found), kind), np.linspace(1, 0.5, len(found))


def scores(batches: list[tuple[dict, dict]]) -> dict[str, float]:
    evaluator = CocoEvaluator()
    for found, truth in batches:
        evaluator.update(found, truth)
    return evaluator.compute()


def train(training: hr.SampleStore, options: argparse.Namespace) -> Detector:
    """Train, from the checkpoint where there is one."""
    torch.manual_seed(1)
    model = Detector(len(training.features["classes"].feature.names))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    image = hr.ImageTransform(
        size=options.tile, crop="random_resized", scale=(0.4, 1.0), flip=0.5, brightness=0.2, contrast=0.2
    )
    loader = hr.Loader(training, batch_size=options.batch_size, seed=1, epochs=options.epochs, image=image)
    checkpoint = options.out / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])
        print(f"continued at position {loader.position:,}")
    epoch = loader.position // loader.num_rows
    for batch in loader if loader.position < options.epochs * loader.num_rows else ():
        loss = loss_of(model, batch)
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
            print(f"epoch {epoch}: loss {loss.item():.3f}", flush=True)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", nargs="+", type=Path, required=True)
    parser.add_argument("--test", nargs="+", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("detect"))
    parser.add_argument("--tile", type=int, default=320, help="pixels; a multiple of 4")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--resamples", type=int, default=200, help="for the interval")
    options = parser.parse_args()
    training, test = (
        make_store(sources, options.out / name, options.tile)
        for name, sources in (("train", options.train), ("test", options.test))
    )
    if training.features["classes"] != test.features["classes"]:
        raise SystemExit("--train and --test have other classes: name them alike, in both")
    model = train(training, options)
    simple = grid(training, (options.tile, options.tile))
    answers: dict[str, list[tuple[dict, dict]]] = {"grid": [], "detector": []}
    request = {
        "program": "detect_objects",
        "store": test.fingerprint,
        "epochs": options.epochs,
        "tile": options.tile,
    }
    everything = hr.ImageTransform(size=options.tile, crop="pad")
    tiles = hr.Loader(test, batch_size=1, epochs=1, shuffle="none", image=everything, rank=0, world_size=1)
    with (
        open_sink(options.out / f"predictions-{options.epochs}", request=request) as sink,
        torch.inference_mode(),
    ):
        for batch in tiles:
            (found,) = detect(model, pixels(batch))
            answers["detector"].append((ragged([found]), batch))
            answers["grid"].append((ragged([simple]), batch))
            values = dict(
                zip(("boxes", "classes", "scores"), (one.round(3).tolist() for one in found), strict=True)
            )
            sink.put(Prediction(
                prompt_id=batch["name"][0], sample_index=0, prompt=batch["name"][0], text=json.dumps(values),
                token_ids=(), finish_reason="stop",
            ))  # fmt: skip
    print(
        f"{len(answers['detector'])} tiles of {options.tile} x {options.tile}; 95 % confidence by resampled tiles"
    )
    rng = np.random.default_rng(0)
    for kind, batches in answers.items():
        again = [
            scores([batches[i] for i in rng.integers(0, len(batches), len(batches))])
            for _ in range(options.resamples)
        ]
        shown = []
        for name, value in scores(batches).items():
            if name in ("AP", "AP50"):
                low, high = np.percentile([one[name] for one in again], [2.5, 97.5])
                shown.append(f"{name} {value:.3f} ({low:.3f} to {high:.3f})")
        print(f"{kind:9} {'   '.join(shown)}")


if __name__ == "__main__":
    main()
