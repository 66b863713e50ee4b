"""Options, a seed and a position -> which part of an image goes where in the batch; and the pixels there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Doc

from headrace.errors import ConfigError
from headrace.images.decode import ImageHeader, decode_part, decode_rgb
from headrace.images.random import PositionRandom
from headrace.images.resize import resize_into
from headrace.types import Bytes

Crop: TypeAlias = Literal["random_resized", "center", "pad", "none"]
Layout: TypeAlias = Literal["hwc", "chw"]
_TRIES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTransform:
    """What is done to each image; random parts are functions of (seed, position) alone."""

    size: Annotated[int | tuple[int, int], Doc("Height and width in the batch; one number for both.")]
    crop: Annotated[
        Crop,
        Doc(
            "random_resized: a random part of the area, resized (training); center: the middle, in the shape of "
            "the batch; pad: all of it, its shape kept, the rest padded (detection); none: all of it, stretched."
        ),
    ] = "none"
    flip: Annotated[float, Doc("Probability of a horizontal flip.")] = 0.0
    scale: Annotated[tuple[float, float], Doc("Share of the area that random_resized takes.")] = (0.08, 1.0)
    ratio: Annotated[tuple[float, float], Doc("Width over height of what random_resized takes.")] = (
        0.75,
        4 / 3,
    )
    center_share: Annotated[float, Doc("Share of the shorter side that center takes.")] = 0.875
    brightness: Annotated[float, Doc("Brightness is multiplied by 1 - this to 1 + this.")] = 0.0
    contrast: Annotated[float, Doc("Contrast is multiplied by 1 - this to 1 + this.")] = 0.0
    saturation: Annotated[float, Doc("Saturation is multiplied by 1 - this to 1 + this.")] = 0.0
    pad_value: Annotated[int, Doc("Value of padded pixels.")] = 114
    layout: Annotated[Layout, Doc("Order of a batch's axes: hwc [B, H, W, C], or chw.")] = "hwc"
    scaled_decoding: Annotated[
        bool,
        Doc(
            "Decode a JPEG at a half, a quarter or an eighth of its size where the part is that much larger."
        ),
    ] = True

    def __post_init__(self) -> None:
        size: Any = (self.size, self.size) if isinstance(self.size, int) else self.size
        if not isinstance(size, tuple | list) or len(size) != 2 or not all(_is_size(n) for n in size):
            raise ConfigError(f"ImageTransform: size={self.size!r}: expected 1 to 65536, or (height, width)")
        object.__setattr__(self, "size", tuple(size))
        for name, choices in (("crop", Crop), ("layout", Layout)):
            if getattr(self, name) not in get_args(choices):
                raise ConfigError(
                    f"ImageTransform: {name}={getattr(self, name)!r}: use {', '.join(get_args(choices))}"
                )
        for name in ("flip", "brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"ImageTransform: {name}={getattr(self, name)!r}: expected 0 to 1")
        if not 0 < self.center_share <= 1:
            raise ConfigError(
                f"ImageTransform: center_share={self.center_share!r}: expected above 0, up to 1"
            )
        for name, most in (("scale", 1.0), ("ratio", math.inf)):
            pair: Any = getattr(self, name)
            if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= most:
                raise ConfigError(f"ImageTransform: {name}={pair!r}: expected two ascending numbers above 0")
        if not 0 <= self.pad_value <= 255:
            raise ConfigError(f"ImageTransform: pad_value={self.pad_value!r}: expected 0 to 255")

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in the batch."""
        assert isinstance(self.size, tuple)
        return self.size

    @property
    def changes_colour(self) -> bool:
        """Whether pixels change beside their place."""
        return bool(self.brightness or self.contrast or self.saturation)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65_536


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where pixels go: the box [y0, y1) x [x0, x1) of the image to the first rows and columns of its place."""

    y0: int
    x0: int
    y1: int
    x1: int
    height: int
    """Rows and columns of the place that the box fills."""
    width: int
    flip: bool
    """Mirrored from left to right, after all else, in the whole width of the place."""
    place_width: int


def geometry_of(transform: ImageTransform, image: ImageHeader, random: PositionRandom) -> Geometry:
    """Which part of an image goes where; takes its random numbers in a fixed order."""
    height, width = transform.shape
    flip = random.uniform() < transform.flip
    if transform.crop == "random_resized":
        y0, x0, y1, x1 = _random_box(transform, image, random)
        return Geometry(y0, x0, y1, x1, height, width, flip, width)
    if transform.crop == "center":
        share = transform.center_share * min(image.height / height, image.width / width)
        box_height = min(image.height, max(1, round(share * height)))
        box_width = min(image.width, max(1, round(share * width)))
        y0, x0 = (image.height - box_height) // 2, (image.width - box_width) // 2
        return Geometry(y0, x0, y0 + box_height, x0 + box_width, height, width, flip, width)
    if transform.crop == "pad":
        factor = min(height / image.height, width / image.width)
        to = (
            min(height, max(1, round(image.height * factor))),
            min(width, max(1, round(image.width * factor))),
        )
        return Geometry(0, 0, image.height, image.width, *to, flip, width)
    return Geometry(0, 0, image.height, image.width, height, width, flip, width)


def _random_box(
    transform: ImageTransform, image: ImageHeader, random: PositionRandom
) -> tuple[int, int, int, int]:
    """A box of random area and shape inside the image, as torchvision's RandomResizedCrop chooses it."""
    area = image.height * image.width
    low, high = math.log(transform.ratio[0]), math.log(transform.ratio[1])
    for _ in range(_TRIES):
        target = area * random.uniform(*transform.scale)
        ratio = math.exp(random.uniform(low, high))
        width, height = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < width <= image.width and 0 < height <= image.height:
            y0, x0 = random.integer(image.height - height + 1), random.integer(image.width - width + 1)
            return y0, x0, y0 + height, x0 + width
    ratio = min(max(image.width / image.height, transform.ratio[0]), transform.ratio[1])
    width = min(image.width, max(1, round(image.height * ratio)))
    height = min(image.height, max(1, round(image.width / ratio)))
    y0, x0 = (image.height - height) // 2, (image.width - width) // 2
    return y0, x0, y0 + height, x0 + width


