"""Images and labels -> a classifier, its accuracy with an interval, and its predictions; stopped anywhere, it goes on.

    python examples/classify_images.py --train train-images-idx3-ubyte.gz train-labels-idx1-ubyte.gz \
        --test t10k-images-idx3-ubyte.gz t10k-labels-idx1-ubyte.gz --out classify
    python examples/classify_images.py --train photos/train --test photos/test --size 64 --out classify

--train and --test take what `headrace ingest --samples` takes: MNIST's files, a folder per class, tars, Parquet, CSV.
Kill it and run it again: ingest, order, crops and flips continue where they were. The loader's state is one integer.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from torch import nn

import headrace as hr
from headrace.sink import open_sink
from headrace.store import Array
from headrace.types import Prediction


def network(channels: int, classes: int) -> nn.Module:
    """Two convolutions for small images; batch normalisation takes the place of fixed means."""
    return nn.Sequential(
        nn.BatchNorm2d(channels),
        *(nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(7)),
        *(nn.Flatten(), nn.Linear(64 * 49, 128), nn.ReLU(), nn.Linear(128, classes)),
    )


def loader(store: hr.SampleStore, size: int, *, training: bool, batch_size: int, epochs: int) -> hr.Loader:
    """Shuffled, cropped and flipped for training; in the store's order, from the middle, for evaluation."""
    image = None
    if not isinstance(store.features["image"], Array):  # arrays, such as MNIST's, need no decoder
        crop = "random_resized" if training else "center"
        image = hr.ImageTransform(size=size, crop=crop, flip=0.5 if training else 0.0)
    shuffle = "auto" if training else "none"
    return hr.Loader(
        store,
        batch_size=batch_size,
        seed=1,
        epochs=epochs,
        shuffle=shuffle,
        image=image,
        rank=0,
        world_size=1,
    )


def pixels(batch: hr.Batch) -> torch.Tensor:
    """uint8 [B, H, W] or [B, H, W, C] -> float [B, C, H, W]."""
    image = batch["image"]
    return (image[:, None] if image.ndim == 3 else image.permute(0, 3, 1, 2)).float() / 255


def wilson(right: int, count: int) -> tuple[float, float]:
    """The interval of a share with 95 % confidence."""
    z, share = 1.96, right / count
    middle, half = (
        share + z * z / (2 * count),
        z * math.sqrt(share * (1 - share) / count + z * z / (4 * count**2)),
    )
    return (middle - half) / (1 + z * z / count), (middle + half) / (1 + z * z / count)


def report(train: hr.SampleStore, labels: list[int], predicted: list[int]) -> None:
    """Print the accuracy, and that of an answer that sees no image."""
    right = sum(a == b for a, b in zip(labels, predicted, strict=True))
    known = train.gather(np.arange(train.num_rows), ["label"])["label"]
    commonest = int(np.bincount(known).argmax())
    print(f"commonest class of training: accuracy {labels.count(commonest) / len(labels):.4f}")
    low, high = wilson(right, len(labels))
    print(
        f"accuracy {right / len(labels):.4f} ({low:.4f} to {high:.4f} with 95 % confidence), {len(labels):,} images"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", nargs="+", required=True)
    parser.add_argument("--test", nargs="+", required=True)
    parser.add_argument("--out", type=Path, default=Path("classify"))
    parser.add_argument("--size", type=int, default=64, help="of images that are decoded")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--checkpoint-every", type=int, default=100, help="steps")
    options = parser.parse_args()

    stores = []
    for name, sources in (("train", options.train), ("test", options.test)):
        hr.ingest(sources, options.out / name, samples=hr.Samples())
        stores.append(hr.SampleStore.open(options.out / name))
    train, test = stores
    names = train.features["label"].names

    torch.manual_seed(1)
    first = pixels(next(loader(train, options.size, training=False, batch_size=1, epochs=1)))
    model = network(first.shape[1], len(names))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batches = loader(train, options.size, training=True, batch_size=options.batch_size, epochs=options.epochs)
    checkpoint = options.out / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        batches.load_state_dict(saved["loader"])
        print(f"continued at position {batches.position:,}")

    def save() -> None:
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "loader": batches.state_dict(),
        }
        torch.save(state, checkpoint.with_suffix(".tmp"))
        checkpoint.with_suffix(".tmp").replace(checkpoint)

    if batches.position < options.epochs * batches.num_rows:
        for batch in batches:
            loss = nn.functional.cross_entropy(model(pixels(batch)), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if batch.step % options.checkpoint_every == 0:
                save()
                print(f"step {batch.step:,}: loss {loss.item():.3f}")
        save()

    model.eval()
    labels, predicted = [], []
    request = {"program": "classify_images", "store": test.fingerprint, "position": batches.position}
    with (
        open_sink(options.out / f"predictions-{batches.position}", request=request) as sink,
        torch.inference_mode(),
    ):
        for batch in loader(test, options.size, training=False, batch_size=512, epochs=1):
            guess = model(pixels(batch)).argmax(1).tolist()
            labels += batch["label"].tolist()
            predicted += guess
            for row, number in zip(batch.rows.tolist(), guess, strict=True):
                sink.put(
                    Prediction(
                        prompt_id=str(row),
                        sample_index=0,
                        prompt="",
                        text=names[number],
                        token_ids=(),
                        finish_reason="stop",
                    )
                )
    report(train, labels, predicted)


if __name__ == "__main__":
    main()
