"""Batches of samples: every row once an epoch, the same pixels after a resume, on any number of ranks: sample_rows.py,
sample_columns.py, sample_loader.py.
"""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

import headrace as hr
from headrace.errors import ConfigError, ResumeError, ShardError
from headrace.images import decodes, encode_png
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

FEATURES = {
    "image": Image(),
    "mask": Image(),
    "label": ClassLabel(("a", "b")),
    "boxes": List(Array((4,), "float32")),
    "classes": List(Value("int64")),
    "name": Value("string"),
    "id": Value("uint32"),
}
NUMPY = hr.BatchOptions(framework="numpy")
TRAIN = hr.ImageTransform(size=16, crop="random_resized", flip=0.5, brightness=0.2)


def sample_row(i):
    rng = np.random.default_rng(i)
    pixels = rng.integers(0, 256, (20 + i % 7, 30, 3)).astype(np.uint8)
    sink = io.BytesIO()
    PillowImage.fromarray(pixels).save(sink, "JPEG" if i % 2 else "PNG")
    return {
        "image": sink.getvalue(),
        "mask": encode_png(pixels[:, :, 0] % 3) if i % 5 else b"",
        "label": i % 2,
        "boxes": [[j, j, j + 5, j + 9] for j in range(i % 3)],
        "classes": list(range(i % 3)),
        "name": f"row {i}",
        "id": i,
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("samples")
    rows = [sample_row(i) for i in range(37)]
    entries = [
        write_sample_shard(path, f"s{n}", columns_of_rows(part, FEATURES), FEATURES, block_bytes=6000)
        for n, part in enumerate((rows[:20], rows[20:]))
    ]
    commit_samples(path, entries, features=FEATURES)
    with hr.SampleStore.open(path) as opened:
        yield opened


def loader(store, **options):
    options = {"batch_size": 8, "seed": 3, "epochs": 1, "image": TRAIN, "output": NUMPY, **options}
    return hr.Loader(store, **options)


def pixels_by_place(batches):
    return [
        (int(row), image.tobytes())
        for batch in batches
        for row, image in zip(batch["id"], batch["image"], strict=True)
    ]


def test_every_row_is_read_once_per_epoch_in_an_order_of_its_own(store):
    for shuffle in ("global", "blocks", "none"):
        orders = [
            [int(i) for b in epoch for i in b["id"]]
            for ld in [loader(store, shuffle=shuffle)]
            for epoch in (ld, ld)
        ]
        assert [sorted(order) for order in orders] == [list(range(37))] * 2
        assert (orders[0] != orders[1]) == (shuffle != "none")


def test_a_batch_has_every_column_of_its_rows(store):
    for batch in loader(store, image=hr.ImageTransform(size=(10, 12))):
        ids = batch["id"].tolist()
        assert batch["image"].shape == (len(ids), 10, 12, 3)
        assert batch["image"].dtype == np.uint8
        assert batch["mask"].shape == (len(ids), 10, 12)
        assert batch["label"].tolist() == [i % 2 for i in ids]
        assert batch["name"] == [f"row {i}" for i in ids]
        boxes, offsets = batch["boxes"]
        assert np.diff(offsets).tolist() == [i % 3 for i in ids]
        assert boxes.dtype == np.float32
        assert [bool((batch["mask"][k] == 255).all()) for k in range(len(ids))] == [i % 5 == 0 for i in ids]
        assert (batch.num_rows, batch.rows.tolist()) == (len(ids), ids)


def test_a_resumed_run_and_one_on_other_ranks_see_the_same_pixels(store):
    whole = pixels_by_place(loader(store, epochs=2))
    assert len(whole) == 74
    for world, batch_size in ((1, 5), (3, 8), (2, 9)):
        for stop in (8, 40):
            first = loader(store, epochs=2, batch_size=4)
            while first.position < stop:
                next(first)
            state = first.state_dict()
            ranks = []
            for rank in range(world):
                resumed = loader(store, epochs=2, batch_size=batch_size, rank=rank, world_size=world)
                resumed.load_state_dict(state)
                ranks.append([pixels_by_place([batch]) for batch in resumed])
            steps = {len(batches) for batches in ranks}
            assert len(steps) == 1, "ranks take different numbers of steps"
            together = [one for step in zip(*ranks, strict=True) for part in step for one in part]
            assert together == whole[stop:]


def test_threads_and_codecs_change_no_pixel(store, tmp_path):
    columns = columns_of_rows([sample_row(i) for i in range(37)], FEATURES)
    commit_samples(
        tmp_path, [write_sample_shard(tmp_path, "s0", columns, FEATURES, codec="zstd")], features=FEATURES
    )
    expected = pixels_by_place(loader(store, shuffle="global"))
    for threads in (0, 1, 4):
        options = {"reading": hr.ReadOptions(threads=threads), "shuffle": "global"}
        assert pixels_by_place(loader(store, **options)) == expected
    other = hr.SampleStore.open(tmp_path)
    assert other.fingerprint != store.fingerprint  # other shards
    assert pixels_by_place(loader(other, shuffle="global")) == expected


def test_boxes_go_with_their_pixels_and_classes_with_their_boxes(store):
    crop = hr.ImageTransform(size=16, crop="random_resized", scale=(0.05, 0.2))
    kept = 0
    for batch in loader(store, image=crop, epochs=3):
        boxes, offsets = batch["boxes"]
        classes, class_offsets = batch["classes"]
        assert offsets.tolist() == class_offsets.tolist()
        assert len(boxes) == len(classes) == offsets[-1]
        assert ((boxes >= 0) & (boxes <= 16)).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        kept += len(boxes)
    assert 0 < kept < 3 * sum(i % 3 for i in range(37))


def test_each_image_of_an_epoch_is_decoded_once(store):
    before = decodes.images
    for _ in loader(store):
        pass
    assert decodes.images == before + 37


def test_batches_are_torch_tensors_where_torch_is_installed(store):
    chw = hr.ImageTransform(size=16, layout="chw")
    with loader(store, output=None, image=chw) as opened:
        batch = next(opened)
    assert batch["image"].shape == (8, 3, 16, 16)
    assert batch["image"].is_contiguous()
    assert (batch["image"].dtype, batch["id"].dtype) == (torch.uint8, torch.int64)
    assert all(isinstance(part, torch.Tensor) for part in batch["boxes"])


def test_without_a_transform_images_are_delivered_as_they_are_stored(store):
    batch = next(loader(store, image=None, columns=("id", "image")))
    assert list(batch) == ["id", "image"]
    values, offsets = batch["image"]
    for k, row in enumerate(batch["id"].tolist()):
        assert values[offsets[k] : offsets[k + 1]].tobytes() == sample_row(row)["image"]


def test_images_that_are_arrays_need_no_decoder(tmp_path):
    features = {"image": Array((6, 5), "uint8"), "label": Value("int64")}
    rows = [{"image": np.full((6, 5), i), "label": i} for i in range(10)]
    commit_samples(
        tmp_path,
        [write_sample_shard(tmp_path, "s", columns_of_rows(rows, features), features)],
        features=features,
    )
    plain = next(loader(hr.SampleStore.open(tmp_path), image=None))
    assert [int(image.max()) for image in plain["image"]] == plain["label"].tolist()
    resized = next(loader(hr.SampleStore.open(tmp_path), image=hr.ImageTransform(size=3)))
    assert resized["image"].shape == (8, 3, 3, 3)
    assert resized["image"][:, 1, 1, 2].tolist() == resized["label"].tolist()


def test_a_rank_without_a_row_in_the_last_batch_takes_the_same_steps(store):
    batches = [list(loader(store, batch_size=36, rank=rank, world_size=3)) for rank in range(3)]
    assert [len(one) for one in batches] == [2, 2, 2]
    assert sorted(one[1]["image"].shape[0] for one in batches) == [0, 0, 1]


def test_a_pickled_loader_goes_on_at_its_position(store):
    opened = loader(store)
    next(opened)
    again = pickle.loads(pickle.dumps(opened))
    assert pixels_by_place(again) == pixels_by_place(loader(store))[8:]


def test_another_seed_or_store_is_refused_on_resume(store):
    state = loader(store).state_dict()
    assert len(str(state)) < 256
    with pytest.raises(ResumeError, match="seed"):
        loader(store, seed=4).load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"columns": ("pixels",)}, "no column 'pixels'"),
        ({"columns": ("label",)}, "no column of images"),
        ({"image": 224}, "expected headrace.ImageTransform"),
        ({"batch_size": 0}, "batch_size"),
        ({"shuffle": "all"}, "shuffle="),
        ({"output": hr.BatchOptions(document_ids=True)}, "of tokens"),
        ({"output": hr.BatchOptions(device="cpu")}, "of tokens"),
    ],
)
def test_wrong_options_are_named(store, options, words):
    with pytest.raises(ConfigError, match=words):
        loader(store, **options)


def test_an_image_that_cannot_be_read_is_named_by_its_row(tmp_path):
    features = {"image": Image()}
    good = sample_row(1)["image"]
    rows = [{"image": good}, {"image": good[:100]}]
    commit_samples(
        tmp_path,
        [write_sample_shard(tmp_path, "s", columns_of_rows(rows, features), features)],
        features=features,
    )
    opened = loader(hr.SampleStore.open(tmp_path), batch_size=1, shuffle="none")
    next(opened)
    with pytest.raises(ShardError, match=r"row 1: column 'image'.*image"):
        next(opened)