def render(
    data: Bytes,
    header: ImageHeader,
    geometry: Geometry,
    transform: ImageTransform,
    random: PositionRandom,
    out: NDArray[np.uint8],
) -> None:
    """Decode an image once, into its place in a batch.

    Args:
        data: the encoded image.
        header: of these bytes.
        geometry: of the same header.
        transform: colours, padding, and whether a JPEG may be decoded smaller.
        random: the numbers after those of the geometry.
        out: uint8 [H, W, 3], contiguous: the place.

    Raises:
        DocumentError: the image is damaged.
    """
    least = _least(header, geometry)
    halves = (header.height + 1) // 2, (header.width + 1) // 2
    if transform.scaled_decoding and least[0] <= halves[0] and least[1] <= halves[1]:
        paste(decode_rgb(data, header, least=least), header, geometry, transform, random, out)
        return
    part = decode_part(data, header, (geometry.y0, geometry.x0, geometry.y1, geometry.x1))
    _place(part, geometry, transform, random, out)


def _least(header: ImageHeader, geometry: Geometry) -> tuple[int, int]:
    """Height and width of an image of which the part is still as large as its place."""
    one = geometry
    return (
        min(header.height, math.ceil(header.height * one.height / (one.y1 - one.y0))),
        min(header.width, math.ceil(header.width * one.width / (one.x1 - one.x0))),
    )


def paste(
    pixels: NDArray[np.uint8],
    header: ImageHeader,
    geometry: Geometry,
    transform: ImageTransform,
    random: PositionRandom,
    out: NDArray[np.uint8],
) -> None:
    """Put decoded pixels into their place; `pixels` may be smaller than the header says. See `render`."""
    one = geometry
    y0, x0, y1, x1 = one.y0, one.x0, one.y1, one.x1
    height, width, _ = pixels.shape
    if (height, width) != (header.height, header.width):
        fy, fx = height / header.height, width / header.width
        y0, x0 = round(y0 * fy), round(x0 * fx)
        y1, x1 = max(y0 + 1, min(height, round(y1 * fy))), max(x0 + 1, min(width, round(x1 * fx)))
    _place(pixels[y0:y1, x0:x1], geometry, transform, random, out)


def _place(
    part: NDArray[np.uint8],
    one: Geometry,
    transform: ImageTransform,
    random: PositionRandom,
    out: NDArray[np.uint8],
) -> None:
    """Resize a part into its place, and change its colours."""
    if (one.height, one.width) == out.shape[:2]:
        resize_into(part, out, flip=one.flip)
    else:
        out[...] = transform.pad_value
        filled = np.empty((one.height, one.width, 3), np.uint8)
        resize_into(part, filled, flip=one.flip)
        left = out.shape[1] - one.width if one.flip else 0
        out[: one.height, left : left + one.width] = filled
    if transform.changes_colour:
        _change_colour(transform, random, out)


def _change_colour(transform: ImageTransform, random: PositionRandom, out: NDArray[np.uint8]) -> None:
    """Brightness, then contrast around the mean grey, then saturation around each pixel's grey."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    brightness, contrast, saturation = (
        random.uniform(1 - share, 1 + share)
        for share in (transform.brightness, transform.contrast, transform.saturation)
    )
    values = np.clip(out.astype(np.float32) * np.float32(brightness), 0, 255)
    mean = np.float32(np.round((values @ weights).mean(dtype=np.float64)))
    values = np.clip(mean + (values - mean) * np.float32(contrast), 0, 255)
    grey = (values @ weights)[:, :, None]
    values = np.clip(grey + (values - grey) * np.float32(saturation), 0, 255)
    out[...] = np.rint(values).astype(np.uint8)
