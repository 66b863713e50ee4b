"""Segmentations are drawn as COCO draws them, and stay where their pixels are: instance_masks.py, boxes.py."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from headrace.errors import DocumentError
from headrace.images import (
    ImageHeader,
    ImageTransform,
    PositionRandom,
    decode_instance_mask,
    encode_png,
    encode_rle,
    geometry_of,
    mask_of_rle,
    mirrored_keypoints,
    move_keypoints,
    move_mask,
    place_instance_masks,
    read_header,
    render,
    rle_of_segmentation,
)

coco = pytest.importorskip("pycocotools.mask")
CROPS = ("random_resized", "center", "pad", "none")


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    density=st.floats(0, 1),
    seed=st.integers(0, 999),
)
def test_run_lengths_are_those_of_pycocotools(shape, density, seed):
    mask = (np.random.default_rng(seed).random(shape) < density).astype(np.uint8)
    text = coco.encode(np.asfortranarray(mask))["counts"].decode()
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate(([2], mask.T.ravel(), [2])))))
    counts = [int(run) for run in runs] if mask[0, 0] == 0 else [0, *(int(run) for run in runs)]
    assert encode_rle(mask) == encode_rle(mask * 7) == text
    for one in (counts, text, text.encode()):
        assert np.array_equal(mask_of_rle({"size": list(shape), "counts": one}), mask)
    assert rle_of_segmentation({"size": list(shape), "counts": counts}, *shape) == text
    assert np.array_equal(decode_instance_mask(text, *shape), mask)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools' decode
@settings(max_examples=60, deadline=None)
@given(polygons=st.lists(st.lists(st.integers(-20, 80), min_size=6, max_size=6), min_size=1, max_size=3))
def test_polygons_are_drawn_as_pycocotools_draws_them(polygons):
    expected = coco.decode(coco.merge(coco.frPyObjects(polygons, 40, 50)))
    assert np.array_equal(decode_instance_mask(rle_of_segmentation(polygons, 40, 50), 40, 50), expected)


@pytest.mark.parametrize(
    "segmentation",
    [
        [],
        [[]],
        [[1, 2, 3, 4]],
        [[0, 0, 1, 1, 2]],
        [[0, 0, 1, 1, float("nan"), 2]],
        [[0, 0, 1e300, 1, 2, 2]],
        "polygon",
        {"size": [3, 4], "counts": [12]},
        {"size": [4, 3], "counts": [11]},
        {"size": [4, 3], "counts": [-1, 13]},
        {"size": [4, 3], "counts": [2**62, 2**62, 2**62, 2**62, 12]},
        {"size": [4, 3], "counts": None},
        {"size": [4, 3], "counts": ""},
        {"size": [4, 3], "counts": "o"},
        {"size": [4, 3], "counts": "ooooooooooooooo0"},
        {"size": [4, 3], "counts": "é"},
        {"counts": "<"},
    ],
)
def test_a_segmentation_that_is_none_is_an_error(segmentation):
    with pytest.raises(DocumentError, match=r"segmentation|run lengths"):
        rle_of_segmentation(segmentation, 4, 3)


@settings(max_examples=150, deadline=None)
@given(
    crop=st.sampled_from(CROPS),
    position=st.integers(0, 10**12),
    flip=st.sampled_from([0.0, 1.0]),
    size=st.tuples(st.integers(20, 80), st.integers(20, 80)),
    corners=st.lists(st.tuples(st.integers(5, 85), st.integers(5, 55)), min_size=3, max_size=5),
    orientation=st.sampled_from([1, 3, 6, 8]),
)
def test_a_painted_region_stays_where_its_pixels_are(crop, position, flip, size, corners, orientation):
    """An image is painted where a polygon is; both move, and still cover each other but for their edges."""
    counts = rle_of_segmentation([[float(n) for point in corners for n in point]], 60, 90)
    mask = decode_instance_mask(counts, 60, 90)
    stored = Image.fromarray(np.repeat(mask[:, :, None] * 255, 3, axis=2))
    turns = {
        1: None,
        3: Image.Transpose.ROTATE_180,
        6: Image.Transpose.ROTATE_90,
        8: Image.Transpose.ROTATE_270,
    }
    if turns[orientation] is not None:
        stored = stored.transpose(turns[orientation])
    exif, sink = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    stored.save(sink, "JPEG", quality=100, exif=exif)
    header = read_header(sink.getvalue())
    assert (header.height, header.width) == (60, 90)
    transform = ImageTransform(size=size, crop=crop, flip=flip, pad_value=0, scale=(0.3, 1.0))
    random = PositionRandom(5, position)
    geometry, out = geometry_of(transform, header, random), np.empty((*size, 3), np.uint8)
    render(sink.getvalue(), header, geometry, transform, random, out)
    moved = move_mask(mask, geometry, size, pad=0)
    inside = _eroded(moved) if geometry.y1 - geometry.y0 >= 4 else np.zeros_like(moved)
    assert (out[:, :, 0][inside == 1] > 128).all()
    outside = _eroded(1 - moved)
    assert (out[:, :, 0][outside == 1] < 128).all()


def _eroded(mask):
    """Without what is within three pixels of the edge of the region; enlarged pixels are soft."""
    for _ in range(3):
        edge = np.pad(mask, 1, mode="edge")
        mask = np.minimum.reduce(
            [edge[1:-1, 1:-1], edge[:-2, 1:-1], edge[2:, 1:-1], edge[1:-1, :-2], edge[1:-1, 2:]]
        )
    return mask


def test_left_and_right_keypoints_change_places_in_a_mirrored_image():
    names = ["nose", "left_eye", "right_eye", "tail"]
    mirrored = mirrored_keypoints(names)
    points = np.array([[[10, 5, 2], [14, 4, 2], [6, 4, 1], [0, 0, 0]]], np.float32)
    header = read_header(encode_png(np.zeros((20, 40, 3), np.uint8)))
    for flip in (0.0, 1.0):
        transform = ImageTransform(size=(20, 40), flip=flip)
        moved = move_keypoints(points, geometry_of(transform, header, PositionRandom(0, 0)), mirrored)
        expected = [[30, 5, 2], [34, 4, 1], [26, 4, 2], [0, 0, 0]] if flip else points[0].tolist()
        assert moved[0].tolist() == expected


@settings(max_examples=40)
@given(data=st.data())
def test_masks_lie_where_their_pixels_do(target, data):
    """As each mask decoded and moved by itself, for every transform; damage is an error in C as in Python."""
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    random = np.random.default_rng(data.draw(st.integers(0, 999)))
    masks = random.random((3, height, width)) < data.draw(st.sampled_from([0.0, 0.02, 0.5, 1.0]))
    texts = [encode_rle(mask).encode() for mask in masks]
    size = (data.draw(st.integers(1, 30)), data.draw(st.integers(1, 30)))
    transform = ImageTransform(size=size, crop=data.draw(st.sampled_from(CROPS)), flip=0.5)
    header = ImageHeader(height, width, 1, "PNG")
    geometry = geometry_of(transform, header, PositionRandom(0, data.draw(st.integers(0, 99))))
    out = np.zeros((4, *size), np.uint8)
    place_instance_masks([*map(memoryview, texts), memoryview(b"")], height, width, geometry, out)
    expected = [move_mask(mask.astype(np.uint8), geometry, size, pad=0) for mask in masks]
    assert np.array_equal(out, [*expected, np.zeros(size, np.uint8)])
    for damaged in (texts[0] + b"1", texts[0][:-1] + b"~", b"P" * 9, b"o"):
        with pytest.raises(DocumentError, match="run lengths"):
            place_instance_masks([memoryview(damaged)], height, width, geometry, out[:1])
