"""Pixels are functions of seed and position, and boxes stay on their pixels: decode.py, random.py, resize.py,
transform.py, boxes.py, encode.py.
"""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from headrace.errors import ConfigError, DocumentError
from headrace.images import (
    ImageTransform,
    PositionRandom,
    check_image,
    decode_mask,
    decode_rgb,
    decodes,
    encode_png,
    geometry_of,
    move_boxes,
    move_mask,
    move_points,
    read_header,
    render,
)
from headrace.images.resize import resize_into

CROPS = ("random_resized", "center", "pad", "none")


def photo(height=60, width=90):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=2).astype(np.uint8)


def jpeg(pixels, orientation=1, **options):
    sink = io.BytesIO()
    exif = Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(sink, "JPEG", quality=95, exif=exif, **options)
    return sink.getvalue()


def rendered(data, transform, seed=0, position=0):
    header, random = read_header(data), PositionRandom(seed, position)
    out = np.empty((*transform.shape, 3), np.uint8)
    geometry = geometry_of(transform, header, random)
    render(data, header, geometry, transform, random, out)
    return out, geometry


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_in_exif_is_obeyed_as_pillow_obeys_it(orientation):
    data = jpeg(photo(), orientation)
    header = read_header(data)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert (header.height, header.width, header.orientation) == (*expected.shape[:2], orientation)
    assert np.array_equal(decode_rgb(data, header), expected)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "CMYK", "LA", "1"])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_every_mode_is_decoded_to_rgb_as_pillow_does(mode, format):
    image = Image.fromarray(photo()).convert(mode)
    sink = io.BytesIO()
    try:
        image.save(sink, format)
    except OSError:
        pytest.skip(f"{format} has no {mode}")
    data = sink.getvalue()
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    # CMYK is converted by another library, which rounds otherwise.
    assert np.abs(decode_rgb(data, read_header(data)).astype(int) - expected).max() <= (mode == "CMYK")


def test_a_16_bit_image_keeps_its_upper_8_bits():
    data = encode_png(np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16))
    assert decode_rgb(data, read_header(data))[:, :, 0].ravel().tolist() == list(range(256))


