"""COCO's objects become columns, or a reject that says why: coco.py."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pytest
from PIL import Image

import headrace as hr
from headrace.errors import DocumentError
from headrace.images import encode_rle
from headrace.store import verify_samples


def read(out):
    with hr.SampleStore.open(out) as store:
        assert verify_samples(store) == store.nbytes
        return store.features, list(store)


def jpeg():
    sink = io.BytesIO()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(sink, "JPEG")
    return sink.getvalue()


def coco_people(path, **changed):
    """Two people and a crowd in an image of 30 x 20, as polygons, run lengths and compressed ones."""
    (path / "images").mkdir(parents=True)
    (path / "images/a.jpg").write_bytes(jpeg())
    mask = np.zeros((20, 30), np.uint8)
    mask[5:9, 3:12] = 1
    runs = [3 * 20 + 5, *([4, 16] * 8), 4, 17 * 20 + 31]
    segmentations = [
        [[2, 3, 12, 3, 12, 9, 2, 9]],
        {"size": [20, 30], "counts": encode_rle(mask)},
        {"size": [20, 30], "counts": runs},
    ]
    objects = [
        {
            "image_id": 1, "category_id": 1, "bbox": [2, 3, 10, 6], "iscrowd": int(i == 2), "area": 9,
            "segmentation": one, "keypoints": [2, 3, 2, 9, 4, 1, 0, 0, 0],
        }
        for i, one in enumerate(segmentations)
    ]  # fmt: skip
    data = {
        "categories": [{"id": 1, "name": "person", "keypoints": ["nose", "left_eye", "right_eye"]}],
        "images": [{"id": 1, "file_name": "a.jpg", "height": 20, "width": 30}],
        "annotations": objects,
    }
    for name, value in changed.items():
        (data["images"] if name == "height" else objects)[0][name] = value
    (path / "annotations.json").write_text(json.dumps(data))
    return mask


def test_coco_masks_and_keypoints_become_columns(tmp_path):
    mask = coco_people(tmp_path / "in")
    hr.ingest(tmp_path / "in", tmp_path / "out", samples=hr.Samples())
    features, (row,) = read(tmp_path / "out")
    assert list(features)[-2:] == ["masks", "keypoints"]
    assert row["iscrowd"].tolist() == [0, 0, 1]
    assert row["keypoints"].shape == (3, 3, 3)
    assert row["masks"][1] == row["masks"][2] == encode_rle(mask)
    image = hr.ImageTransform(size=(20, 30), flip=1)
    batch = next(hr.Loader(hr.SampleStore.open(tmp_path / "out"), batch_size=1, image=image))
    masks, offsets = map(np.asarray, batch["masks"])
    assert offsets.tolist() == [0, 3]
    assert np.array_equal(masks[1], mask[:, ::-1])
    assert np.flatnonzero(masks[0].any(axis=0)).tolist() == list(range(18, 28))
    assert batch["keypoints"][0][0].tolist() == [[28, 3, 2], [0, 0, 0], [21, 4, 1]]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"height": 30}, "annotation of an image of 30 x 30; as it is shown, it is 30 x 20"),
        ({"segmentation": [[1, 2, 3, 4]]}, "expected 3 or more points"),
        ({"segmentation": {"size": [20, 30], "counts": [600, 1]}}, "run lengths of 601 pixels"),
        ({"segmentation": {"size": [30, 20], "counts": [600]}}, "segmentation of size"),
        ({"keypoints": [1, 2, 2]}, "3 numbers of keypoints, expected 9"),
    ],
)
def test_a_coco_annotation_that_does_not_fit_is_a_reject(tmp_path, changed, said):
    coco_people(tmp_path / "in", **changed)
    with pytest.raises(DocumentError, match=re.escape(said)):
        hr.ingest(tmp_path / "in", tmp_path / "out", samples=hr.Samples(), job=hr.JobOptions(strict=True))
