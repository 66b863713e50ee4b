"""One contender: a folder of JPEG files or a store -> images a second on one core. Started by images.py."""

from __future__ import annotations

import io
import json
import os
import random
import sys
import time
from pathlib import Path

import numpy as np

SIZE, BATCH = 224, 64


def random_box(width: int, height: int) -> tuple[int, int, int, int]:
    """The part that RandomResizedCrop takes."""
    for _ in range(10):
        area, ratio = (
            width * height * random.uniform(0.08, 1),
            np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3))),
        )
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            x, y = random.randint(0, width - w), random.randint(0, height - h)
            return x, y, x + w, y + h
    return 0, 0, width, height


def with_pillow(data: bytes) -> np.ndarray:
    """Pillow: decode, crop, resize, flip."""
    from PIL import Image

    image = Image.open(io.BytesIO(data)).convert("RGB")
    image = image.crop(random_box(*image.size)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[:, ::-1].copy() if random.random() < 0.5 else pixels


def with_opencv(data: bytes) -> np.ndarray:
    """OpenCV: decode, crop, resize without averaging (INTER_LINEAR), flip."""
    import cv2

    cv2.setNumThreads(0)
    pixels = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    x0, y0, x1, y1 = random_box(pixels.shape[1], pixels.shape[0])
    pixels = cv2.resize(pixels[y0:y1, x0:x1], (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    return cv2.flip(pixels, 1) if random.random() < 0.5 else pixels


def dataloader(folder: Path, transform):
    """Torch's DataLoader in this process: its worker processes would only share the core."""
    import torch

    files = sorted(folder.glob("*.jpg"))

    class Files(torch.utils.data.Dataset):
        def __len__(self):
            return len(files)

        def __getitem__(self, index):
            return torch.from_numpy(transform(files[index].read_bytes()))

    return torch.utils.data.DataLoader(Files(), batch_size=BATCH, shuffle=True)


def webdataset(folder: Path):
    """WebDataset: a tar in this process, shuffled in a buffer, Pillow."""
    import torch
    import webdataset as wds

    data = wds.WebDataset(str(folder.parent / "images.tar"), shardshuffle=False).shuffle(512)
    return torch.utils.data.DataLoader(data.map(lambda row: with_pillow(row["jpg"])), batch_size=BATCH)


def hf_datasets(folder: Path):
    """HF datasets: Parquet with Image, Pillow, in a DataLoader."""
    import datasets
    import torch

    rows = datasets.load_dataset("parquet", data_files=str(folder.parent / "images.parquet"), split="train")
    rows = rows.cast_column("image", datasets.Image(decode=False))

    def transform(batch):
        return {"image": [torch.from_numpy(with_pillow(one["bytes"])) for one in batch["image"]]}

    return (
        b["image"]
        for b in torch.utils.data.DataLoader(rows.with_transform(transform), batch_size=BATCH, shuffle=True)
    )


def spdl(folder: Path):
    """SPDL: its own decoder (FFmpeg), crop and scale in one filter, one thread."""
    import spdl.io

    files = sorted(folder.glob("*.jpg"))
    random.shuffle(files)
    for start in range(0, len(files), BATCH):
        frames = []
        for file in files[start : start + BATCH]:
            x0, y0, x1, y1 = random_box(500, 375)
            flip = ",hflip" if random.random() < 0.5 else ""
            desc = f"crop={x1 - x0}:{y1 - y0}:{x0}:{y0},scale={SIZE}:{SIZE}:flags=bilinear{flip},format=pix_fmts=rgb24"
            frames.append(spdl.io.decode_packets(spdl.io.demux_image(str(file)), filter_desc=desc))
        yield spdl.io.to_numpy(spdl.io.convert_frames(frames))


def headrace(folder: Path):
    """Ours: every row of the store once, in a global shuffle."""
    import headrace as hr

    store = hr.SampleStore.open(folder.parent / "store")
    image = hr.ImageTransform(size=SIZE, crop="random_resized", flip=0.5)
    output = hr.BatchOptions(framework="numpy")
    loader = hr.Loader(
        store, batch_size=BATCH, seed=1, epochs=1, image=image, columns=("image",), output=output
    )
    return (batch["image"] for batch in loader)


def decoder(folder: Path):
    """The ceiling: the decoder alone, into one buffer, files in memory."""
    import simplejpeg

    data = [file.read_bytes() for file in sorted(folder.glob("*.jpg"))]
    buffer = np.empty(500 * 375 * 3, np.uint8)
    for start in range(0, len(data), BATCH):
        yield [simplejpeg.decode_jpeg(one, "RGB", buffer=buffer) for one in data[start : start + BATCH]]


CONTENDERS = {
    "headrace": headrace,
    "decoder alone": decoder,
    "DataLoader + Pillow": lambda folder: dataloader(folder, with_pillow),
    "DataLoader + OpenCV": lambda folder: dataloader(folder, with_opencv),
    "WebDataset": webdataset,
    "HF datasets": hf_datasets,
    "SPDL": spdl,
}


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    os.sched_setaffinity(0, {int(sys.argv[3])})
    times = []
    for _ in range(3):  # the first epoch warms up
        start, cpu, count, shape = time.perf_counter(), time.process_time(), 0, None
        for batch in CONTENDERS[name](folder):
            count += len(batch)
            shape = np.shape(batch)
        times.append((count / (time.perf_counter() - start), count / (time.process_time() - cpu)))
    wall, cpu = max(times[1:])
    print(json.dumps({"images_per_s": wall, "images_per_cpu_s": cpu, "shape": list(shape or ())}))


if __name__ == "__main__":
    main()
