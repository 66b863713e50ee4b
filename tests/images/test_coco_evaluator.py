"""Ragged boxes and masks get the scores that pycocotools gives to files of them: coco_evaluator.py."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
import torch

from headrace.errors import ConfigError
from headrace.images import (
    CocoEvaluator,
    ImageTransform,
    PositionRandom,
    geometry_of,
    move_boxes,
    restore_boxes,
)
from headrace.images.coco_evaluator import KEYPOINT_METRICS, METRICS
from headrace.images.decode import ImageHeader
from headrace.store import Ragged

pytest.importorskip("pycocotools")


def some_batch(rng, images=6, crowds=True):
    """Objects and noisy detections of them, and some that are wrong."""
    counts = rng.integers(0, 6, images)
    corners = rng.uniform(0, 200, (counts.sum(), 2))
    boxes = np.concatenate((corners, corners + rng.uniform(4, 120, corners.shape)), axis=1).astype(np.float32)
    classes = rng.integers(0, 3, counts.sum())
    offsets = np.concatenate(([0], np.cumsum(counts)))
    noisy = (boxes + rng.normal(0, 5, boxes.shape)).astype(np.float32)
    noisy[:, 2:] = np.maximum(noisy[:, 2:], noisy[:, :2] + 1)
    truth = {"boxes": (boxes, offsets), "classes": (classes, offsets)}
    if crowds:
        truth["iscrowd"] = ((rng.random(len(boxes)) < 0.2).astype(np.uint8), offsets)
    scores = rng.random(len(boxes)).astype(np.float32)
    guessed = np.where(rng.random(len(boxes)) < 0.2, (classes + 1) % 3, classes)
    return {"boxes": (noisy, offsets), "classes": (guessed, offsets), "scores": (scores, offsets)}, truth


def by_files(batches, path):
    """The scores that pycocotools prints for a file of annotations and one of results."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images = 0
    annotations, results = [], []
    for found, truth in batches:
        for columns, to in ((truth, annotations), (found, results)):
            offsets = columns["boxes"][1]
            for image in range(len(offsets) - 1):
                for i in range(offsets[image], offsets[image + 1]):
                    x0, y0, x1, y1 = columns["boxes"][0][i].tolist()
                    one = {"image_id": images + image, "category_id": int(columns["classes"][0][i])}
                    one["bbox"] = [x0, y0, x1 - x0, y1 - y0]
                    if to is results:
                        one["score"] = float(columns["scores"][0][i])
                    else:
                        crowd = int(columns["iscrowd"][0][i]) if "iscrowd" in columns else 0
                        one |= {"area": (x1 - x0) * (y1 - y0), "iscrowd": crowd, "id": len(annotations) + 1}
                    to.append(one)
        images += len(truth["boxes"][1]) - 1
    categories = [{"id": i, "name": str(i)} for i in range(3)]
    data = {
        "images": [{"id": i} for i in range(images)],
        "categories": categories,
        "annotations": annotations,
    }
    (path / "truth.json").write_text(json.dumps(data))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(path / "truth.json")
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(METRICS, evaluation.stats, strict=True))