@pytest.mark.parametrize(
    "damage",
    [lambda d: d[: len(d) // 2], lambda d: b"", lambda d: b"GIF89a" + d, lambda d: d[:200] + d[700:]],
)
@pytest.mark.parametrize("make", [jpeg, encode_png])
def test_a_damaged_image_is_an_error(make, damage):
    data = make(photo())
    check_image(data)
    with pytest.raises(DocumentError, match=r"image"):
        check_image(damage(data))


def test_each_image_is_decoded_once():
    data, before = jpeg(photo()), decodes.images
    for crop in CROPS:
        rendered(data, ImageTransform(size=32, crop=crop, flip=0.5))
    assert decodes.images == before + 4


def test_a_large_image_is_decoded_smaller_where_the_part_allows_it():
    data = jpeg(photo(800, 1200))
    header = read_header(data)
    assert decode_rgb(data, header, least=(150, 225)).shape == (200, 300, 3)
    assert decode_rgb(data, header, least=(700, 225)).shape == (800, 1200, 3)
    small, _ = rendered(data, ImageTransform(size=96))
    exact, _ = rendered(data, ImageTransform(size=96, scaled_decoding=False))
    assert np.abs(small.astype(int) - exact).mean() < 3


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_resized_pixels_are_pillows_to_the_bit(target, data):
    height, width, to_height, to_width = (data.draw(st.integers(1, 70)) for _ in range(4))
    seed = data.draw(st.integers(0, 1000))
    pixels = np.random.default_rng(seed).integers(0, 256, (height + 9, width + 5, 3)).astype(np.uint8)
    part = pixels[4 : 4 + height, 3 : 3 + width]
    out = np.empty((to_height, to_width, 3), np.uint8)
    resize_into(part, out)
    expected = Image.fromarray(part.copy())
    for size in ((width, to_height), (to_width, to_height)):  # columns, then rows
        expected = expected.resize(size, Image.Resampling.BILINEAR)
    assert np.array_equal(out, np.asarray(expected)), target
    resize_into(part, out, flip=True)
    assert np.array_equal(out[:, ::-1], np.asarray(expected)), target


@pytest.mark.parametrize("crop", CROPS)
def test_pixels_are_a_function_of_seed_and_position(crop):
    data = jpeg(photo())
    transform = ImageTransform(
        size=(40, 30), crop=crop, flip=0.5, brightness=0.4, contrast=0.4, saturation=0.4
    )
    pixels = {(s, p): rendered(data, transform, s, p)[0].tobytes() for s in range(3) for p in range(20)}
    assert all(rendered(data, transform, s, p)[0].tobytes() == value for (s, p), value in pixels.items())
    assert len(set(pixels.values())) > 50


@settings(max_examples=150, deadline=None)
@given(
    crop=st.sampled_from(CROPS),
    position=st.integers(0, 10**12),
    flip=st.sampled_from([0.0, 1.0]),
    size=st.tuples(st.integers(20, 80), st.integers(20, 80)),
    box=st.tuples(st.integers(0, 70), st.integers(0, 40), st.integers(12, 20), st.integers(12, 20)),
)
def test_a_painted_box_stays_where_its_pixels_are(crop, position, flip, size, box):
    """The box is white on black: what is white in the batch is inside of the moved box, and fills it."""
    x, y, width, height = box
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[y : y + height, x : x + width] = 255
    transform = ImageTransform(size=size, crop=crop, flip=flip, pad_value=0, scale=(0.3, 1.0))
    out, geometry = rendered(encode_png(pixels), transform, 3, position)
    (moved,), (kept,) = move_boxes(np.array([[x, y, x + width, y + height]], np.float32), geometry)
    mask = move_mask((pixels[:, :, 0] > 0).astype(np.int32), geometry, size, pad=0)
    white = np.argwhere(out[:, :, 0] > 128)
    if not kept or (moved[2:] - moved[:2]).min() < 2:
        assert len(white) <= 2 * max(size)
        return
    low, high = white.min(axis=0), white.max(axis=0) + 1
    assert np.abs(low - moved[[1, 0]]).max() <= 1.01
    assert np.abs(high - moved[[3, 2]]).max() <= 1.01
    assert (mask != (out[:, :, 0] > 128)).sum() <= 2 * sum(size)
    points = move_points(np.array([[x + width / 2, y + height / 2]]), geometry)
    corners = move_points(np.array([[x, y], [x + width, y + height]]), geometry)
    assert np.allclose(points[0], corners.mean(axis=0), atol=1e-3)


def test_a_random_part_has_the_area_and_shape_that_are_allowed():
    transform = ImageTransform(size=8, crop="random_resized", scale=(0.2, 0.5), ratio=(0.5, 2.0))
    header = read_header(jpeg(photo(200, 300)))
    for position in range(300):
        one = geometry_of(transform, header, PositionRandom(0, position))
        height, width = one.y1 - one.y0, one.x1 - one.x0
        assert 0.19 < height * width / 60_000 < 0.51
        assert 0.48 < width / height < 2.1
        assert 0 <= one.y0 < one.y1 <= 200
        assert 0 <= one.x0 < one.x1 <= 300


def test_a_mask_keeps_its_numbers():
    numbers = np.array([[0, 3], [255, 7]], np.uint8)
    assert decode_mask(encode_png(numbers)).tolist() == numbers.tolist()
    assert decode_mask(encode_png(numbers.astype(np.uint16) * 200)).max() == 51_000
    with pytest.raises(DocumentError, match="one integer a pixel"):
        decode_mask(encode_png(photo()))


@pytest.mark.parametrize(
    "options",
    [
        {"size": 0},
        {"size": (1, 2, 3)},
        {"size": 8, "crop": "middle"},
        {"size": 8, "flip": 2},
        {"size": 8, "scale": (0.5, 2)},
        {"size": 8, "ratio": (2, 1)},
        {"size": 8, "pad_value": 256},
        {"size": 8, "layout": "whc"},
        {"size": 8, "center_share": 0},
    ],
)
def test_options_out_of_range_are_named(options):
    with pytest.raises(ConfigError, match=r"ImageTransform: \w+="):
        ImageTransform(**options)
