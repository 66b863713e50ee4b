"""Intersection over union is that of torchmetrics, and what is to be ignored is not counted: confusion_matrix.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headrace.errors import ConfigError
from headrace.images import ConfusionMatrix


@pytest.mark.parametrize("classes", [2, 5])
def test_iou_is_intersection_over_union_of_each_class(classes):
    rng = np.random.default_rng(classes)
    label = rng.integers(0, classes, (3, 8, 9))
    predicted = np.where(rng.random(label.shape) < 0.3, rng.integers(0, classes, label.shape), label)
    label[0, :4] = 255
    matrix, ranks = ConfusionMatrix(classes), [ConfusionMatrix(classes) for _ in range(3)]
    matrix.update(torch.from_numpy(predicted), torch.from_numpy(label))
    for rank, one, other in zip(ranks, predicted, label, strict=True):
        rank.update(one, other)
    assert np.array_equal(sum(rank.counts for rank in ranks), matrix.counts)
    seen = label != 255
    for number, iou in enumerate(matrix.iou()):
        there, guess = (label == number) & seen, (predicted == number) & seen
        assert iou == pytest.approx((there & guess).sum() / (there | guess).sum())
    assert matrix.mean_iou() == pytest.approx(matrix.iou().mean())
    assert matrix.accuracy() == pytest.approx((predicted == label)[seen].mean())


def test_a_class_that_is_nowhere_is_not_in_the_mean():
    matrix = ConfusionMatrix(3)
    assert np.isnan(matrix.mean_iou())
    assert np.isnan(matrix.accuracy())
    matrix.update(np.array([0, 0, 1]), np.array([0, 0, 1]))
    assert np.isnan(matrix.iou()[2])
    assert matrix.mean_iou() == 1


@pytest.mark.parametrize(
    ("predicted", "label", "said"),
    [
        ([0, 2], [0, 1], "predicted has 0 to 2, expected 0 to 1"),
        ([0, -1], [0, 1], "predicted has -1 to 0"),
        ([0, 1], [0, 7], "label has 0 to 7, expected 0 to 1 or 255"),
        ([0, 1], [0], r"predicted \[2\], labels \[1\]"),
    ],
)
def test_numbers_that_are_no_classes_are_named(predicted, label, said):
    with pytest.raises(ConfigError, match=said):
        ConfusionMatrix(2).update(np.array(predicted), np.array(label))
    with pytest.raises(ConfigError, match="num_classes=0"):
        ConfusionMatrix(0)