@pytest.mark.parametrize("crowds", [False, True])
def test_scores_are_those_of_pycocotools_on_files(tmp_path, crowds):
    rng = np.random.default_rng(1)
    batches = [some_batch(rng, crowds=crowds) for _ in range(4)]
    expected = by_files(batches, tmp_path)
    whole, parts = CocoEvaluator(), [CocoEvaluator(), CocoEvaluator()]
    for i, (found, truth) in enumerate(batches):
        whole.update(found, truth)
        tensors = {
            name: tuple(map(torch.from_numpy, map(np.ascontiguousarray, one))) for name, one in found.items()
        }
        parts[i // 2].update(tensors, {name: Ragged(*one) for name, one in truth.items()})
    parts[0].merge(parts[1])
    assert 0.05 < expected["AP"] < 0.95
    assert whole.compute() == pytest.approx(expected)
    assert parts[0].compute() == pytest.approx(expected)


def test_right_masks_score_one_and_shifted_ones_less():
    masks = np.zeros((2, 64, 64), np.uint8)
    masks[0, 4:40, 8:40], masks[1, 30:60, 30:60] = 1, 1
    offsets = np.array([0, 2, 2])
    boxes = np.array([[8, 4, 40, 40], [30, 30, 60, 60]], np.float32)
    truth = {"boxes": (boxes, offsets), "classes": (np.array([0, 1]), offsets), "masks": (masks, offsets)}
    scores = {"scores": (np.array([0.9, 0.8]), offsets)}
    for shift, low, high in ((0, 1, 1), (4, 0.3, 0.8)):
        evaluator = CocoEvaluator("segm")
        moved = (np.roll(masks, shift, axis=2), offsets)
        evaluator.update({**truth, **scores, "masks": moved}, truth)
        assert low - 1e-9 <= evaluator.compute()["AP"] <= high + 1e-9
        assert evaluator.num_images == 2


@pytest.mark.parametrize("sigmas", [None, (0.05, 0.1, 0.2)])
def test_scores_of_keypoints_are_those_of_pycocotools_on_files(tmp_path, sigmas):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng, count = np.random.default_rng(4), 17 if sigmas is None else len(sigmas)
    offsets = np.array([0, 3, 3, 7, 9])
    corners = rng.uniform(0, 100, (9, 1, 2))
    points = corners + rng.uniform(0, 90, (9, count, 2))
    seen = rng.integers(0, 3, (9, count, 1))
    seen[0] = 0  # nothing labelled: neither found nor missed
    keypoints = np.concatenate((points, seen), axis=2)
    found = np.concatenate((points + rng.normal(0, 4, points.shape), np.ones_like(seen)), axis=2)
    boxes = np.concatenate((corners[:, 0], corners[:, 0] + 90), axis=1)
    area, scores, classes = rng.uniform(900, 9000, 9), rng.random(9), np.zeros(9, np.int64)
    evaluator = CocoEvaluator("keypoints", sigmas=sigmas)
    truth = {"boxes": boxes, "classes": classes, "keypoints": keypoints, "area": area}
    given = {"classes": classes, "scores": scores, "keypoints": found}
    evaluator.update(*({name: (one, offsets) for name, one in columns.items()} for columns in (given, truth)))

    images = np.repeat(np.arange(4), np.diff(offsets)).tolist()
    annotations = [
        {
            "id": i + 1,
            "image_id": image,
            "category_id": 0,
            "iscrowd": 0,
            "area": area[i],
            "bbox": [*boxes[i, :2].tolist(), 90.0, 90.0],
            "keypoints": keypoints[i].ravel().tolist(),
            "num_keypoints": int((seen[i] > 0).sum()),
        }
        for i, image in enumerate(images)
    ]
    results = [
        {"image_id": image, "category_id": 0, "score": scores[i], "keypoints": found[i].ravel().tolist()}
        for i, image in enumerate(images)
    ]
    data = {"images": [{"id": i} for i in range(4)], "categories": [{"id": 0}], "annotations": annotations}
    (tmp_path / "truth.json").write_text(json.dumps(data))
    with contextlib.redirect_stdout(io.StringIO()):
        api = COCO(tmp_path / "truth.json")
        evaluation = COCOeval(api, api.loadRes(results), "keypoints")
        if sigmas is not None:
            evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert 0.05 < evaluation.stats[0] < 0.95
    assert evaluator.compute() == pytest.approx(dict(zip(KEYPOINT_METRICS, evaluation.stats, strict=True)))


def test_keypoints_of_another_number_need_sigmas():
    offsets = np.array([0, 1])
    truth = {
        "boxes": np.zeros((1, 4)),
        "classes": np.zeros(1),
        "keypoints": np.zeros((1, 3, 3)),
        "scores": np.ones(1),
    }
    columns = {name: (one, offsets) for name, one in truth.items()}
    with pytest.raises(
        ConfigError, match=r"\[1, 3, 3\], expected \[N, 17, 3\]; other numbers of keypoints need sigmas="
    ):
        CocoEvaluator("keypoints").update(columns, columns)
    with pytest.raises(ConfigError, match="numbers above 0, for 'keypoints'"):
        CocoEvaluator("bbox", sigmas=(0.1,))


def test_what_was_not_found_counts_and_images_without_objects_do_not():
    empty = (np.empty((0, 4), np.float32), np.array([0, 0]))
    none = (np.empty(0), np.array([0, 0]))
    one = {
        "boxes": (np.array([[0, 0, 9, 9.0]]), np.array([0, 1])),
        "classes": (np.array([0]), np.array([0, 1])),
    }
    evaluator = CocoEvaluator()
    evaluator.update({"boxes": empty, "classes": none, "scores": none}, {"boxes": empty, "classes": none})
    assert set(evaluator.compute().values()) == {-1.0}
    evaluator.update({"boxes": empty, "classes": none, "scores": none}, one)
    assert evaluator.compute()["AP"] == 0
    evaluator.update({**one, "scores": (np.array([1.0]), np.array([0, 1]))}, one)
    assert evaluator.compute()["AP50"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"scores": None}, "no scores"),
        ({"boxes": (np.zeros((1, 5)), np.array([0, 1]))}, r"expected \[N, 4\]"),
        ({"boxes": np.zeros((1, 4))}, r"expected \(values, offsets\)"),
        ({"classes": (np.zeros(2), np.array([0, 2]))}, "other offsets"),
        ({"classes": (np.zeros(1), np.array([0, 2]))}, "do not ascend from 0 to 1"),
        (
            {
                "boxes": (np.zeros((0, 4)), np.array([0, 0, 0])),
                "classes": (np.zeros(0), np.array([0, 0, 0])),
                "scores": (np.zeros(0), np.array([0, 0, 0])),
            },
            "detections of 2 images, truth of 1",
        ),
    ],
)
def test_columns_that_do_not_fit_are_named(found, said):
    offsets = np.array([0, 1])
    truth = {"boxes": (np.array([[0, 0, 9, 9.0]]), offsets), "classes": (np.array([0]), offsets)}
    given = {**truth, "scores": (np.array([1.0]), offsets), **found}
    given = {name: one for name, one in given.items() if one is not None}
    with pytest.raises(ConfigError, match=said):
        CocoEvaluator().update(given, truth)
    with pytest.raises(ConfigError, match="no image was added"):
        CocoEvaluator().compute()
    with pytest.raises(ConfigError, match="use 'bbox', 'segm' or 'keypoints'"):
        CocoEvaluator("boxes")


@pytest.mark.parametrize("crop", ["pad", "none", "center", "random_resized"])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_predicted_boxes_go_back_to_where_they_are_in_the_image(crop, flip):
    boxes = np.array([[40, 30, 60, 44], [35, 32, 50, 40]], np.float32)
    transform = ImageTransform(size=(64, 48), crop=crop, flip=flip, scale=(0.8, 1.0))
    geometry = geometry_of(transform, ImageHeader(80, 100, 1, "PNG"), PositionRandom(0, 3))
    moved, kept = move_boxes(boxes, geometry)
    assert kept.all()
    assert np.allclose(restore_boxes(moved, geometry), boxes, atol=1e-3)
